"""Finds the committed files that hold some utterances of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory


class ShardIds(Mapping[int, list[str]]):
    """The sorted ids of some utterances, by shard. The ids of a shard are made when they are asked for."""

    def __init__(self, manifest: pd.DataFrame) -> None:
        """Take the rows of these utterances in the manifest, in its order."""
        self._ids = manifest["id"]
        self._shards, starts = np.unique(manifest["shard"].to_numpy(np.int64), return_index=True)
        self._bounds = np.append(starts, len(manifest))

    def _rows(self, shard: int) -> slice:
        place = int(np.searchsorted(self._shards, shard))
        if place == len(self._shards) or self._shards[place] != shard:
            raise KeyError(shard)
        return slice(int(self._bounds[place]), int(self._bounds[place + 1]))

    def count(self, shard: int) -> int:
        """Return the number of these utterances in a shard."""
        rows = self._rows(shard)
        return int(rows.stop - rows.start)

    def __getitem__(self, shard: int) -> list[str]:
        return sorted(self._ids.iloc[self._rows(shard)])

    def __iter__(self) -> Iterator[int]:
        return iter(self._shards.tolist())

    def __len__(self) -> int:
        return len(self._shards)


@dataclass(frozen=True)
class Committed:
    """The committed results of some utterances.

    Attributes:
        directory: The run.
        shards: The committed shards that hold any of the utterances, by shard.
        ids: Ids of the utterances.
    """

    directory: RunDirectory
    shards: Mapping[int, CommittedShard]
    ids: ShardIds

    def files(self, table: str) -> list[tuple[StoredTable, list[str] | None]]:
        """Return each file of a table, with the sorted ids to read; `None` for all."""
        return [found for shard in self.shards for found in self.files_of(shard, table)]

    def files_of(self, shard: int, table: str) -> list[tuple[StoredTable, list[str] | None]]:
        """Return the files of a committed shard, as `files`."""
        committed = self.shards[shard]
        wanted = None if self.ids.count(shard) == committed.utterances else self.ids[shard]
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
