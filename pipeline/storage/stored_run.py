"""Reads a run directory: its record, its commit records and its failures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count, takewhile
from typing import Any

import pyarrow as pa

from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Place
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord, CommittedShard, read_record
from pipeline.storage.identity import keeps_nbest
from pipeline.storage.names import (
    COMMITS,
    RUN_JSON,
    TABLES,
    name_of_pass,
    pass_of_name,
)
from pipeline.storage.records import Records, is_record
from pipeline.storage.run_files import RunFiles
from pipeline.storage.run_record import RunRecord

_FEW_SHARDS = 100
"""Up to so many shards, reading the files of these shards is faster than listing the folders."""


class StoredRun(RunFiles):
    """The files of one run, for reading, with its record and its commit records."""

    def __init__(self, root: Place) -> None:
        """Read nothing yet; the folder need not exist."""
        super().__init__(root)
        self._commits = Records(self._files, COMMITS, _parsed)

    def failures(self, shard: int, supplement: int, column: str) -> list[Any]:
        """Read a column of the failures of a pass over a shard.

        Raises:
            UserError: The file is damaged.
        """
        stored = self.table("failures", shard, supplement)
        with stored.readable():
            values: list[Any] = stored.read([column])[column].to_pylist()
        return values

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

    # Commit records.

    def passes(self, shard: int, first: int = 0) -> dict[int, set[str]]:
        """Return the names of the files that passes over a shard have, by number of the pass.

        These are the pass `first`, even if it has no file, and those after it, up to the last one with a file. Somebody
        may have deleted all files of a pass, so the search ends after two passes without a file.
        """
        found: dict[int, set[str]] = {}
        last = first
        while last + 2 not in found:
            names = {number: self._names_of(shard, number) for number in range(first + len(found), last + 3)}
            there = self._files.present([name for each in names.values() for name in each])
            found |= {number: there.intersection(each) for number, each in names.items()}
            last = max((number for number in names if found[number]), default=last)
        return {number: found[number] for number in range(first, last + 1)}

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
        asked = None if shards is None else {*shards}
        found: dict[int, dict[int, CommitRecord]] = {}
        size: Callable[[str], int | None] = self.size
        if asked is not None and len(asked) <= _FEW_SHARDS:
            records = [*self._records_of(asked)]
        else:
            records = [*self._records()]
            size = self._sizes()  # listed after the records, because a record comes after its tables
        for record in records:
            if (
                record is None
                or record.fingerprint not in fingerprints
                or (asked is not None and record.shard not in asked)
            ):
                continue
            if self._has_files(record, size):
                found.setdefault(record.shard, {})[record.supplement] = record
        return {
            shard: CommittedShard(tuple(passes[number] for number in takewhile(passes.__contains__, count())))
            for shard, passes in sorted(found.items())
            if 0 in passes
        }

    def committed_pass(self, like: CommitRecord) -> CommitRecord | None:
        """Return the record of a pass over a shard if it is committed, with the same fingerprint; else `None`."""
        record = self.record_of(like)
        if record is None or record.fingerprint != like.fingerprint or not self._has_files(record, self.size):
            return None
        return record

    def record_of(self, like: CommitRecord) -> CommitRecord | None:
        """Return the record of the same pass over the same shard; `None` if there is none that can be read."""
        try:
            return self._record(like.shard, like.supplement)
        except OSError:
            return None

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
        return [name for name in self.names(COMMITS) if is_record(name)]

    def _records_of(self, shards: Iterable[int]) -> Iterator[CommitRecord | None]:
        """Yield the commit records of some shards, up to the first pass of each that has none."""
        for shard in shards:
            for number in count():
                try:
                    yield self._record(shard, number)
                except FileNotFoundError:
                    break
                except OSError:
                    yield None

    def _record(self, shard: int, supplement: int) -> CommitRecord | None:
        """Read the record of a pass; return `None` if it is damaged or has the name of another shard's."""
        name = f"{name_of_pass(shard, supplement)}.json"
        return _parsed(name, self.read(f"{COMMITS}/{name}"))

    def _records(self) -> Iterator[CommitRecord | None]:
        """Return each commit record in the order of the names; `None` for one that cannot be read."""
        found = self._commits.read()
        return (found[name] for name in sorted(found))

    def _sizes(self) -> Callable[[str], int | None]:
        """Return what `size` returns for the tables of all shards, from one listing of each folder."""
        with ThreadPoolExecutor(len(TABLES)) as threads:
            listed = threads.map(self._files.entries, TABLES)
            sizes = {
                f"{table}/{name}": entry.size
                for table, entries in zip(TABLES, listed, strict=True)
                for name, entry in entries.items()
            }
        return sizes.get

    def _has_files(self, record: CommitRecord, size: Callable[[str], int | None]) -> bool:
        """Whether all files of a record exist with the recorded sizes, under the names that this shard's files have."""
        return all(
            table in TABLES
            and file.path == (name := self.table(table, record.shard, record.supplement).name)
            and (size(name) == file.size or self.size(name) == file.size)  # a list may be older than an object
            for table, file in record.files.items()
        )


def _parsed(name: str, content: bytes) -> CommitRecord | None:
    """Return the commit record in a file; `None` if it is damaged or has the name of another shard's."""
    record = read_record(content)
    mine = record is not None and name == f"{name_of_pass(record.shard, record.supplement)}.json"
    return record if mine else None
