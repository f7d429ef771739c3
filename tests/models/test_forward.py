"""Batched equals alone equals unmodified torchaudio, over real recordings of different lengths."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from exactness import TOLERANCE, Alone, assert_same, exact, pad, recordings, stock_alone
from exactness import speech as real_speech
from random_models import architecture, build
from running import DATA, ROOT, SHIPPED, environment, server
from small_models import KINDS, digits_model, small

from pipeline.models import digits
from pipeline.models.attention import position_bias
from pipeline.models.catalog import MODELS
from pipeline.models.forward import ExactForward
from pipeline.models.front_end import FrontEnd, normalized


@pytest.fixture(scope="module")
def speech() -> list[torch.Tensor]:
    waveforms = real_speech()
    assert len({len(waveform) for waveform in waveforms}) >= 5
    return waveforms


@cache
def alone_once(name: str) -> tuple[list[torch.Tensor], list[Alone]]:
    """Recordings, and what the small stock model gives for each alone."""
    speech = real_speech()
    waveforms = [*speech, speech[0][:400], torch.zeros(3000), 0.1 + 0.1 * speech[1]]
    return waveforms, stock_alone(small(MODELS[name]), waveforms)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_batched_equals_torchaudio_alone(name: str, together: bool) -> None:
    facts = MODELS[name]
    waveforms, alone = alone_once(name)
    assert_same(exact(small(facts), facts, together=together)(*pad(waveforms), [1, 2, 3]), alone)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_the_same_beside_any_neighbour(name: str, together: bool, speech: list[torch.Tensor]) -> None:
    facts = MODELS[name]
    forward = exact(small(facts, seed=1), facts, together=together)
    alone = forward(*pad(speech[:1]), [2])
    loud = 20 * torch.randn(3 * len(speech[0]), generator=torch.Generator().manual_seed(0))
    beside = forward(*pad([loud, speech[0], torch.zeros(400)]), [2])
    frames = int(alone.num_frames[0])
    assert (beside.split(beside.features[2])[1] - alone.features[2]).abs().max() <= TOLERANCE
    if facts.labels:
        assert (beside.split(beside.logits)[1] - alone.logits).abs().max() <= TOLERANCE
    assert beside.num_frames.tolist()[1:] == [frames, 1]


@pytest.mark.parametrize("name", ["wav2vec2_asr_base_960h", "wav2vec2_asr_large_lv60k_960h"])
def test_stock_torchaudio_batched_does_not_equal_itself_alone(name: str, speech: list[torch.Tensor]) -> None:
    """The check above can fail: it does for the models it is a remedy for."""
    stock = small(MODELS[name])
    waveforms, lengths = pad(speech[:3])
    with torch.inference_mode():
        together, frames = stock(waveforms, lengths)
        alone = [stock(waveform[None])[0][0] for waveform in speech[:3]]
    difference = max(float((together[i, : frames[i]] - emission).abs().max()) for i, emission in enumerate(alone))
    assert difference > 10 * TOLERANCE


def test_stock_torchaudio_refuses_batches_for_wavlm(speech: list[torch.Tensor]) -> None:
    with pytest.raises(AssertionError), torch.inference_mode():
        small(MODELS["wavlm_base"])(*pad(speech[:2]))


def test_log_probabilities_are_those_of_a_distribution(speech: list[torch.Tensor]) -> None:
    facts = MODELS["mms_fa"]
    output = exact(small(facts), facts)(*pad(speech[:2]), [])
    assert output.logits.shape[-1] == len(facts.labels) == 28  # no star
    assert torch.allclose(output.logits.exp().sum(-1), torch.ones(len(output.logits)), atol=1e-5)


def test_digits_model_batched_equals_torchaudio_alone(speech: list[torch.Tensor]) -> None:
    waveforms = recordings(sorted((SHIPPED / "digits").glob("*.flac"))[::4]) + speech[:2]
    stock = digits_model()
    alone = stock_alone(stock, waveforms)
    assert_same(exact(stock)(*pad(waveforms), range(1, 5)), alone)


WAVEFORMS = [
    ("silence", torch.zeros(4000)),
    ("constant", torch.full((4000,), 0.3)),
    ("offset", 0.5 + 1e-3 * torch.randn(4000, generator=torch.Generator().manual_seed(0))),
    ("quiet", 1e-5 * torch.randn(4000, generator=torch.Generator().manual_seed(1))),
    ("loud", 1e4 * torch.randn(4000, generator=torch.Generator().manual_seed(3))),
    ("one frame", torch.randn(400, generator=torch.Generator().manual_seed(2))),
]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("mode", ["group_norm", "layer_norm"])
@pytest.mark.parametrize("waveform", [waveform for _, waveform in WAVEFORMS], ids=[name for name, _ in WAVEFORMS])
def test_the_front_end_equals_torchaudios(mode: str, waveform: torch.Tensor, together: bool) -> None:
    stock = extractor(mode)
    # The reference in float64: torch's own float32 statistics lose digits where the variance is tiny.
    with torch.inference_mode():
        expected, _ = copy.deepcopy(stock).double()(waveform[None].double(), None)
    front_end = FrontEnd(stock.conv_layers, normalize_waveform=False, dtype=torch.float32)
    with torch.inference_mode():
        padded = torch.nn.functional.pad(waveform, (0, 777))[None]
        got, num_frames = front_end(padded, torch.tensor([len(waveform)]), together)
    assert num_frames.tolist() == [expected.shape[1]]
    assert (got - expected[0]).abs().max() <= 1e-3 * max(1.0, float(expected.abs().max()))


def extractor(mode: str) -> Any:
    kind, params = architecture(MODELS["digits"])
    bias = {"extractor_mode": mode, "extractor_conv_bias": mode == "layer_norm"}
    return build(kind, params | bias, seed=3).feature_extractor


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("waveform", [waveform for _, waveform in WAVEFORMS], ids=[name for name, _ in WAVEFORMS])
def test_a_waveform_is_normalised_over_its_own_samples(waveform: torch.Tensor, together: bool) -> None:
    padded = torch.nn.functional.pad(torch.stack([waveform, 3 * waveform]), (0, 500))
    got = normalized(padded, torch.tensor([len(waveform), len(waveform) + 500]), together=together)
    difference = got[0, : len(waveform)] - torch.nn.functional.layer_norm(waveform, waveform.shape)
    # The mean in float32 may differ in its last bit, which the scale of a quiet waveform makes 3e-5.
    assert difference.abs().max() <= (3e-5 if together else 0.0)
    assert not got[0, len(waveform) :].any()


@pytest.mark.parametrize("frames", [1, 2, 49, 700])
def test_wavlms_position_bias_is_torchaudios(frames: int) -> None:
    attention = small(MODELS["wavlm_base"]).encoder.transformer.layers[0].attention
    with torch.inference_mode():
        assert torch.equal(position_bias(attention, frames)[0], attention.compute_bias(frames, frames))


def test_a_front_end_that_is_not_known_is_refused() -> None:
    blocks = extractor("layer_norm").conv_layers
    blocks[0].layer_norm = torch.nn.BatchNorm1d(48)
    with pytest.raises(ValueError, match="convolution 1 has BatchNorm1d"):
        FrontEnd(blocks, normalize_waveform=False, dtype=torch.float32)
    blocks = extractor("group_norm").conv_layers
    blocks[0].layer_norm = torch.nn.GroupNorm(4, 48)
    with pytest.raises(ValueError, match="convolution 1 has GroupNorm"):
        FrontEnd(blocks, normalize_waveform=False, dtype=torch.float32)


def test_working_memory_grows_with_the_square_of_the_frames_for_wavlm_only() -> None:
    for name, grows in (("wavlm_base", True), ("wav2vec2_asr_base_960h", False)):
        forward = exact(small(MODELS[name]))
        assert (forward.working_bytes(1, 3_200_000) > 1.5 * forward.working_bytes(10, 320_000)) == grows


def test_the_catalogue_knows_the_shapes_of_the_shipped_model() -> None:
    facts = MODELS["digits"]
    output = ExactForward(digits.build().eval())(torch.zeros(1, 4000), torch.tensor([4000]), [facts.num_layers])
    assert output.features[facts.num_layers].shape == (facts.num_frames(4000), facts.dim)
    assert output.logits is not None
    assert output.logits.shape[-1] == len(facts.labels)


def test_layers_are_chosen_without_changing_them(speech: list[torch.Tensor]) -> None:
    torch.manual_seed(4)
    forward = ExactForward(digits.build().eval())
    every = forward(*pad(speech[:2]), [1, 2, 3, 4])
    some = forward(*pad(speech[:2]), [3])
    assert list(some.features) == [3]
    assert torch.equal(some.features[3], every.features[3])


@pytest.mark.parametrize("name", ["digits", *KINDS])
@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.1), ("fp16", 0.02)])
def test_half_precision_stays_near(name: str, precision: str, limit: float, speech: list[torch.Tensor]) -> None:
    """On a CPU, where the pipeline refuses it; what half precision does to the numbers is the same on any device."""
    facts = MODELS[name]
    stock = digits_model() if name == "digits" else small(facts)
    speech = [waveform[:20_000] for waveform in speech[:3]]  # half precision has no fast products on most CPUs
    whole = exact(copy.deepcopy(stock), facts)(*pad(speech), [3])
    half = exact(stock, facts, precision)(*pad(speech), [3])
    for expected, got in zip(whole.split(whole.features[3]), half.split(half.features[3]), strict=True):
        assert got.dtype == torch.float32
        assert (got - expected).square().mean().sqrt() <= limit * expected.square().mean().sqrt()


def test_recordings_are_what_soundfile_reads(speech: list[torch.Tensor]) -> None:
    assert all(waveform.dtype == torch.float32 and waveform.abs().max() <= 1 for waveform in speech)
    assert np.median([len(waveform) for waveform in speech]) > 30_000


@pytest.mark.slow
def test_the_script_behind_the_readmes_figure_shows_it(tmp_path: Path) -> None:
    recordings = []
    for source, frames in zip(sorted((DATA / "librivox").glob("*.wav")), (16_000, 9_000), strict=False):
        samples, rate = soundfile.read(source, frames=frames)
        recordings.append(tmp_path / source.name)
        soundfile.write(recordings[-1], samples, rate)
    script = str(ROOT / "scripts" / "bench" / "exactness.py")
    done = server().run(script, [*map(str, recordings)], cwd=tmp_path, env=environment(), timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("this project") == 3
    assert done.stdout.count("stock torchaudio") == 2
    assert done.stdout.count("stock transformers") == 1
