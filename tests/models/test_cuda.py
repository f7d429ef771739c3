"""What only a CUDA device shows; `make gpu-check` runs this module alone, where plugins of pytest may be missing."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from exactness import NEAR_TIE, TOLERANCE, assert_same, exact, pad, recordings, stock_alone
from exactness import speech as real_speech
from running import SHIPPED
from small_models import KINDS, digits_model, small

from pipeline.models.catalog import MODELS
from pipeline.models.forward import ExactForward

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def speech() -> list[torch.Tensor]:
    return real_speech()


@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.0), ("bf16", 0.02), ("fp16", 0.02)])
def test_on_cuda_labels_stay_in_every_precision(speech: list[torch.Tensor], precision: str, share: float) -> None:
    model = digits_model()
    shipped = recordings(sorted((SHIPPED / "digits").glob("*.flac"))[::4])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    forward = ExactForward(copy.deepcopy(model), precision).cuda()
    waveforms, lengths = pad(shipped)
    together = forward(waveforms.cuda(), lengths, [4])
    changed = frames = 0
    for index, waveform in enumerate(shipped):
        with torch.inference_mode():
            emission = model(waveform[None])[0][0]
        got = together.split(together.logits)[index].cpu()
        assert torch.isfinite(got).all()
        if precision == "fp32":
            assert (got - emission).abs().max() <= TOLERANCE
        clear = emission.topk(2).values.diff().abs()[:, 0] > NEAR_TIE
        changed += int(((got.argmax(-1) != emission.argmax(-1)) & clear).sum())
        frames += len(emission)
    assert changed <= share * frames


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_on_cuda_equals_torchaudio_alone_on_the_cpu(name: str, speech: list[torch.Tensor]) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    facts = MODELS[name]
    stock = small(facts)
    alone = stock_alone(stock, speech)
    waveforms, lengths = pad(speech)
    together = exact(stock, facts).cuda()(waveforms.cuda(), lengths, [1, 2, 3])
    logits = None if together.logits is None else together.logits.cpu()
    features = {layer: values.cpu() for layer, values in together.features.items()}
    assert_same(replace(together, logits=logits, features=features), alone)
