"""Where bytes go: staging, fsync, rename, commit records. A shard is complete across its tables or not done.

Order of a commit: every table is written under `.staging/` (same file system, never inside a table's folder,
because DuckDB and Polars read dot-files there), synced, renamed into place, the folders synced; the commit
record goes the same way, last. A kill at any instruction leaves whole files or none under the public names.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError

_FLOCK = "hhqqi4x"
"""C's `struct flock` on 64-bit Linux: type, whence, start, length, process."""

TABLES = ("transcripts", "emissions", "features", "failures")
"""The folders of tables that a run directory can have."""

FAILPOINT = "PIPELINE_FAILPOINT"
"""Environment variable of the crash tests: `<point>` or `<point>:<shard>` kills the process there."""


@dataclass(frozen=True, slots=True)
class CommittedFile:
    """A table's file as the commit record lists it."""

    path: str
    size: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """`commits/shard-00017.json`: what makes a shard done.

    Attributes:
        shard: Number of the shard.
        fingerprint: Of the run that wrote it.
        files: Table name to file.
        utterances: Rows of the manifest in this shard.
        audio_s: Seconds of audio in this shard that were transcribed.
        failures: Error name to count.
        counts: Sums that summaries need without opening the tables (word errors and the like).
        committed_at: UTC, ISO 8601.
    """

    shard: int
    fingerprint: str
    files: dict[str, CommittedFile]
    utterances: int
    audio_s: float
    failures: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)
    committed_at: str = ""

    @property
    def num_failures(self) -> int:
        """Utterances of this shard without a result."""
        return sum(self.failures.values())


class RunDirectory:
    """One run's folder on a local file system."""

    def __init__(self, root: Path) -> None:
        """`root` need not exist yet; nothing is created before it is needed."""
        self.root = root

    manifest_path = property(lambda self: self.root / "manifest.parquet")
    run_json_path = property(lambda self: self.root / "run.json")
    config_path = property(lambda self: self.root / "config.yaml")
    scores_path = property(lambda self: self.root / "scores.parquet")
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
    def lock(self) -> Iterator[None]:
        """Hold the run directory for one writer; the system drops the lock when the process dies.

        A record lock, because unlike `flock` it is not inherited by the loader's forked workers, which may
        outlive a killed run by seconds, and because it can be asked about without being taken.

        Raises:
            UserError: Another process holds it, or the folder cannot be written.
        """
        try:
            self.staging.mkdir(parents=True, exist_ok=True)
            handle = open(self.staging / "lock", "a+")  # noqa: SIM115 - entered below
        except OSError as error:
            raise UserError(
                f"run_dir={self.root}: cannot be written ({error.strerror}); choose another run_dir="
            ) from None
        with handle:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise UserError(
                    f"run_dir={self.root}: locked by {holder}; wait for it, stop it, or choose another run_dir="
                ) from None
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a process holds the run directory now."""
        try:
            with open(self.staging / "lock") as handle:
                answer = fcntl.fcntl(handle, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
        except OSError:
            return False
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)

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
        path = Path(self.staging / f"shard-{shard:05d}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        path.mkdir(parents=True)
        return path

    def write_bytes(self, target: Path, data: bytes) -> None:
        """Write a small file so that a crash leaves the old one or the new one."""
        staged = self.staging / f"file-{uuid.uuid4().hex}"
        self.staging.mkdir(parents=True, exist_ok=True)
        try:
            staged.write_bytes(data)
            self.publish(staged, target)
        finally:
            staged.unlink(missing_ok=True)

    def write_table(self, target: Path, table: pa.Table) -> None:
        """Write a whole Parquet file so that a crash leaves the old one or the new one."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(target, sink.getvalue())

    def publish(self, staged: Path, target: Path) -> None:
        """Sync a staged file, rename it into place and sync the folder."""
        _fsync(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
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
        _check_accounting(staged, expected_ids, rows_per_id)
        files = {}
        for table, path in staged.items():
            _fsync(path)
            target = self.table_file(table, record.shard)
            files[table] = CommittedFile(
                path=target.relative_to(self.root).as_posix(),
                size=path.stat().st_size,
                sha256=sha256_file(path),
                rows=pq.read_metadata(path).num_rows,
            )
        failpoint("staged", record.shard)
        # A shard that is done again stops being done before its first file changes.
        self._retract(record.shard)
        for index, (table, path) in enumerate(staged.items()):
            target = self.table_file(table, record.shard)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            if index == 0:
                failpoint("renaming", record.shard)
        for table in staged:
            _fsync(self.root / table)
        failpoint("renamed", record.shard)
        done = CommitRecord(
            **{
                **_shallow(record),
                "files": files,
                "committed_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        self.write_bytes(
            self.commit_file(record.shard),
            json.dumps({**_shallow(done), "files": {t: asdict(f) for t, f in files.items()}}, indent=1).encode(),
        )
        failpoint("committed", record.shard)
        return done

    def committed(self, fingerprint: str) -> dict[int, CommitRecord]:
        """The shards that are done: record there, fingerprint right, files there with the right sizes."""
        done = {}
        for path in sorted((self.root / "commits").glob("shard-*.json")):
            record = _read_record(path)
            if record is None or record.fingerprint != fingerprint:
                continue
            if all(_has_size(self.root / file.path, file.size) for file in record.files.values()):
                done[record.shard] = record
        return done

    def _retract(self, shard: int) -> None:
        try:
            self.commit_file(shard).unlink()
        except FileNotFoundError:
            return
        _fsync(self.root / "commits")

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


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of everything that identifies the work of a run."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def failpoint(name: str, shard: int) -> None:
    """Die here with SIGKILL if the crash tests say so."""
    if os.environ.get(FAILPOINT) in (name, f"{name}:{shard}"):
        os.kill(os.getpid(), signal.SIGKILL)


def _shallow(record: CommitRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in CommitRecord.__dataclass_fields__}


def _check_accounting(staged: Mapping[str, Path], expected_ids: Sequence[str], rows_per_id: Mapping[str, int]) -> None:
    """Every id is in all requested tables or in failures, never both, never neither."""
    failed = Counter(pq.read_table(staged["failures"], columns=["id"])["id"].to_pylist())
    for table, rows in rows_per_id.items():
        found = Counter(pq.read_table(staged[table], columns=["id"])["id"].to_pylist())
        wanted = Counter({id_: rows for id_ in expected_ids if id_ not in failed})
        if found != wanted or not failed <= Counter(expected_ids):
            odd = sorted((found - wanted) + (wanted - found) + (failed - Counter(expected_ids)))[:3]
            raise AssertionError(f"{table} and failures do not account for every id once: {odd}")


def _read_record(path: Path) -> CommitRecord | None:
    try:
        content = json.loads(path.read_bytes())
        content["files"] = {table: CommittedFile(**file) for table, file in content["files"].items()}
        return CommitRecord(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # a record that cannot be read is no record: the shard is done again


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
