"""The committed files of a run, and which of their rows are meant."""

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
    """What is done of some utterances.

    Attributes:
        directory: The run.
        records: The committed shards that hold any of them.
        ids: The ids that are meant of each shard, sorted.
    """

    directory: RunDirectory
    records: Mapping[int, CommitRecord]
    ids: Mapping[int, list[str]]

    def files(self, table: str) -> list[tuple[StoredTable, list[str] | None]]:
        """The files of a table, and the ids to read of each, sorted; `None` for all."""
        return [self.file(shard, table) for shard, record in self.records.items() if table in record.files]

    def file(self, shard: int, table: str) -> tuple[StoredTable, list[str] | None]:
        """The file of a committed shard, and the ids to read of it, as in `files`."""
        record, ids = self.records[shard], self.ids[shard]
        return self.directory.table(table, shard), None if len(ids) == record.utterances else ids

    def metadata(self, *names: str) -> dict[str, Any]:
        """File metadata of the first of these tables that is there, the same in every file.

        Raises:
            LookupError: None is committed.
        """
        for stored, _ in chain.from_iterable(map(self.files, names)):
            return tables.metadata_of(stored.schema())
        missing = " or ".join(names)
        raise LookupError(f"{self.directory.root}: no {missing} are committed; run with outputs=[{names[0]}]")
