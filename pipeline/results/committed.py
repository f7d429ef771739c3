"""Finds the committed files that hold some utterances of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Committed:
    """The committed results of some utterances.

    Attributes:
        directory: The run.
        records: Commit records of the shards that hold any of the utterances, by shard.
        ids: Ids of the utterances, sorted, by shard.
    """

    directory: RunDirectory
    records: Mapping[int, CommitRecord]
    ids: Mapping[int, list[str]]

    def files(self, table: str) -> list[tuple[StoredTable, list[str] | None]]:
        """Return each file of a table, with the sorted ids to read; `None` for all."""
        return [self.file(shard, table) for shard, record in self.records.items() if table in record.files]

    def file(self, shard: int, table: str) -> tuple[StoredTable, list[str] | None]:
        """Return the file of a committed shard, with the sorted ids to read; `None` for all."""
        record, ids = self.records[shard], self.ids[shard]
        return self.directory.table(table, shard), None if len(ids) == record.utterances else ids

    def metadata(self, *names: str) -> dict[str, Any]:
        """Return the file metadata of the first of these tables that exists. All files of a table have the same.

        Raises:
            LookupError: None of the tables is committed.
        """
        for stored, _ in chain.from_iterable(map(self.files, names)):
            return tables.metadata_of(stored.schema())
        missing = " or ".join(names)
        raise LookupError(f"{self.directory.root}: no {missing} are committed; run with outputs=[{names[0]}]")
