"""Finds the committed files that hold some utterances of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Committed:
    """The committed results of some utterances.

    Attributes:
        directory: The run.
        shards: The committed shards that hold any of the utterances, by shard.
        ids: Ids of the utterances, sorted, by shard.
    """

    directory: RunDirectory
    shards: Mapping[int, CommittedShard]
    ids: Mapping[int, list[str]]

    def files(self, table: str) -> list[tuple[StoredTable, list[str] | None]]:
        """Return each file of a table, with the sorted ids to read; `None` for all."""
        return [found for shard in self.shards for found in self.files_of(shard, table)]

    def files_of(self, shard: int, table: str) -> list[tuple[StoredTable, list[str] | None]]:
        """Return the files of a committed shard, as `files`."""
        committed, ids = self.shards[shard], self.ids[shard]
        wanted = None if len(ids) == committed.utterances else ids
        return [(stored, wanted) for stored in self.directory.tables(committed, table)]

    def metadata(self, *names: str) -> dict[str, Any]:
        """Return the file metadata of the first of these tables that exists. All files of a table have the same.

        Raises:
            LookupError: None of the tables is committed.
        """
        for stored, _ in chain.from_iterable(map(self.files, names)):
            return tables.metadata_of(stored.schema())
        missing = " or ".join(names)
        raise LookupError(f"{self.directory.root}: no {missing} are committed; run with outputs=[{names[0]}]")
