"""Where bytes go: staging, fsync, rename, commit records. A shard is complete across its tables or not done.

Order of a commit: every table is written under `.staging/` (same file system, never inside a table's folder,
because DuckDB and Polars read dot-files there), synced, renamed into place, the folders synced; the commit
record goes the same way, last. A kill at any instruction leaves whole files or none under the public names.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import UserError, naming
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import (
    CommitRecord,
    CommittedFile,
    check_accounting,
    encode_record,
    read_record,
    sha256_file,
)
from pipeline.storage.lock import hold, holder

TABLES = ("transcripts", "emissions", "features", "failures")
"""The folders of tables that a run directory can have."""


class RunDirectory:
    """One run's folder on a local file system."""

    def __init__(self, root: Path) -> None:
        """`root` need not exist yet; nothing is created before it is needed."""
        self.root = root

    manifest_path = property(lambda self: self.root / "manifest.parquet")
    run_json_path = property(lambda self: self.root / "run.json")
    config_path = property(lambda self: self.root / "config.yaml")
    scores_path = property(lambda self: self.root / "scores.parquet")
    confusions_path = property(lambda self: self.root / "confusions.parquet")
    report_path = property(lambda self: self.root / "report" / "index.html")
    metrics_path = property(lambda self: self.root / "logs" / "metrics.jsonl")
    log_path = property(lambda self: self.root / "logs" / "run.log")
    staging = property(lambda self: self.root / ".staging")

    def table_file(self, table: str, shard: int) -> Path:
        """The file of one table and shard; deterministic, so writing twice is harmless."""
        return Path(self.root / table / f"shard-{shard:05d}.parquet")

    def commit_file(self, shard: int) -> Path:
        """The commit record of a shard."""
        return Path(self.root / "commits" / f"shard-{shard:05d}.json")

    @contextmanager
    def new_or_kept(self) -> Iterator[None]:
        """Take a run directory that was made here away again where no manifest comes of it."""
        new = [path for path in (self.root, *self.root.parents) if not path.exists()]
        try:
            yield
        finally:
            if new and not self.manifest_path.is_file():
                with suppress(UserError), self.lock():  # not what another has begun with meanwhile
                    for path in (self.staging / "lock", self.log_path):
                        path.unlink(missing_ok=True)
                for path in (self.staging, self.log_path.parent, *new):
                    with suppress(OSError):  # not there, or not empty: then it is not ours to remove
                        path.rmdir()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory for one writer.

        Raises:
            UserError: Another process holds it, or the folder cannot be written.
        """
        with hold(self.staging / "lock", f"run_dir={self.root}"):
            yield

    def is_locked(self) -> bool:
        """Whether a process holds the run directory now."""
        return holder(self.staging / "lock") is not None

    def remove_leftovers(self) -> None:
        """Remove what dead attempts left in `.staging/`; the caller holds the lock. Nothing else is touched."""
        for path in self.staging.iterdir():
            if path.name.startswith("shard-") and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith("file-"):
                path.unlink(missing_ok=True)

    def remove_uncommitted(self) -> None:
        """Remove tables that an attempt with other settings left behind; the caller knows that none is committed."""
        for table in TABLES:
            for path in (self.root / table).glob("shard-*.parquet"):
                path.unlink()

    def new_staging(self, shard: int) -> Path:
        """A fresh folder for one attempt at a shard."""
        path = Path(self.staging / f"shard-{shard:05d}-{uuid.uuid4().hex}")
        self.staging.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)  # what is written in it has names that are known
        return path

    def write_bytes(self, target: Path, data: bytes) -> None:
        """Write a small file so that a crash leaves the old one or the new one."""
        staged = self.staging / f"file-{uuid.uuid4().hex}"
        self.staging.mkdir(parents=True, exist_ok=True)
        try:
            with naming(target):
                failpoint("file")
                staged.touch(exist_ok=False)  # not through a link, nor over what is there
                staged.write_bytes(data)
                self.publish(staged, target)
        finally:
            staged.unlink(missing_ok=True)

    def write_table(self, target: Path, table: pa.Table) -> None:
        """Write a whole Parquet file so that a crash leaves the old one or the new one."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self.write_bytes(target, sink.getvalue())

    def remove_scores(self) -> None:
        """Take the scores away: what they sum is about to change, or there is nothing to score."""
        self.scores_path.unlink(missing_ok=True)
        self.confusions_path.unlink(missing_ok=True)

    def publish(self, staged: Path, target: Path) -> None:
        """Sync a staged file, rename it into place and sync the folder."""
        failpoint("file-staged")
        _fsync(staged)
        failpoint("file-synced")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
        failpoint("file-moved")
        _fsync(target.parent)

    def commit(
        self,
        record: CommitRecord,
        staged: Mapping[str, Path],
        expected_ids: Sequence[str],
        rows_per_id: Mapping[str, int],
    ) -> CommitRecord:
        """Check the staged tables of a shard, rename them into place and write the commit record last.

        Args:
            record: The record without `files` and `committed_at`, which are filled in here.
            staged: Table name to staged file; `failures` is always one of them.
            expected_ids: Every id of the shard.
            rows_per_id: Table name to the rows that an utterance with a result has there.

        Raises:
            AssertionError: The tables do not account for every id exactly once, which is a bug of ours.
        """
        check_accounting(staged, expected_ids, rows_per_id)
        shard, files = record.shard, {}
        for table, path in staged.items():
            target = self.table_file(table, shard)
            with naming(target):
                failpoint("sync", shard)
                _fsync(path)
            files[table] = CommittedFile(
                path=target.relative_to(self.root).as_posix(),
                size=path.stat().st_size,
                sha256=sha256_file(path),
                rows=pq.read_metadata(path).num_rows,
            )
        failpoint("staged", shard)
        # A shard that is done again stops being done before its first file changes.
        self.retract(shard)
        for index, (table, path) in enumerate(staged.items()):
            target = self.table_file(table, shard)
            with naming(target):
                if index:
                    failpoint("renaming", shard)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
        for table in staged:
            with naming(self.root / table):
                failpoint("moved", shard)
                _fsync(self.root / table)
        failpoint("renamed", shard)
        done = replace(record, files=files, committed_at=datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            self.write_bytes(self.commit_file(shard), encode_record(done))
        except OSError:
            with suppress(OSError):  # what could not be synced is not done
                self.commit_file(shard).unlink(missing_ok=True)
            raise
        failpoint("committed", shard)
        return done

    def committed(self, fingerprint: str) -> dict[int, CommitRecord]:
        """The shards that are done: record there, fingerprint right, files there with the right sizes."""
        done = {}
        for record in self._records():
            if record is None or record.fingerprint != fingerprint:
                continue
            if all(_has_size(self.root / file.path, file.size) for file in record.files.values()):
                done[record.shard] = record
        return done

    def _records(self) -> Iterator[CommitRecord | None]:
        """Every commit record, `None` for one that cannot be read."""
        return map(read_record, sorted((self.root / "commits").glob("shard-*.json")))

    def retract(self, shard: int) -> None:
        """Take the commit record of a shard back, where there is one: it is to be done again. For a lock's holder."""
        path = self.commit_file(shard)
        if not path.exists():
            return
        failpoint("retract", shard)
        path.unlink()
        with naming(path.parent):
            _fsync(path.parent)
        failpoint("retracted", shard)

    def has_commits(self) -> bool:
        """Whether any commit record is there, sound or not: then there are results that must not be mixed."""
        return any((self.root / "commits").glob("shard-*.json"))

    def committed_otherwise(self, fingerprint: str) -> bool:
        """Whether a commit record belongs to another run than `fingerprint`, or cannot be read."""
        return any(record is None or record.fingerprint != fingerprint for record in self._records())

    def commits(self) -> dict[int, CommitRecord]:
        """The shards that are done of the run that `run.json` describes."""
        recorded = self.read_run_json()
        return self.committed(recorded["fingerprint"]) if recorded is not None else {}

    def read_run_json(self) -> dict[str, Any] | None:
        """`run.json`, or `None` where no run has begun.

        Raises:
            UserError: The file is there and cannot be read.
        """
        try:
            content: dict[str, Any] = json.loads(self.run_json_path.read_bytes())
            if not isinstance(content["fingerprint"], str):
                raise ValueError("not the record of a run")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.run_json_path}: cannot be read ({error}); choose another run_dir=") from None
        return content


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
