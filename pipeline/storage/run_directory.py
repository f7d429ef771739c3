"""The run directory: everything that reads or writes a run goes through this module. A shard is whole or not done.

Order of a commit: every table is written under `.staging/` (the same file system, and never inside a table's folder,
because DuckDB and Polars read dot-files there), made durable, and put under its final name. The commit record goes
the same way, last. A kill at any instruction leaves whole files or none under the public names.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.digests import sha256_of
from pipeline.runtime.errors import UserError, naming
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import CommitRecord, CommittedFile, check_accounting, encode_record, read_record
from pipeline.storage.files import Files, StoredTable, fsync
from pipeline.storage.lock import hold, holder
from pipeline.storage.run_record import RunRecord, StoredFile

TABLES = ("transcripts", "emissions", "features", "failures")
"""The folders of tables that a run directory can have."""
COMMITS = "commits"
MANIFEST = "manifest.parquet"
RUN_JSON = "run.json"
CONFIG = "config.yaml"
SCORES = "scores.parquet"
CONFUSIONS = "confusions.parquet"
REPORT = "report/index.html"
METRICS = "logs/metrics.jsonl"
LOG = "logs/run.log"
STAGING = ".staging"


class RunDirectory:
    """One run's files. Names are relative to the run directory, with slashes.

    Attributes:
        root: Where it lies, for messages and for the lines that tell a person how to read it.
        manifest, scores, confusions: Tables of the whole run.
    """

    def __init__(self, root: Path) -> None:
        """Take the folder, which need not exist yet. Nothing is created before it is needed."""
        self.root = root
        self._files = Files(root, STAGING)
        self._staging = root / STAGING
        self.manifest = StoredTable(self._files, MANIFEST)
        self.scores = StoredTable(self._files, SCORES)
        self.confusions = StoredTable(self._files, CONFUSIONS)

    # Reading.

    def locate(self, name: str) -> Path:
        """Where a file lies, for messages."""
        return self._files.locate(name)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self._files.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of a file; `None` where there is no regular file of that name."""
        return self._files.size(name)

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading, as bytes.

        Raises:
            OSError: There is no such file, or it is not a regular file.
        """
        return self._files.open(name)

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            OSError: As `open`.
        """
        return self._files.read(name)

    def names(self, folder: str = "") -> list[str]:
        """Names of everything in a folder, sorted; none where there is no folder."""
        return self._files.names(folder)

    def table(self, table: str, shard: int) -> StoredTable:
        """The file of one table and shard. Its name is deterministic, so writing it twice is harmless."""
        return StoredTable(self._files, f"{table}/shard-{shard:05d}.parquet")

    def commit_name(self, shard: int) -> str:
        """The name of a shard's commit record."""
        return f"{COMMITS}/shard-{shard:05d}.json"

    def require_run(self) -> None:
        """Refuse a folder that holds no run.

        Raises:
            UserError: It holds none.
        """
        if not self.manifest.is_there:
            raise UserError(f"{self.root}: no run there (no {MANIFEST}); give the run_dir of a run")

    def read_record(self) -> RunRecord | None:
        """`run.json`, or `None` where no run has begun.

        Raises:
            UserError: The file is there and cannot be read.
        """
        try:
            return RunRecord.decode(self.read(RUN_JSON))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{self.locate(RUN_JSON)}: cannot be read ({reason}); remove it, then the same command again writes it "
                f"anew, or choose another run_dir="
            ) from None

    def file_record(self, name: str) -> StoredFile:
        """Size and SHA-256 of a file.

        Raises:
            OSError: As `open`.
        """
        with self.open(name) as source:
            return StoredFile(source.size(), sha256_of(source))

    # Commit records.

    def committed(self, fingerprint: str) -> dict[int, CommitRecord]:
        """The shards that are done: record there, fingerprint right, files there with the right sizes."""
        done = {}
        for record in self._records():
            if record is not None and record.fingerprint == fingerprint and self._has_files(record):
                done[record.shard] = record
        return done

    def commits(self) -> dict[int, CommitRecord]:
        """The shards that are done of the run that `run.json` describes."""
        recorded = self.read_record()
        return self.committed(recorded.fingerprint) if recorded is not None else {}

    def has_commits(self) -> bool:
        """Whether any commit record is there, sound or not: then there are results that must not be mixed."""
        return bool(self._record_names())

    def committed_otherwise(self, fingerprint: str) -> bool:
        """Whether a commit record belongs to another run than `fingerprint`, or cannot be read."""
        return any(record is None or record.fingerprint != fingerprint for record in self._records())

    def _record_names(self) -> list[str]:
        return [name for name in self.names(COMMITS) if name.startswith("shard-") and name.endswith(".json")]

    def _records(self) -> Iterator[CommitRecord | None]:
        """Every commit record, `None` for a record that cannot be read."""
        for name in self._record_names():
            try:
                yield read_record(self.read(f"{COMMITS}/{name}"))
            except OSError:
                yield None

    def _has_files(self, record: CommitRecord) -> bool:
        """Whether the files of a record are there; files of other names than the record's shard has are not ours."""
        return all(
            file.path == (name := self.table(table, record.shard).name) and self.size(name) == file.size
            for table, file in record.files.items()
        )

    # Writing; for the holder of the lock.

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory for one writer.

        Raises:
            UserError: Another process holds it, or the folder cannot be written.
        """
        with hold(self._staging / "lock", f"run_dir={self.root}"):
            yield

    def is_locked(self) -> bool:
        """Whether a process holds the run directory now."""
        return holder(self._staging / "lock") is not None

    @contextmanager
    def new_or_kept(self) -> Iterator[None]:
        """Remove a run directory that was made in this context, where no manifest comes of it."""
        new = [path for path in (self.root, *self.root.parents) if not path.exists()]
        try:
            yield
        finally:
            if new and not self.manifest.is_there:
                log = self.locate(LOG)
                with suppress(UserError), self.lock():  # not what another process has begun meanwhile
                    for path in (self._staging / "lock", log):
                        path.unlink(missing_ok=True)
                for path in (self._staging, log.parent, *new):
                    with suppress(OSError):  # not there, or not empty: then it is not ours to remove
                        path.rmdir()

    def local_log(self, name: str = LOG) -> Path:
        """A file to append to, in a folder that is there: logs and metrics are written as they come, not put whole."""
        path = self.locate(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a small file so that a crash leaves the old file or the new file."""
        self._files.write(name, data)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a whole Parquet file so that a crash leaves the old file or the new file."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self.write(name, memoryview(sink.getvalue()))

    def remove_scores(self) -> None:
        """Remove the scores: what they sum is about to change, or there is nothing to score."""
        for name in (SCORES, CONFUSIONS):
            self._files.remove(name)

    def remove_leftovers(self) -> None:
        """Remove what dead attempts left in `.staging/`. Nothing else is touched."""
        for path in self._staging.iterdir():
            if path.name.startswith("shard-") and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith("file-"):
                path.unlink(missing_ok=True)

    def remove_uncommitted(self) -> None:
        """Remove tables that an attempt with other settings left behind; the caller knows that none is committed."""
        for table in TABLES:
            for name in self.names(table):
                if name.startswith("shard-") and name.endswith(".parquet"):
                    self._files.remove(f"{table}/{name}")

    def new_staging(self, shard: int) -> Path:
        """A fresh local folder for one attempt at a shard."""
        path = Path(self._staging / f"shard-{shard:05d}-{uuid.uuid4().hex}")
        self._staging.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)  # what is written in it has names that are known
        return path

    def has_staging(self, shard: int) -> bool:
        """Whether an attempt at a shard left its folder behind."""
        return any(name.startswith(f"shard-{shard:05d}-") for name in self.names(STAGING))

    def commit(
        self,
        record: CommitRecord,
        staged: Mapping[str, Path],
        expected_ids: Sequence[str],
        rows_per_id: Mapping[str, int],
    ) -> CommitRecord:
        """Check the staged tables of a shard, publish them and write the commit record last.

        Args:
            record: The record without `files` and `committed_at`, which are filled in here.
            staged: Table name to staged file; `failures` is always one of them.
            expected_ids: Every id of the shard.
            rows_per_id: Table name to the rows that an utterance with a result has there.

        Raises:
            AssertionError: The tables do not account for every id exactly once, which is a bug of ours.
        """
        check_accounting(staged, expected_ids, rows_per_id)
        shard, files, paths = record.shard, {}, {}
        for table, path in staged.items():
            name = self.table(table, shard).name
            with naming(self.locate(name)):
                failpoint("sync", shard)
                fsync(path)
            with open(path, "rb") as source:
                files[table] = CommittedFile(
                    name, path.stat().st_size, sha256_of(source), pq.read_metadata(path).num_rows
                )
            paths[name] = path
        failpoint("staged", shard)
        # A shard that is done again stops being done before its first file changes.
        self.retract(shard)
        self._files.publish(paths, shard)
        failpoint("renamed", shard)
        done = replace(record, files=files, committed_at=datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            self.write(self.commit_name(shard), encode_record(done))
        except OSError:
            with suppress(OSError):  # a record that could not be made durable is no record
                self._files.remove(self.commit_name(shard))
            raise
        failpoint("committed", shard)
        return done

    def retract(self, shard: int) -> None:
        """Remove the commit record of a shard, where there is one: the shard is to be done again."""
        name = self.commit_name(shard)
        if self.locate(name).exists():
            failpoint("retract", shard)
            self._files.remove(name, durable=True)
            failpoint("retracted", shard)
