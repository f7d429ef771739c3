"""The run directory of a simulated cluster: real commit records of made-up shards, on disk or in memory."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console

from pipeline.inference.job import Job
from pipeline.inference.planning import assign_shards
from pipeline.runtime.progress import RunProgress
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord, CommittedFile, CommittedShard, encode_record
from pipeline.storage.identity import Identity
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import METRICS, RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord


class InMemory(RunDirectory):
    """A run directory whose commit records are in memory, because writing them takes most of the time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.records: dict[int, CommitRecord] = {}

    def commits(self, shards: Iterable[int] | None = None) -> dict[int, CommittedShard]:
        asked = self.records if shards is None else (shard for shard in shards if shard in self.records)
        return {shard: CommittedShard((self.records[shard],)) for shard in asked}


class Store:
    """A run directory with real commit records. The tables are files of ten bytes, because nobody reads them."""

    def __init__(self, folder: Path, durations_s: np.ndarray, shard_hours: float, on_disk: bool = True) -> None:
        shards = assign_shards(durations_s, shard_hours)
        self.directory = RunDirectory(folder) if on_disk else InMemory(folder)
        self.manifest = Manifest(pa.table({"shard": shards, "duration_s": durations_s}), "made up")
        self._identity = Identity(
            tables.SCHEMA_VERSION, "made up", "made_up", "none", "bf16", ("transcripts",), "mix", 60.0, 4.0, "2", "2",
            decoder="greedy",
        )  # fmt: skip
        self.directory.write(RUN_JSON, RunRecord(self._identity, None, None, {}, "cuda", "now").encode())
        for table in ("transcripts", "failures"):
            self.directory.locate(table).mkdir(exist_ok=True)

    def commit(self, shard: int) -> CommitRecord:
        """Write the files of a shard and its record, as a worker does."""
        rows, in_memory = len(self.manifest.rows_of_shard(shard)), isinstance(self.directory, InMemory)
        files = {}
        for table in ("transcripts", "failures"):
            stored = self.directory.table(table, shard)
            files[table] = CommittedFile(stored.name, 10, "0" * 64, rows)
            if not in_memory:
                self.directory.locate(stored.name).write_bytes(b"made up...")
        counts = {"empty_transcripts": 0, "word_errors": 0, "reference_words": 0}
        now = "2026-01-01T00:00:00+00:00"
        record = CommitRecord(shard, self._identity.fingerprint, files, rows, 3600.0, {"truncated": 1}, counts, now)
        if isinstance(self.directory, InMemory):
            self.directory.records[shard] = record
        else:
            self.directory.write(self.directory.commit_name(shard), encode_record(record))
        return record

    def job(self) -> Job:
        """What is left to do: all shards but those that have a record."""
        done = self.directory.commits()
        pending = {shard: 0 for shard in range(self.manifest.num_shards) if shard not in done}
        nothing = np.zeros(len(self.manifest), bool)
        return Job(
            self.directory, self.manifest, None, None, pending, nothing, 0, {}, ("cuda",), None, None, None, 120.0, None
        )  # type: ignore[arg-type] # fmt: skip


def quiet_progress(job: Job, names: list[str]) -> RunProgress:
    """The progress of a run, which writes its metrics and shows nothing."""
    return RunProgress(
        Console(file=io.StringIO()), job.directory.local_log(METRICS), total_s=job.audio_s, done_s=job.done_s,
        total_shards=job.manifest.num_shards, done_shards=job.manifest.num_shards - len(job.pending), workers=names,
    )  # fmt: skip
