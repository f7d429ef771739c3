"""What only a CUDA device shows; `make gpu-check` runs this module alone, where plugins of pytest may be missing."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from exactness import NEAR_TIE, TOLERANCE, assert_same, exact, pad, recordings, stock_alone
from exactness import speech as real_speech
from running import SHIPPED
from small_models import KINDS, digits_model, small

from pipeline.models.catalog import MODELS
from pipeline.models.engine import Engine, EngineSettings
from pipeline.models.forward import ExactForward
from pipeline.models.transfer import Streams
from pipeline.records import Chunk

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FUSED = ("wav2vec2_asr_base_960h", "hubert_asr_large")
"""A kind for each of the ways in which the kernels of `fused.py` are used; each takes seconds to be compiled."""


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


@pytest.mark.parametrize(("name", "fused"), [*((name, False) for name in KINDS), *((name, True) for name in FUSED)])
def test_each_kind_on_cuda_equals_torchaudio_alone_on_the_cpu(
    name: str, fused: bool, speech: list[torch.Tensor]
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    facts = MODELS[name]
    stock = small(facts)
    alone = stock_alone(stock, speech)
    waveforms, lengths = pad(speech)
    together = exact(stock, facts, fused=fused, pack=False).cuda()(waveforms.cuda(), lengths, [1, 2, 3])
    logits = None if together.logits is None else together.logits.cpu()
    features = {layer: values.cpu() for layer, values in together.features.items()}
    assert_same(replace(together, logits=logits, features=features), alone)


@pytest.mark.parametrize(
    ("name", "precision", "fused"),
    [
        *((name, precision, False) for name in ("digits", *KINDS) for precision in ("fp32", "bf16")),
        *((name, "bf16", True) for name in FUSED),
    ],
)
def test_on_cuda_the_host_never_waits_while_it_starts_batches(
    name: str, precision: str, fused: bool, speech: list[torch.Tensor]
) -> None:
    model = digits_model() if name == "digits" else small(MODELS[name])
    settings = EngineSettings(layers=(1, 3), feature_dtype="float16", logits=True, fused=fused)
    engine = Engine(MODELS[name], getattr(model, "model", model), torch.device("cuda"), precision, settings)
    waveforms, lengths = pad(sorted(speech, key=len, reverse=True))
    waveforms = (waveforms * 2**15).round().to(torch.int16)  # as a loading process gives it
    chunks = [Chunk(row, int(length)) for row, length in enumerate(lengths)]
    batch = chunks, waveforms.pin_memory(), lengths
    expected, rejected = engine.start(*batch).result().results()  # the first batch loads kernels, and may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        started = [engine.start(*batch).result() for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not rejected
    for each in started:
        emissions, rejected = each.results()
        assert not rejected
        for emission, first in zip(emissions, expected, strict=True):
            assert (emission.logits is None) == (first.logits is None)
            if emission.logits is not None and first.logits is not None:
                assert np.allclose(emission.logits, first.logits, rtol=0, atol=0.05)  # bf16 has three digits
            assert emission.features.keys() == {1, 3}
            assert all(np.isfinite(values).all() for values in emission.features.values())


def test_on_cuda_results_are_copied_to_pinned_memory() -> None:
    """Otherwise the copies would not overlap with the next batch."""
    streams = Streams(torch.device("cuda"))
    values = torch.arange(1000.0, device="cuda")
    hosted, copied = streams.to_host([values])
    assert copied is not None
    copied.synchronize()
    assert hosted[0].is_pinned()
    assert torch.equal(hosted[0], torch.arange(1000.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_on_cuda_a_batch_is_copied_to_the_device_beside_a_computation(dtype: torch.dtype) -> None:
    streams = Streams(torch.device("cuda"))
    scale = 2**15 if dtype == torch.int16 else 1
    given = [torch.full((1 << 20,), scale * number / 32).to(dtype).pin_memory() for number in range(20)]
    sums = [streams.to_device(waveforms).double().sum() for waveforms in given]
    assert [float(value) for value in sums] == [number / 32 * float(1 << 20) for number in range(20)]
