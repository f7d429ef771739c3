"""What the engine does when memory runs out or numbers do."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_cuda import gpus
from running import DATA

from pipeline.audio.digests import joined_digest
from pipeline.audio.resampling import resample
from pipeline.audio.waveforms import read_waveform
from pipeline.decoding import greedy
from pipeline.inference.stitching import Stitcher
from pipeline.inference.transcription import joined
from pipeline.models import device as devices
from pipeline.models import digits
from pipeline.models.catalog import MODELS
from pipeline.models.device import resolve_device, resolve_devices, resolve_precision
from pipeline.models.engine import Engine, EngineSettings
from pipeline.models.forward import ModelOutput
from pipeline.models.sources import load_model, named
from pipeline.records import Chunk
from pipeline.runtime import cores, memory
from pipeline.runtime.errors import UserError

SETTINGS = EngineSettings(layers=(2, 4), feature_dtype="float16", logits=True)


@pytest.fixture
def engine() -> Engine:
    torch.manual_seed(0)
    return Engine(MODELS["digits"], digits.build().eval(), torch.device("cpu"), "fp32", SETTINGS)


@pytest.fixture
def batch() -> tuple[list[Chunk], torch.Tensor, torch.Tensor]:
    """Five utterances of different lengths, longest first, as the planner gives them."""
    lengths = torch.tensor([9000, 7000, 5000, 3000, 1000])
    noise = 0.1 * torch.randn(5, 9000, generator=torch.Generator().manual_seed(1))
    waveforms = noise * (torch.arange(9000) < lengths[:, None])
    return [Chunk(row, int(length)) for row, length in zip(range(10, 15), lengths, strict=True)], waveforms, lengths


def test_16_bit_samples_give_what_their_floats_give(
    engine: Engine, batch: tuple[list[Chunk], torch.Tensor, torch.Tensor]
) -> None:
    chunks, waveforms, lengths = batch
    integers = (waveforms * 2**15).round().to(torch.int16)
    emissions, _ = engine.run(chunks, integers, lengths)
    expected, _ = engine.run(chunks, integers.float() / 2**15, lengths)
    for emission, other in zip(emissions, expected, strict=True):
        assert emission.logits is not None
        assert np.array_equal(emission.logits, other.logits)
        assert all(np.array_equal(emission.features[layer], other.features[layer]) for layer in (2, 4))


def with_memory_for(engine: Engine, monkeypatch: pytest.MonkeyPatch, padded_samples: int) -> list[int]:
    """Let the forward raise beyond a number of padded samples; the sizes tried are noted."""
    tried: list[int] = []
    forward = engine._forward

    def limited(waveforms: torch.Tensor, *rest: object) -> ModelOutput:
        tried.append(waveforms.numel())
        if waveforms.numel() > padded_samples:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: ModelOutput = forward(waveforms, *rest)
        return result

    monkeypatch.setattr(engine, "_forward", limited)
    return tried


def test_a_batch_that_does_not_fit_is_split_and_gives_the_same_answers(
    engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = engine.run(*batch)
    tried = with_memory_for(engine, monkeypatch, 20_000)
    pieces, rejected = engine.run(*batch)
    assert rejected == []
    assert [emission.chunk.row for emission in pieces] == [10, 11, 12, 13, 14]
    assert max(tried) > 20_000
    for left, right in zip(whole, pieces, strict=True):
        assert left.num_frames == right.num_frames
        assert np.abs(left.logits - right.logits).max() <= 1e-4
        assert np.array_equal(left.path.labels, right.path.labels)


def test_the_size_that_fits_is_remembered(engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = with_memory_for(engine, monkeypatch, 20_000)
    engine.run(*batch)
    first = len(tried)
    engine.run(*batch)
    assert max(tried[first:]) <= max(20_000, min(size for size in tried[:first] if size > 20_000) - 1)
    assert 45_000 not in tried[first:]


def test_only_an_utterance_that_does_not_fit_alone_is_rejected(
    engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory_for(engine, monkeypatch, 8_000)
    emissions, rejected = engine.run(*batch)
    assert [(item.chunk.row, item.error) for item in rejected] == [(10, "out_of_memory")]
    assert "9000 samples" in rejected[0].message
    assert [emission.chunk.row for emission in emissions] == [11, 12, 13, 14]


def test_on_a_cpu_memory_is_asked_for_before_it_is_taken(
    engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: (1_000_000, 1_000_000))
    emissions, rejected = engine.run(*batch)
    assert {item.error for item in rejected} == {"out_of_memory"}
    assert len(emissions) + len(rejected) == 5
    assert emissions  # the short ones still fit


def test_an_utterance_alone_is_tried_even_where_memory_looks_short(
    engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: (0, 2**40))
    emissions, rejected = engine.run(*batch)
    assert len(emissions) == 5
    assert rejected == []


@pytest.mark.parametrize(("free", "together"), [(1.5, 1), (2.5, 2), (9.0, 3)])
def test_batches_that_would_not_fit_together_are_computed_one_after_another(
    batch: tuple, monkeypatch: pytest.MonkeyPatch, free: float, together: int
) -> None:
    engine = Engine(MODELS["digits"], digits.build().eval(), torch.device("cpu"), "fp32", SETTINGS, threads=3)
    size = engine._working_bytes(5, 9000)
    monkeypatch.setattr(memory, "available_memory", lambda: (free * size, 2**40))
    forward, running, most = engine._forward, [], []

    def counted(*given: object) -> ModelOutput:
        running.append(given)
        most.append(len(running))
        time.sleep(0.05)  # long enough for the others to begin
        output: ModelOutput = forward(*given)
        running.pop()
        return output

    monkeypatch.setattr(engine, "_forward", counted)
    for each in [engine.start(*batch) for _ in range(6)]:
        assert len(each.result().results()[0]) == 5
    engine.close()
    assert max(most) == together


def test_every_core_computes_with_one_thread_whatever_the_environment_says(engine: Engine, batch: tuple) -> None:
    torch.set_num_threads(4)
    engine = Engine(MODELS["digits"], digits.build().eval(), torch.device("cpu"), "fp32", SETTINGS, threads=2)
    assert engine._pool is not None
    assert torch.get_num_threads() == 1
    assert {each.result() for each in [engine._pool.submit(torch.get_num_threads) for _ in range(8)]} == {1}
    engine.close()


def test_an_error_that_is_not_about_memory_is_not_swallowed(
    engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> ModelOutput:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engine, "_forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        engine.run(*batch)


def long_batch(seconds: float) -> tuple[list[Chunk], torch.Tensor, torch.Tensor]:
    """One utterance of digits spoken one after another, at the model's rate."""
    rate = MODELS["digits"].sample_rate
    samples = [read_waveform(str(path))[0] for path in sorted((DATA / "fsdd").glob("*.wav"))]
    source = resample(torch.from_numpy(np.concatenate(samples)), 8000, rate)
    waveform = source.repeat(1 + int(seconds * rate / len(source)))[: int(seconds * rate)]
    chunk = Chunk(7, len(waveform), audio_digest=bytes(range(16)))
    return [chunk], waveform[None], torch.tensor([len(waveform)])


@pytest.fixture
def trained() -> Engine:
    return Engine(MODELS["digits"], load_model(named("digits"))[0], torch.device("cpu"), "fp32", SETTINGS)


@pytest.mark.parametrize("fits_s", [15.0, 9.0])
def test_an_utterance_that_does_not_fit_alone_is_run_in_halves_that_read_the_same(
    trained: Engine, monkeypatch: pytest.MonkeyPatch, fits_s: float
) -> None:
    batch = long_batch(20.0)
    (whole,), _ = trained.run(*batch)
    tried = with_memory_for(trained, monkeypatch, int(fits_s * MODELS["digits"].sample_rate))
    started = trained.start(*batch).result()
    halves, rejected = started.results()
    assert rejected == []
    assert started.cut == [7]
    assert len(tried) == (3 if fits_s > 10 else 7)
    pieces, failures = Stitcher().take(halves, [])
    assert failures == []
    assert [half.chunk.last for half in halves] == [False] * (len(halves) - 1) + [True]
    assert joined_digest(piece.chunk.audio_digest for piece in pieces) == batch[0][0].audio_digest.hex()
    assert sum(piece.num_frames for piece in pieces) == whole.num_frames
    assert sum(len(piece.logits) for piece in pieces) == len(whole.logits)
    for layer in SETTINGS.layers:
        assert sum(len(piece.features[layer]) for piece in pieces) == len(whole.features[layer])
    facts = MODELS["digits"]
    decoder = greedy.Decoder(greedy.Options(), facts.ctc_labels, facts.seconds_per_frame)
    expected, got = decoder([joined([whole], 0.0), joined(pieces, 0.0)])
    assert got.num_frames == expected.num_frames
    assert len(expected.text.split()) > 20
    assert got.text == expected.text


def test_what_does_not_fit_even_when_cut_is_one_failure(trained: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks, waveforms, lengths = long_batch(20.0)
    with_memory_for(trained, monkeypatch, 1000)
    emissions, rejected = trained.run(chunks, waveforms, lengths)
    assert emissions == []
    assert [(item.chunk, item.error) for item in rejected] == [(chunks[0], "out_of_memory")]
    assert "as short as it may be cut" in rejected[0].message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_reject_the_utterance_they_belong_to(
    engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    forward = engine._forward

    def spoilt(*given: object) -> ModelOutput:
        output: ModelOutput = forward(*given)
        output.split(output.logits)[1][3, 5] = value
        output.split(output.features[4])[3][0, 0] = value
        return output

    monkeypatch.setattr(engine, "_forward", spoilt)
    emissions, rejected = engine.run(*batch)
    assert [(item.chunk.row, item.error) for item in rejected] == [(11, "non_finite"), (13, "non_finite")]
    assert all("precision=fp32" in item.message for item in rejected)
    assert [emission.chunk.row for emission in emissions] == [10, 12, 14]


@pytest.mark.parametrize(("precision", "remedy"), [("fp16", "precision=bf16 or fp32"), ("bf16", "precision=fp32")])
def test_values_that_are_not_finite_in_half_precision_name_it_as_the_cause(precision: str, remedy: str) -> None:
    engine = Engine(MODELS["digits"], digits.build().eval(), torch.device("cpu"), precision, SETTINGS)
    assert f"precision={precision} is the likely cause; try {remedy}" in engine._wanted.non_finite


def test_a_feature_that_float16_cannot_hold_rejects_the_utterance_and_names_the_remedy(
    engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = engine._forward

    def large(*given: object) -> ModelOutput:
        output: ModelOutput = forward(*given)
        output.split(output.features[2])[2][1, 7] = 70_000.0
        return output

    monkeypatch.setattr(engine, "_forward", large)
    _, rejected = engine.run(*batch)
    assert [(item.chunk.row, item.error) for item in rejected] == [(12, "non_finite")]
    assert "features.dtype=float32" in rejected[0].message
    engine._wanted = replace(engine._wanted, feature_dtype="float32")
    emissions, rejected = engine.run(*batch)
    assert rejected == []
    assert emissions[2].features[2][1, 7] == 70_000.0


def test_an_emission_that_float16_cannot_hold_rejects_the_utterance_and_names_the_remedy(
    engine: Engine, batch: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = engine._forward

    def large(*given: object) -> ModelOutput:
        output: ModelOutput = forward(*given)
        assert output.logits is not None
        output.split(output.logits)[2][1, 7] = -70_000.0
        return output

    monkeypatch.setattr(engine, "_forward", large)
    assert engine.run(*batch)[1] == []
    engine._wanted = replace(engine._wanted, emission_dtype="float16")
    _, rejected = engine.run(*batch)
    assert [(item.chunk.row, item.error) for item in rejected] == [(12, "non_finite")]
    assert rejected[0].message == "the emission has values too large for float16; set emissions.dtype=float32"


def test_nothing_in_gives_nothing_out(engine: Engine) -> None:
    assert engine.run([], torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)) == ([], [])


@pytest.mark.parametrize(
    ("flags", "has"), [("fma avx2", False), ("avx2 avx512f avx512_bf16", True), ("avx512f amx_bf16 amx_tile", True)]
)
def test_bf16_on_a_cpu_needs_its_instructions(
    flags: str, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert cores.has_bf16(tmp_path / "cpuinfo") == has
    monkeypatch.setattr(devices, "has_bf16", lambda: has)
    if has:
        assert resolve_precision("bf16", torch.device("cpu")) == "bf16"
    else:
        with pytest.raises(UserError, match="precision=bf16: needs CUDA, or a CPU with AVX-512 BF16 or AMX"):
            resolve_precision("bf16", torch.device("cpu"))


def test_auto_and_cuda_stand_for_every_gpu_and_a_number_for_one() -> None:
    def named(name: str) -> list[str]:
        return [str(device) for device in resolve_devices(name)]

    with gpus(3):
        assert named("auto") == named("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
        assert (named("cuda:1"), named("cpu")) == (["cuda:1"], ["cpu"])
        with pytest.raises(UserError, match="device=cuda:3: torch sees 3 CUDA devices"):
            named("cuda:3")
    with gpus(1):
        assert named("auto") == named("cuda") == ["cuda"]
    with gpus(0):
        assert named("auto") == ["cpu"]
        with pytest.raises(UserError, match="device=cuda: torch sees 0"):
            named("cuda")


def test_loading_processes_and_committing_threads_suit_the_cores() -> None:
    cuda = torch.device("cuda:0")
    assert (devices.default_workers(cuda, 32), devices.default_workers(cuda, 8)) == (12, 6)
    assert (devices.default_committers(cuda, 32), devices.default_committers(cuda, 4)) == (8, 1)
    assert (devices.default_workers(torch.device("cpu"), 1), devices.default_committers(cuda, 1)) == (1, 1)


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="device=cuda:99: torch sees"):
        resolve_device("cuda:99")
    with pytest.raises(UserError, match="precision=fp16: needs CUDA"):
        resolve_precision("fp16", torch.device("cpu"))
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    assert resolve_precision("auto", torch.device("cuda")) == "bf16"
