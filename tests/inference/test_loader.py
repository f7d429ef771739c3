"""The loader yields every planned recording or why not; a lost worker costs the recording that lost it."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from memory_eater import eat
from running import DATA, OWN_MOUNTS, assert_accounting, children_of, run_prepared

from pipeline.audio.resampling import resample
from pipeline.audio.waveforms import Extent, WaveformReader, read_waveform
from pipeline.datasets import folder
from pipeline.inference import loader as loaders
from pipeline.inference import recordings
from pipeline.inference.loader import Batch, Loader, Recordings
from pipeline.inference.planning import Chunking, plan_run
from pipeline.models.samples import in_float32
from pipeline.records import Rejected
from pipeline.runtime.errors import RunError
from pipeline.stages.build_manifest import build as build_manifest
from pipeline.storage.manifest import Manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve real digits in shards of a few."""
    root = tmp_path_factory.mktemp("digits")
    for path in sorted((DATA / "fsdd").glob("*_0.wav"))[:12]:
        (root / path.name).symlink_to(path)
    return build_manifest(folder.Dataset(folder.Options(root=str(root))), shard_hours=0.0005)


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
        for row, waveform, length in zip(rows_of(batch), in_float32(batch.waveforms), batch.lengths, strict=True):
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

    monkeypatch.setattr(recordings, "WaveformReader", Broken)


@pytest.fixture
def nobody_is_left() -> Iterator[None]:
    before = children_of(os.getpid())
    yield
    assert children_of(os.getpid()) == before


def lost(manifest: Manifest, batches: list[Batch]) -> dict[str, str]:
    """Errors by id, after a look at the accounts: every recording came or was lost, in the order of the plan."""
    failures = {id_of(manifest, item): item.error for batch in batches for item in batch.rejected}
    found = sorted(row for batch in batches for row in rows_of(batch))
    assert found == [row for row in range(12) if manifest.utterance(row).id not in failures]
    assert [batch.plan.index for batch in batches] == list(range(len(batches)))
    return failures


def crash() -> None:
    faulthandler.disable()  # pytest's, which would fill the page
    ctypes.string_at(0)


@pytest.mark.usefixtures("nobody_is_left")
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "was ended by SIGKILL, twice; the system does that if memory",
        ),
        (crash, "was ended by SIGSEGV, twice; the file may crash its decoder"),
        (lambda: os._exit(3), "ended with code 3, twice"),
    ],
    ids=["SIGKILL", "SIGSEGV", "exit"],
)
def test_a_recording_that_kills_its_worker_is_a_failure_and_the_rest_goes_on(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, how: object, said: str
) -> None:
    monkeypatch.setattr(loaders, "POLL_S", 0.2)
    _break(monkeypatch, "0_lucas_0", how)
    batches = list(load(manifest, workers=2))
    assert lost(manifest, batches) == {"0_lucas_0.wav": "worker_died"}
    [failure] = [item for batch in batches for item in batch.rejected]
    assert (failure.stage, failure.attempts) == ("load", 2)
    assert said in failure.message


@pytest.mark.usefixtures("nobody_is_left")
@pytest.mark.parametrize(
    "how", [lambda: time.sleep(3600), lambda: os.kill(os.getpid(), signal.SIGSTOP)], ids=["sleep", "SIGSTOP"]
)
def test_a_recording_that_hangs_its_worker_is_a_failure_and_the_rest_goes_on(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, how: object
) -> None:
    monkeypatch.setattr(loaders, "POLL_S", 0.1)
    _break(monkeypatch, "0_theo_0", how)
    batches = list(load(manifest, workers=1, timeout_s=0.8))
    assert lost(manifest, batches) == {"0_theo_0.wav": "timeout"}
    [failure] = [item for batch in batches for item in batch.rejected]
    assert "loader.timeout_s" in failure.message


def test_two_recordings_of_a_batch_that_hang_are_two_failures(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "POLL_S", 0.1)
    waited: list[str] = []
    next_batch = loaders._WorkerPool.next_batch

    def watched(pool: loaders._WorkerPool) -> object:
        found = next_batch(pool)
        waited.extend([found.reason] if isinstance(found, loaders._LostWorker) else [])
        return found

    monkeypatch.setattr(loaders._WorkerPool, "next_batch", watched)
    _break(monkeypatch, "_theo_", lambda: time.sleep(3600))
    batches = list(load(manifest, workers=1, timeout_s=0.8, max_samples=10**6))
    failures = lost(manifest, batches)
    assert set(failures.values()) == {"timeout"}
    assert len(failures) == 2
    assert waited == ["timeout"] * 3  # once together, once each


def test_a_batch_of_many_slow_recordings_is_read_once(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "POLL_S", 0.1)

    def slow() -> None:
        with open(tmp_path / "read", "a") as file:
            file.write("x")
        time.sleep(0.15)

    _break(monkeypatch, "", slow)
    batches = list(load(manifest, workers=1, timeout_s=0.8, max_samples=10**6))
    assert lost(manifest, batches) == {}
    assert (tmp_path / "read").read_text() == "x" * 12


@pytest.mark.usefixtures("nobody_is_left")
@pytest.mark.parametrize("how", [eat, lambda: torch.empty(2**44)], ids=["bit by bit", "at once"])
def test_a_recording_that_eats_memory_is_a_failure_and_the_rest_goes_on(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, how: object
) -> None:
    monkeypatch.setattr(loaders, "reading_allowance", lambda: 2**29)
    _break(monkeypatch, "0_theo_0", how)
    batches = list(load(manifest, workers=2))
    assert lost(manifest, batches) == {"0_theo_0.wav": "out_of_memory"}
    [failure] = [item for batch in batches for item in batch.rejected]
    assert "0.5 GiB" in failure.message


def test_memory_that_a_decoder_keeps_is_not_charged_to_the_recording_after_it(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "reading_allowance", lambda: 2**28)
    kept = []
    # A seventh of what is allowed with every recording: nobody's fault alone.
    _break(monkeypatch, "", lambda: kept.append(np.ones(2**28 // 8 // 7)))
    assert lost(manifest, list(load(manifest, workers=1))) == {}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_chunks_of_a_long_recording_are_its_windows(manifest: Manifest, workers: int) -> None:
    chunking = Chunking(max_samples=4_000, context=1, stride=320, receptive_field=400)
    found: dict[int, list[tuple[int, torch.Tensor]]] = {}
    for batch in load(manifest, workers, chunking=chunking):
        assert batch.rejected == ()
        for chunk, waveform, length in zip(batch.chunks, in_float32(batch.waveforms), batch.lengths, strict=True):
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
    batches = list(load(manifest, workers=1, timeout_s=1.2, max_samples=3_000, chunking=chunking))
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
    built = build_manifest(folder.Dataset(folder.Options(root=str(tmp_path))), shard_hours=1)
    [batch] = load(built, workers=0)
    assert batch.chunks == ()
    assert [failure.stage for failure in batch.rejected] == ["manifest"]


GIVEN = ("dataset=folder", f"dataset.root={DATA / 'librivox'}", "model=digits", "outputs=[transcripts]", "run_dir=out")


def run_with_shm(size: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A run that sees a /dev/shm of that size; skips the test where that is not allowed."""
    mount = f"subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size={size}', 'tmpfs', '/dev/shm'], check=True)"
    done = run_prepared(f"{OWN_MOUNTS}\n{mount}", *GIVEN, cwd=cwd)
    if done.returncode == 77:
        pytest.skip("no user namespaces here, so /dev/shm cannot be made small")
    return done


def test_a_run_needs_hardly_any_shared_memory(tmp_path: Path) -> None:
    # A batch of these takes four times as much as there is.
    done = run_with_shm("256k", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_accounting(tmp_path / "out", ["transcripts"])
    assert pq.read_table(tmp_path / "out/failures").num_rows == 0


def test_shared_memory_that_is_full_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = run_with_shm("4k", tmp_path)
    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert said.startswith("error: loader.workers=1: ")
    assert "No space left on device" in said
    assert "/dev/shm" in said


def test_a_run_gets_by_with_few_open_files(tmp_path: Path) -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    done = run_prepared(few, *GIVEN, "loader.workers=2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_accounting(tmp_path / "out", ["transcripts"])
    assert pq.read_table(tmp_path / "out/failures").num_rows == 0


def test_processes_that_cannot_be_started_are_an_error_of_one_line(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", refused)
    with pytest.raises(RunError, match=r"loader\.workers=2: .*Too many open files"):
        list(load(manifest, workers=2))
