"""The run directory. All code that reads or writes a run uses this module.

A commit writes each table of a shard to `.staging/`, syncs the files to disk and moves them to their final names. Then
it writes the commit record in the same way. After a kill at any point, each file under a final name is complete.
`.staging/` is on the same file system as the tables. It is not in a table's folder, because DuckDB and Polars also read
hidden files there.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.digests import sha256_of
from pipeline.runtime.errors import UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import CommitRecord, CommittedShard, read_record
from pipeline.storage.files import Files, StoredTable
from pipeline.storage.lock import Lock, hold, holder, share
from pipeline.storage.run_record import RunRecord, StoredFile

TABLES = ("transcripts", "emissions", "features", "failures")
"""Tables of a run; each has a folder of this name."""
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


def _pass_name(shard: int, supplement: int) -> str:
    return f"shard-{shard:05d}" + (f"-{supplement}" if supplement else "")


class RunDirectory:
    """The files of one run. File names are relative to the run directory.

    Attributes:
        root: The folder, for messages.
        manifest, scores, confusions: Tables of the whole run.
    """

    def __init__(self, root: Path) -> None:
        """Create nothing yet; the folder need not exist."""
        self.root = root
        self._files = Files(root, STAGING)
        self._staging = root / STAGING
        self._lock: Lock | None = None
        self.manifest = StoredTable(self._files, MANIFEST)
        self.scores = StoredTable(self._files, SCORES)
        self.confusions = StoredTable(self._files, CONFUSIONS)

    # Reading.

    def locate(self, name: str) -> Path:
        """Return the path of a file, for messages."""
        return self._files.locate(name)

    def has(self, name: str) -> bool:
        """Whether a regular file has this name."""
        return self._files.size(name) is not None

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; `None` if no regular file has that name."""
        return self._files.size(name)

    def free_bytes(self) -> int:
        """Return the free space on the disk that holds the run directory, in bytes."""
        return self._files.free_bytes()

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading, as bytes.

        Raises:
            OSError: The file does not exist, or it is not a regular file.
        """
        return self._files.open(name)

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            OSError: As `open`.
        """
        return self._files.read(name)

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of a folder's entries; an empty list if the folder does not exist."""
        return self._files.names(folder)

    def table(self, table: str, shard: int, supplement: int = 0) -> StoredTable:
        """Return the file of one table that a pass over a shard writes. A pass that is computed again replaces it."""
        return StoredTable(self._files, f"{table}/{_pass_name(shard, supplement)}.parquet")

    def tables(self, shard: CommittedShard, table: str) -> list[StoredTable]:
        """Return the committed files of one table and shard: one of each pass that wrote the table."""
        return [self.table(table, record.shard, record.supplement) for record in shard.having(table)]

    def commit_name(self, shard: int, supplement: int = 0) -> str:
        """Return the name of a commit record."""
        return f"{COMMITS}/{_pass_name(shard, supplement)}.json"

    def require_run(self) -> None:
        """Check that the folder holds a run.

        Raises:
            UserError: It does not.
        """
        if not self.manifest.is_there:
            raise UserError(f"{self.root}: no run there (no {MANIFEST}); give the run_dir of a run")

    def read_record(self) -> RunRecord | None:
        """Read `run.json`; return `None` if it does not exist.

        Raises:
            UserError: The file exists but cannot be read.
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
        """Return the size and SHA-256 of a file.

        Raises:
            OSError: As `open`.
        """
        with self.open(name) as source:
            return StoredFile(source.size(), sha256_of(source))

    # Commit records.

    def passes(self, shard: int, first: int = 0) -> list[int]:
        """Return the number `first`, and the numbers of the passes over a shard after it that have a file."""
        found = [first]
        while any(map(os.path.lexists, map(self.locate, self._names_of(shard, found[-1] + 1)))):
            found.append(found[-1] + 1)
        return found

    def _names_of(self, shard: int, supplement: int) -> list[str]:
        tables = (self.table(table, shard, supplement).name for table in TABLES)
        return [self.commit_name(shard, supplement), *tables]

    def has_table(self, table: str, shard: int, first: int) -> bool:
        """Whether a pass over a shard has a file of a table, committed or not. `first` is the first pass to look at."""
        return any(self.table(table, shard, number).is_there for number in self.passes(shard, first))

    def committed(self, fingerprints: Collection[str]) -> dict[int, CommittedShard]:
        """Return the shards that are done, by shard.

        A pass counts if its record has one of these fingerprints, all its files exist with the recorded sizes, and all
        passes before it count.
        """
        found: dict[int, dict[int, CommitRecord]] = {}
        for record in self._records():
            if record is not None and record.fingerprint in fingerprints and self._has_files(record):
                found.setdefault(record.shard, {})[record.supplement] = record
        return {
            shard: CommittedShard(tuple(passes[number] for number in takewhile(passes.__contains__, count())))
            for shard, passes in sorted(found.items())
            if 0 in passes
        }

    def commits(self) -> dict[int, CommittedShard]:
        """Return the shards that are done in the run that `run.json` describes, by shard."""
        recorded = self.read_record()
        return self.committed(recorded.passes) if recorded is not None else {}

    def has_commits(self) -> bool:
        """Whether any commit record exists, even a damaged one."""
        return bool(self._record_names())

    def unusable_records(self, done: Mapping[int, CommittedShard]) -> list[str]:
        """Return the names of the commit records that are not those of the shards `done`."""
        usable = {self.commit_name(each.shard, each.supplement) for shard in done.values() for each in shard.records}
        return sorted({f"{COMMITS}/{name}" for name in self._record_names()} - usable)

    def has_results(self) -> bool:
        """Whether a committed shard has a result, or a record is damaged. If so, other work must not write here."""
        return any(record is None or record.num_failures < record.utterances for record in self._records())

    def committed_otherwise(self, fingerprints: Collection[str]) -> bool:
        """Whether any commit record has a fingerprint other than these, or cannot be read."""
        return any(record is None or record.fingerprint not in fingerprints for record in self._records())

    def records(self) -> Iterator[CommitRecord]:
        """Yield each commit record that can be read, whether its files are there or not."""
        return (record for record in self._records() if record is not None)

    def _record_names(self) -> list[str]:
        return [name for name in self.names(COMMITS) if name.startswith("shard-") and name.endswith(".json")]

    def _records(self) -> Iterator[CommitRecord | None]:
        """Yield each commit record; `None` for a record that cannot be read or has the name of another shard."""
        for name in self._record_names():
            record = None
            with suppress(OSError):
                record = read_record(self.read(f"{COMMITS}/{name}"))
            mine = record and self.commit_name(record.shard, record.supplement) == f"{COMMITS}/{name}"
            yield record if mine else None

    def _has_files(self, record: CommitRecord) -> bool:
        """Whether all files of a record exist with the recorded sizes, under the names that this shard's files have."""
        return all(
            table in TABLES
            and file.path == (name := self.table(table, record.shard, record.supplement).name)
            and self.size(name) == file.size
            for table, file in record.files.items()
        )

    # Writing. The caller holds the lock.

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create the run directory if it is missing, and lock it for this process while the context lasts.

        Raises:
            UserError: Another process holds the lock, or the folder cannot be written.
            RunError: The folder or its lock file was renamed, removed or replaced during the context.
        """
        with hold(self._staging / "lock", f"run_dir={self.root}") as self._lock:
            try:
                yield
                self.check_in_place()
            except Exception:
                self.check_in_place()  # says more than that some file is missing
                raise
            finally:
                self._lock = None

    @property
    def held_lock(self) -> Lock | None:
        """The lock that this process holds; `None` if it holds none."""
        return self._lock

    def share_lock(self, lock: Lock) -> None:
        """Hold the lock of the process that started this one and that writes to the same directory."""
        share(lock)
        self._lock = lock

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets of this object. It gets no lock: `share_lock` takes one there."""
        return {**self.__dict__, "_lock": None}

    def check_in_place(self) -> None:
        """Check that the folder and its lock file are still those that this process locked, if it has locked them.

        Raises:
            RunError: One of them was renamed, removed or replaced.
        """
        if self._lock is not None:
            self._lock.check_in_place()

    def is_locked(self) -> bool:
        """Whether a process holds the lock now."""
        return holder(self._staging / "lock") is not None

    def _prepare_to_write(self) -> None:
        """Create the folder for unfinished files. A run that holds the lock never creates it again.

        Raises:
            RunError: As `check_in_place`.
        """
        if self._lock is None:
            self.root.mkdir(parents=True, exist_ok=True)
            self._files.make_folder(f"{STAGING}/")
        self.check_in_place()

    @contextmanager
    def new_or_kept(self) -> Iterator[None]:
        """At the end of the context, remove the run directory if it was created in the context and has no manifest."""
        new = [path for path in (self.root, *self.root.parents) if not path.exists()]
        try:
            yield
        finally:
            if new and self.root.is_dir() and not self.manifest.is_there:
                log = self.locate(LOG)
                with suppress(UserError), hold(self._staging / "lock", ""):  # another process may have started a run
                    for path in (self._staging / "lock", log):
                        path.unlink(missing_ok=True)
                for path in (self._staging, log.parent, *new):
                    with suppress(OSError):  # a folder that is not empty stays
                        path.rmdir()

    def local_log(self, name: str = LOG) -> Path:
        """Return the path of a log or metrics file, whose folder is created. Such a file is appended to.

        Raises:
            UserError: Something else than a regular file is there, such as a FIFO.
        """
        self._prepare_to_write()
        self._files.make_folder(name)
        path = self.locate(name)
        if os.path.lexists(path) and not self.has(name):
            raise UserError(f"{path}: not a regular file; remove it, or choose another run_dir=")
        return path

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a small file atomically: after a crash, either the old or the new file is there.

        Raises:
            RunError: As `check_in_place`.
        """
        self._prepare_to_write()
        self._files.write(name, data)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file atomically: after a crash, either the old or the new file is there."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self.write(name, memoryview(sink.getvalue()))

    def remove_scores(self) -> None:
        """Remove the scores, because the transcripts are about to change or none has a reference."""
        for name in (SCORES, CONFUSIONS):
            self._files.remove(name)

    def remove_staging(self, shard: int) -> None:
        """Remove the staging folders of a shard. The caller knows that no process is at work on the shard."""
        for name in self.names(STAGING):
            if name.startswith(f"shard-{shard:05d}-"):
                shutil.rmtree(self._staging / name, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Remove unfinished files of earlier attempts from `.staging/`."""
        for path in self._staging.iterdir():
            if path.name.startswith("shard-") and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith("file-"):
                path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what an attempt with other settings left. The caller has checked that it has no results."""
        for name in self._record_names():  # first, because a record promises that its tables are there
            self._files.remove(f"{COMMITS}/{name}", durable=True)
        for table in TABLES:
            for name in self.names(table):
                if name.startswith("shard-") and name.endswith(".parquet"):
                    self._files.remove(f"{table}/{name}")

    def new_staging(self, shard: int) -> Path:
        """Create a staging folder for one attempt at a shard, and return its path."""
        self._prepare_to_write()
        path = Path(self._staging / f"shard-{shard:05d}-{uuid.uuid4().hex}")
        path.mkdir(mode=0o700)  # others must not place files here: the names are predictable
        return path

    def has_staging(self, shard: int) -> bool:
        """Whether an attempt at a shard left its staging folder."""
        return any(name.startswith(f"shard-{shard:05d}-") for name in self.names(STAGING))

    def publish(self, staged: Mapping[str, Path], shard: int, supplement: int = 0) -> None:
        """Move staged tables of a pass over a shard to their final names, and sync the folders.

        Args:
            staged: Staged file of each table, by table name.
            shard: The shard.
            supplement: Number of the pass.

        Raises:
            RunError: As `check_in_place`.
        """
        self.check_in_place()
        self._files.publish({self.table(table, shard, supplement).name: path for table, path in staged.items()}, shard)

    def retract(self, shard: int, supplement: int = 0, *, durable: bool = True) -> None:
        """Remove the commit records of a pass and of all later passes over a shard, so that they are computed again.

        Args:
            shard: The shard.
            supplement: Number of the pass.
            durable: Sync the folder, so that the records stay removed after a power failure.
        """
        for number in reversed(self.passes(shard, supplement)):
            name = self.commit_name(shard, number)
            if os.path.lexists(self.locate(name)):
                failpoint("retract", shard)
                self._files.remove(name, durable=durable)
                failpoint("retracted", shard)

    def remove_tables(self, shard: int, supplement: int, but: Collection[str]) -> None:
        """Remove the tables of a pass, except some tables, and all tables of later passes over a shard.

        The caller has retracted the commit records. Without this, readers of a folder would find rows twice when the
        shard is computed anew with all its outputs at once.
        """
        for number in self.passes(shard, supplement):
            for table in TABLES:
                if number > supplement or table not in but:
                    self._files.remove(self.table(table, shard, number).name)
