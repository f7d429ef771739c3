"""Reads a run directory: its files, its tables and its commit records."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from itertools import count, takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pyarrow as pa

from pipeline.runtime.digests import sha256_of
from pipeline.runtime.errors import UserError
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord, CommittedShard, read_record
from pipeline.storage.derived import DerivedTable
from pipeline.storage.files import UNREADABLE, Files, StoredTable
from pipeline.storage.identity import keeps_nbest
from pipeline.storage.lock import holder
from pipeline.storage.names import (
    COMMITS,
    CONFUSIONS,
    COVERAGE,
    DECODED,
    MANIFEST,
    REFERENCES,
    REPORT,
    RUN_JSON,
    SCORES,
    STAGING,
    TABLES,
    name_of_pass,
    of_decoding,
    pass_of_name,
)
from pipeline.storage.run_record import RunRecord, StoredFile


class StoredRun:
    """The files of one run, for reading. File names are relative to the run directory.

    Attributes:
        root: The folder, for messages.
        manifest, scores, confusions, references, coverage: Tables of the whole run.
        report: Name of the report's page.
        decoded: The transcripts of a decoding, which take the place of those of the stage `infer`; `None` for these.
    """

    def __init__(self, root: Path) -> None:
        """Read nothing yet; the folder need not exist."""
        self.root = root
        self._files = Files(root, STAGING)
        self._staging = root / STAGING
        self.manifest = StoredTable(self._files, MANIFEST)
        self.scores = StoredTable(self._files, SCORES)
        self.confusions = StoredTable(self._files, CONFUSIONS)
        self.references = StoredTable(self._files, REFERENCES)
        self.coverage = StoredTable(self._files, COVERAGE)
        self.report = REPORT
        self.decoded: DerivedTable | None = None

    def of_decoding(self, name: str) -> Self:
        """Return the same run with the transcripts, the scores and the report of a decoding in place of its own."""
        found = copy(self)
        found.decoded = self.derived(f"{DECODED}{name}")
        found.scores = StoredTable(self._files, of_decoding(SCORES, name))
        found.confusions = StoredTable(self._files, of_decoding(CONFUSIONS, name))
        found.coverage = StoredTable(self._files, of_decoding(COVERAGE, name))
        found.report = of_decoding(REPORT, name)
        return found

    @property
    def place(self) -> Path:
        """The folder, with that of the decoding: `runs/voices/wav2vec2_asr_base_960h/transcripts-beam`."""
        return self.root if self.decoded is None else self.root / self.decoded.folder

    @property
    def name(self) -> str:
        """Name of the folder, with that of the decoding: `wav2vec2_asr_base_960h-beam`."""
        name = self.root.absolute().name
        return name if self.decoded is None else f"{name}-{self.decoded.folder.removeprefix(DECODED)}"

    def decodings(self) -> list[str]:
        """Return the names of the decodings of this run."""
        folders = (table.folder for table in self.derived_tables())
        return [folder.removeprefix(DECODED) for folder in folders if folder.startswith(DECODED)]

    def derived_tables(self) -> list[DerivedTable]:
        """Return all tables that are made of committed tables of this run."""
        found = (
            self.derived(name.removeprefix(f"{COMMITS}-")) for name in self.names() if name.startswith(f"{COMMITS}-")
        )
        return [table for table in found if table.identity() is not None]

    def derived(self, folder: str) -> DerivedTable:
        """Return a table that is made of committed tables of this run, shard by shard."""
        return DerivedTable(self._files, folder)

    def is_locked(self) -> bool:
        """Whether a process holds the lock now."""
        return holder(self._staging / "lock") is not None

    def parts_at_work(self) -> list[str]:
        """Return the parts of the run that are at work now, each with its process and machine."""
        names = (name for name in self.files_of_parts(f"{STAGING}/lock") if name != f"{STAGING}/lock")
        return [said for name in names if (said := holder(self.locate(name))) is not None]

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

    def files_of_parts(self, name: str) -> list[str]:
        """Return the names of a file of the run's process and of those of its parts, as far as they exist."""
        path = PurePosixPath(name)
        pattern = re.compile(rf"{re.escape(path.stem)}(-\d+-of-\d+)?{re.escape(path.suffix)}")
        return [str(path.with_name(each)) for each in self.names(str(path.parent)) if pattern.fullmatch(each)]

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

    def stored(self, name: str) -> StoredTable:
        """Return a table that is no table of a shard, by the name of its file."""
        return StoredTable(self._files, name)

    def table(self, table: str, shard: int, supplement: int = 0) -> StoredTable:
        """Return the file of one table that a pass over a shard writes. A pass that is computed again replaces it."""
        if table == "transcripts" and self.decoded is not None:
            return self.decoded.table(shard)
        return StoredTable(self._files, f"{table}/{name_of_pass(shard, supplement)}.parquet")

    def tables(self, shard: CommittedShard, table: str) -> list[StoredTable]:
        """Return the committed files of one table and shard: one of each pass that wrote the table."""
        return [self.table(table, record.shard, record.supplement) for record in shard.having(table)]

    def commit_name(self, shard: int, supplement: int = 0) -> str:
        """Return the name of a commit record."""
        return f"{COMMITS}/{name_of_pass(shard, supplement)}.json"

    def failures(self, shard: int, supplement: int, column: str) -> list[Any]:
        """Read a column of the failures of a pass over a shard.

        Raises:
            UserError: The file is damaged.
        """
        stored = self.table("failures", shard, supplement)
        try:
            values: list[Any] = stored.read([column])[column].to_pylist()
        except UNREADABLE as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{stored}: cannot be read ({reason}); python -m pipeline.verify {self.root} --retract removes what is "
                "damaged, then the same command computes it again"
            ) from None
        return values

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

    def transcripts_schema(self, manifest: pa.Schema) -> pa.Schema:
        """Return the schema of the transcripts of the run, whose manifest has the schema `manifest`.

        Raises:
            UserError: As `read_record`.
        """
        recorded = self.read_record()
        audio_digests = recorded is not None and recorded.combined.audio_digests
        options = {} if recorded is None else recorded.combined.options
        if self.decoded is not None:
            options = self.decoded.identity() or {}
        return tables.transcripts_schema(manifest, audio_digests, keeps_nbest(options))

    def file_record(self, name: str) -> StoredFile:
        """Return the size and SHA-256 of a file.

        Raises:
            OSError: As `open`.
        """
        with self.open(name) as source:
            return StoredFile(source.size(), sha256_of(source))

    # Commit records.

    def passes(self, shard: int, first: int = 0) -> list[int]:
        """Return the number `first` and those after it, up to the last pass over a shard that has a file.

        Somebody may have deleted all files of a pass, so the search ends after two passes without a file.
        """
        last, number = first, first + 1
        while number <= last + 2:
            if any(map(os.path.lexists, map(self.locate, self._names_of(shard, number)))):
                last = number
            number += 1
        return list(range(first, last + 1))

    def _names_of(self, shard: int, supplement: int) -> list[str]:
        tables = (self.table(table, shard, supplement).name for table in TABLES)
        return [self.commit_name(shard, supplement), *tables]

    def last_passes(self, table: str) -> dict[int, int]:
        """Return the number of the last pass over each shard that has a file of a table, committed or not, by shard."""
        found: dict[int, int] = {}
        for name in self.names(table):
            if written := pass_of_name(name, "parquet"):
                shard, number = written
                found[shard] = max(number, found.get(shard, 0))
        return found

    def committed(
        self, fingerprints: Collection[str], shards: Iterable[int] | None = None
    ) -> dict[int, CommittedShard]:
        """Return the shards that are done, by shard.

        A pass counts if its record has one of these fingerprints, all its files exist with the recorded sizes, and all
        passes before it count.

        Args:
            fingerprints: Fingerprints of the passes that may count.
            shards: The shards to look at; `None` for all.
        """
        if self.decoded is not None:
            return self.decoded.in_place_of_transcripts(StoredRun(self.root).committed(fingerprints, shards))
        found: dict[int, dict[int, CommitRecord]] = {}
        for record in self._records(self._record_names() if shards is None else self._record_names_of(shards)):
            if record is not None and record.fingerprint in fingerprints and self._has_files(record):
                found.setdefault(record.shard, {})[record.supplement] = record
        return {
            shard: CommittedShard(tuple(passes[number] for number in takewhile(passes.__contains__, count())))
            for shard, passes in sorted(found.items())
            if 0 in passes
        }

    def committed_pass(self, like: CommitRecord) -> CommitRecord | None:
        """Return the record of a pass over a shard if it is committed, with the same fingerprint; else `None`."""
        try:
            record = read_record(self.read(self.commit_name(like.shard, like.supplement)))
        except OSError:
            return None
        if record is None or (record.shard, record.supplement) != (like.shard, like.supplement):
            return None
        return record if record.fingerprint == like.fingerprint and self._has_files(record) else None

    def commits(self, shards: Iterable[int] | None = None) -> dict[int, CommittedShard]:
        """Return the shards that are done in the run that `run.json` describes, by shard; see `committed`."""
        recorded = self.read_record()
        return self.committed(recorded.passes, shards) if recorded is not None else {}

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

    def _record_names_of(self, shards: Iterable[int]) -> Iterator[str]:
        """Yield the names of the commit records of some shards, up to the first pass that has none."""
        for shard in shards:
            names = (f"{name_of_pass(shard, number)}.json" for number in count())
            yield from takewhile(lambda name: self.has(f"{COMMITS}/{name}"), names)

    def _records(self, names: Iterable[str] | None = None) -> Iterator[CommitRecord | None]:
        """Yield each commit record; `None` for a record that cannot be read or has the name of another shard."""
        for name in self._record_names() if names is None else names:
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
