"""Compacted tables: the rows of many shards in few large files, sorted, for those who read.

`compacted-transcripts/shards-00500.parquet` has the rows of shard 500 and of the shards after it, up to the file before
the next one. The tables of the shards stay as they are, and resuming, growing and checking work on these. So a
compacted file is a copy, and its record in `commits-compacted-transcripts/` says of which contents.

The rows of a shard never move from one compacted file to another, and a file is replaced in one step. So who reads the
folder finds each row once at any moment, also while files are written and after a kill: each file has the rows of its
shards as they were when it was made.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.runtime.clock import timestamp
from pipeline.runtime.digests import decode_checked, encode_checked
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.terminal import counted
from pipeline.storage.commits import CommittedFile, CommittedShard, staged_file
from pipeline.storage.files import UNREADABLE, Files, StoredTable
from pipeline.storage.names import COMMITS, COMPACTED, first_of_compacted, name_of_compacted
from pipeline.storage.tables import metadata_of

FULL_BYTES = 512 * 10**6
"""A compacted file takes no further shard once its shards have this size together."""


SHARDS = "shards"
"""Key of the file's metadata that lists its shards. The record alone cannot say it, because it comes after the file."""


@dataclass(frozen=True)
class CompactedRecord:
    """The record of one compacted file.

    Attributes:
        shards: The shards whose rows the file has, ascending.
        sources: SHA-256 of each committed file whose rows it has, by the name of that file.
        file: The file; `None` before it is committed.
        committed_at: Time of the commit in UTC, as ISO 8601.
        by: The column that the rows are sorted by before their ids; empty for none.
    """

    shards: tuple[int, ...]
    sources: Mapping[str, str]
    file: CommittedFile | None = None
    committed_at: str = ""
    by: str = ""


class CompactedTable:
    """The compacted files of one table. Who writes holds the lock of the run.

    Attributes:
        name: Name of the table, such as `transcripts`.
        folder: The folder of its files.
        commits: The folder of their records.
    """

    def __init__(self, files: Files, name: str) -> None:
        """Read and write nothing yet."""
        self._files = files
        self.name = name
        self.folder = f"{COMPACTED}{name}"
        self.commits = f"{COMMITS}-{self.folder}"

    def table(self, first: int) -> StoredTable:
        """Return the file that begins with a shard."""
        return StoredTable(self._files, f"{self.folder}/{name_of_compacted(first)}.parquet")

    def record_name(self, first: int) -> str:
        """Return the name of the record of a file."""
        return f"{self.commits}/{name_of_compacted(first)}.json"

    def files(self) -> list[int]:
        """Return the first shard of each file that is there, ascending."""
        found = (first_of_compacted(name, "parquet") for name in self._files.names(self.folder))
        return sorted(first for first in found if first is not None)

    def record(self, first: int) -> CompactedRecord | None:
        """Read the record of a file; return `None` if it is missing or damaged."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            content = decode_checked(self._files.read(self.record_name(first)))
            file = CommittedFile(**content.pop("file"))
            return CompactedRecord(tuple(content.pop("shards")), file=file, **content)
        return None

    def is_made_of(self, first: int, wanted: CompactedRecord) -> bool:
        """Whether a file has the rows of these contents and its recorded size."""
        record = self.record(first)
        if record is None or record.file is None or self._files.size(self.table(first).name) != record.file.size:
            return False
        return (record.shards, record.sources) == (wanted.shards, wanted.sources)

    def plan(self, shards: Mapping[int, CommittedShard]) -> dict[int, CompactedRecord]:
        """Return what each file is to be made of, by its first shard.

        A shard whose rows are in a file already stays in that file.

        Args:
            shards: The committed shards, by shard.
        """
        last = {first: self._last_of(first) for first in self.files()}
        starts, current, filled = sorted(last), -1, 0
        groups: dict[int, list[CommittedShard]] = {}
        for shard, committed in sorted(shards.items()):
            if not (files := files_of(committed, self.name)):
                continue
            place = bisect_right(starts, shard) - 1
            if place >= 0 and starts[place] > current:
                current, filled = starts[place], 0
            elif current < 0 or (filled >= FULL_BYTES and shard > last.get(current, -1)):
                current, filled = shard, 0
            groups.setdefault(current, []).append(committed)
            filled += sum(file.size for file in files)
        return {first: self._record_of(group) for first, group in groups.items()}

    def stale(self, shards: Mapping[int, CommittedShard]) -> str:
        """Say how many files do not have the present rows of their shards, or are missing; nothing if there are none.

        Args:
            shards: The committed shards, by shard.
        """
        planned = self.plan(shards) if self.files() else {}
        stale = sum(not self.is_made_of(first, record) for first, record in planned.items())
        if not stale:
            return ""
        return f"{self.folder}: {counted(stale, 'file')} of {len(planned)} not made of the present shards"

    def _last_of(self, first: int) -> int:
        """Return the last shard whose rows a file has; of a file that cannot be read, one that no run has."""
        try:
            return int(max(metadata_of(self.table(first).schema())[SHARDS]))
        except UNREADABLE:
            return sys.maxsize

    def _record_of(self, group: Sequence[CommittedShard]) -> CompactedRecord:
        sources = {file.path: file.sha256 for each in group for file in files_of(each, self.name)}
        return CompactedRecord(tuple(each.shard for each in group), sources)

    def commit(self, first: int, record: CompactedRecord, staged: Path) -> None:
        """Put a staged file into its place in one step, and write its record.

        Args:
            first: The first shard of the file.
            record: The record without `file` and `committed_at`.
            staged: The file, on the same file system.
        """
        stored = self.table(first)
        file = staged_file(stored, staged, first)
        failpoint("compact", first)
        self._files.publish({stored.name: staged}, first)
        failpoint("compacted", first)
        self._files.check()
        done = replace(record, file=file, committed_at=timestamp())
        self._files.write(self.record_name(first), encode_checked(asdict(done)))

    def remove(self, first: int) -> None:
        """Remove a file and its record."""
        self._files.remove(self.table(first).name, durable=True)
        self._files.remove(self.record_name(first))


def files_of(committed: CommittedShard, table: str) -> list[CommittedFile]:
    """Return the committed files of a table and a shard, one of each pass that wrote the table."""
    return [record.files[table] for record in committed.having(table)]
