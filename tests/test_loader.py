"""The loader yields every planned recording or why not; a lost worker costs the recording that lost it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from running import DATA

from pipeline import loader as loaders
from pipeline import manifest as manifests
from pipeline.datasets import folder
from pipeline.loader import Batch, Loader, Recordings
from pipeline.manifest import Manifest
from pipeline.planning import Chunking, plan_run
from pipeline.records import Rejected
from pipeline.resampling import resample
from pipeline.waveforms import Extent, WaveformReader, read_waveform


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve real digits in shards of a few."""
    root = tmp_path_factory.mktemp("digits")
    for path in sorted((DATA / "fsdd").glob("*_0.wav"))[:12]:
        (root / path.name).symlink_to(path)
    return manifests.build(folder.Dataset(folder.Options(root=str(root))), shard_hours=0.0005)


UNCUT = Chunking(max_samples=10**9, context=0, stride=320, receptive_field=400)


def load(
    manifest: Manifest, workers: int, timeout_s: float = 60, max_samples: int = 30_000, chunking: Chunking = UNCUT
) -> Iterator[Batch]:
    plan = plan_run(
        range(manifest.num_shards), manifest.shard_of_row, manifest.num_samples_at(16_000), max_samples, chunking
    )
    return Loader(Recordings(manifest, 16_000, 400), workers=workers, timeout_s=timeout_s).batches(plan)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_hold_the_resampled_recordings_padded_with_zeros(manifest: Manifest, workers: int) -> None:
    rows = []
    for batch in load(manifest, workers):
        assert batch.waveforms.shape == (len(batch.chunks), int(batch.lengths.max()))
        for row, waveform, length in zip(rows_of(batch), batch.waveforms, batch.lengths, strict=True):
            samples, rate = read_waveform(manifest.utterance(row).path)
            expected = resample(torch.from_numpy(samples), rate, 16_000)
            assert torch.equal(waveform[:length], expected)
            assert not waveform[length:].any()
        rows += rows_of(batch)
    assert sorted(rows) == list(range(12))


def test_batches_come_in_the_order_of_the_plan_across_shards(manifest: Manifest) -> None:
    batches = list(load(manifest, workers=2))
    assert [batch.plan.index for batch in batches] == list(range(len(batches)))
    shards = [batch.plan.shard for batch in batches]
    assert shards == sorted(shards)
    assert len(set(shards)) > 2


def id_of(manifest: Manifest, item: Rejected) -> str:
    return manifest.utterance(item.chunk.row).id


def rows_of(batch: Batch) -> list[int]:
    return [chunk.row for chunk in batch.chunks]


def _break(monkeypatch: pytest.MonkeyPatch, name: str, how: object) -> None:
    """Make reading one recording do something no decoder should; workers are forked and see it."""

    class Broken(WaveformReader):
        def read(self, extent: Extent, window: tuple[int, int | None] = (0, None)) -> tuple[np.ndarray, int]:
            if name in extent.path:
                how()  # type: ignore[operator]
            return super().read(extent, window)

    monkeypatch.setattr(loaders, "WaveformReader", Broken)


def test_a_recording_that_kills_its_worker_is_a_failure_and_the_rest_goes_on(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, "0_lucas_0", lambda: os.kill(os.getpid(), 9))
    batches = list(load(manifest, workers=2))
    failures = [failure for batch in batches for failure in batch.rejected]
    assert [(id_of(manifest, failure), failure.error, failure.stage) for failure in failures] == [
        ("0_lucas_0.wav", "worker_died", "load")
    ]
    assert sorted(row for batch in batches for row in rows_of(batch)) == [
        row for row in range(12) if manifest.utterance(row).id != "0_lucas_0.wav"
    ]
    assert [batch.plan.index for batch in batches] == list(range(len(batches)))


def test_a_recording_that_hangs_its_worker_is_a_failure_and_the_rest_goes_on(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "POLL_S", 0.2)
    _break(monkeypatch, "0_theo_0", lambda: time.sleep(3600))
    batches = list(load(manifest, workers=1, timeout_s=4.0))
    failures = [failure for batch in batches for failure in batch.rejected]
    assert [(id_of(manifest, failure), failure.error) for failure in failures] == [("0_theo_0.wav", "timeout")]
    assert "loader.timeout_s" in failures[0].message
    assert sum(len(batch.chunks) for batch in batches) == 11


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_chunks_of_a_long_recording_are_its_windows(manifest: Manifest, workers: int) -> None:
    chunking = Chunking(max_samples=4_000, context=1, stride=320, receptive_field=400)
    found: dict[int, list[tuple[int, torch.Tensor]]] = {}
    for batch in load(manifest, workers, chunking=chunking):
        assert batch.rejected == ()
        for chunk, waveform, length in zip(batch.chunks, batch.waveforms, batch.lengths, strict=True):
            assert not waveform[length:].any()
            found.setdefault(chunk.row, []).append((chunk.start, waveform[:length]))
    assert max(len(windows) for windows in found.values()) > 2
    for row, windows in found.items():
        samples, rate = read_waveform(manifest.utterance(row).path)
        whole = resample(torch.from_numpy(samples), rate, 16_000)
        for start, window in windows:
            assert (window - whole[start : start + len(window)]).abs().max() <= 1e-6
        assert windows[-1][0] + len(windows[-1][1]) == len(whole)


def test_a_long_recording_that_hangs_its_worker_is_waited_for_once(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "POLL_S", 0.2)
    _break(monkeypatch, "0_theo_0", lambda: time.sleep(3600))
    chunking = Chunking(max_samples=3_000, context=1, stride=320, receptive_field=400)
    batches = list(load(manifest, workers=1, timeout_s=3.0, max_samples=3_000, chunking=chunking))
    lost = [item for batch in batches for item in batch.rejected]
    assert [(id_of(manifest, item), item.error) for item in lost] == [("0_theo_0.wav", "timeout")]
    assert len({chunk.row for batch in batches for chunk in batch.chunks}) == 11
    planned = [chunk for batch in batches for chunk in batch.plan.chunks]
    assert sum(chunk.row == lost[0].chunk.row for chunk in planned) > 2


def test_a_mistake_of_ours_is_not_taken_for_a_bad_file(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake() -> None:
        raise AttributeError("a bug")

    _break(monkeypatch, "0_theo_0", mistake)
    with pytest.raises(AttributeError, match="a bug"):
        list(load(manifest, workers=1))


def test_memory_that_runs_out_while_reading_is_a_failure(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted() -> None:
        raise MemoryError

    _break(monkeypatch, "0_theo_0", exhausted)
    failures = [failure for batch in load(manifest, workers=0) for failure in batch.rejected]
    assert [failure.error for failure in failures] == ["out_of_memory"]


def test_a_batch_of_which_nothing_could_be_read_still_comes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no samples")
    built = manifests.build(folder.Dataset(folder.Options(root=str(tmp_path))), shard_hours=1)
    [batch] = load(built, workers=0)
    assert batch.chunks == ()
    assert [failure.stage for failure in batch.rejected] == ["manifest"]
