"""The writer's threads: what is complete is committed, what fails is said to the caller, nothing is left in staging."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.inference.shard_tables import TableSettings
from pipeline.inference.transcription import Transcribed
from pipeline.inference.writer import QUEUED_BATCHES, ShardWriter
from pipeline.records import Chunk, Emission, Failure
from pipeline.records.transcripts import Transcript, Transcripts
from pipeline.runtime import failpoints
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory

SHARDS = 20
SETTINGS = TableSettings(
    outputs=("transcripts",),
    layers=(),
    feature_dtype="float16",
    emission_dtype="float32",
    num_labels=2,
    dim=2,
    metadata={},
    fingerprint="mark",
)


@pytest.fixture(autouse=True)
def _disarmed_again() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    (run.root / ".staging").mkdir(parents=True)
    return run


def writer_of(
    directory: RunDirectory, committers: int, on_commit: Callable[[CommitRecord], None] = lambda record: None
) -> ShardWriter:
    """Two utterances a shard."""
    rows = [
        {"id": f"u{index}", "path": f"/u{index}.wav", "duration_s": 1.0, "shard": index // 2}
        for index in range(2 * SHARDS)
    ]
    manifest = Manifest(pa.Table.from_pylist(rows, schema=tables.manifest_schema({})), digest="d")
    return ShardWriter(directory, manifest, SETTINGS, on_commit, committers=committers)


def failures(shard: int, *which: int) -> list[Failure]:
    return [Failure(f"u{2 * shard + index}", "/u.wav", "load", "truncated", "why") for index in which]


def staged(directory: RunDirectory) -> list[str]:
    return [path.name for path in (directory.root / ".staging").iterdir()]


@pytest.mark.parametrize("committers", [1, 3])
def test_every_shard_is_committed_and_told_one_at_a_time(directory: RunDirectory, committers: int) -> None:
    told: list[int] = []
    inside = threading.Lock()

    def on_commit(record: CommitRecord) -> None:
        assert inside.acquire(blocking=False), "two at a time"
        time.sleep(0.002)
        told.append(record.shard)
        inside.release()

    writer = writer_of(directory, committers, on_commit)
    for shard in range(SHARDS):
        writer.put(shard, [], None, failures(shard, 0))
    for shard in range(SHARDS):
        writer.put(shard, [], None, failures(shard, 1))
    writer.close()
    assert sorted(told) == list(directory.committed({"mark"})) == list(range(SHARDS))
    assert staged(directory) == []


def test_stopped_it_commits_what_is_complete_and_drops_the_rest(directory: RunDirectory) -> None:
    writer = writer_of(directory, 2)
    for shard in range(SHARDS):
        writer.put(shard, [], None, failures(shard, *([0, 1] if shard % 3 else [0])))
    writer.stop()
    assert list(directory.committed({"mark"})) == [shard for shard in range(SHARDS) if shard % 3]
    assert staged(directory) == []


def test_aborted_it_ends_and_leaves_nothing_in_staging(directory: RunDirectory) -> None:
    writer = writer_of(directory, 2)
    for shard in range(SHARDS):
        writer.put(shard, [], None, failures(shard, *([0, 1] if shard % 3 else [0])))
    writer.abort()
    assert staged(directory) == []
    assert set(directory.committed({"mark"})) <= {shard for shard in range(SHARDS) if shard % 3}


@pytest.mark.parametrize("committers", [1, 3])
@pytest.mark.parametrize("point", ["renaming:5=EIO", "take:5=EIO", "table:5=EIO"])
def test_an_error_on_any_thread_reaches_the_caller_and_ends_the_writer(
    directory: RunDirectory, point: str, committers: int
) -> None:
    failpoints.arm(point)
    writer = writer_of(directory, committers)
    writer.put(19, [], None, failures(19, 0))  # never complete

    def put_all() -> None:
        for shard in [*range(SHARDS - 1), *range(SHARDS - 1)]:
            writer.put(shard, [], None, failures(shard, 0, 1))

    with pytest.raises(OSError, match="Input/output error"):
        put_all()
    with pytest.raises(OSError, match="Input/output error"):
        writer.close()
    writer.abort()
    assert staged(directory) == []
    done = directory.committed({"mark"})
    assert 5 not in done
    assert set(range(5)) <= set(done) or committers > 1


def test_an_error_of_the_last_commit_is_raised_at_the_close(directory: RunDirectory) -> None:
    failpoints.arm("renaming:0=ENOSPC")
    writer = writer_of(directory, 3)
    writer.put(0, [], None, failures(0, 0, 1))
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert staged(directory) == []
    assert directory.committed({"mark"}) == {}


def test_a_commit_that_hangs_holds_the_model_back_and_not_the_memory(directory: RunDirectory) -> None:
    held = threading.Event()
    writer = writer_of(directory, 2, lambda record: held.wait(30) and None)
    handed_over = 0

    def produce() -> None:
        nonlocal handed_over
        for shard in range(SHARDS):
            writer.put(shard, [], None, failures(shard, 0, 1))
            handed_over += 1

    model = threading.Thread(target=produce)
    model.start()
    try:
        while handed_over < 2 + QUEUED_BATCHES:
            time.sleep(0.01)
        time.sleep(0.5)
        # Two that are committed, the one that waits for a committer, and the queue.
        assert handed_over == 2 + 1 + QUEUED_BATCHES
        assert len(staged(directory)) <= 3
    finally:
        held.set()
        model.join(30)
    writer.close()
    assert len(directory.committed({"mark"})) == SHARDS


@pytest.mark.parametrize("audio_digests", [True, False])
def test_same_as_is_ours_in_a_run_with_digests_and_the_datasets_own_in_another(
    directory: RunDirectory, audio_digests: bool
) -> None:
    own = {} if audio_digests else {"same_as": "string", "audio_digest": "string"}
    theirs = dict.fromkeys(own, "theirs")
    rows = [{"id": f"u{row}", "path": "/u.wav", "duration_s": 1.0, "shard": 0, **theirs} for row in range(3)]
    manifest = Manifest(pa.Table.from_pylist(rows, schema=tables.manifest_schema(own)), digest="d")
    writer = ShardWriter(directory, manifest, replace(SETTINGS, audio_digests=audio_digests), lambda record: None)
    for row, digest in ((2, "aa"), (0, "bb"), (1, "aa")):  # batches are sorted by length, and not by row
        transcribed = Transcribed([row], Transcripts.of([Transcript("", "", 0.0, 50, ())]), [16 * digest])
        writer.put(0, [Emission(Chunk(row, 16000), 50, None, {}, None)], transcribed, [])
    writer.close()
    table = directory.table("transcripts", 0).read()
    expected = [None, None, "u1"] if audio_digests else 3 * ["theirs"]
    assert table["same_as"].to_pylist() == expected
    assert table["audio_digest"][1].as_py() == (16 * "aa" if audio_digests else "theirs")
