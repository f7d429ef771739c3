"""Matches the transcripts of two runs by id, in blocks of bounded size.

The runs may have other shards, and their utterances another order. Memory holds a digest of 16 bytes of each id, and
the texts of one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError
from pipeline.scoring.counting import is_counted_now
from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory

BLOCK_BYTES = 2**25
"""A block ends when the rows of the first run have this size. Each shard of the second run is read once a block."""
EXAMPLES = 3
_KEY = pa.binary(16)


def read_transcripts(stored: StoredTable, columns: Sequence[str]) -> pa.Table:
    """Read columns of transcripts, and whether their errors were counted after the present normaliser (`counted`)."""
    table = stored.read(columns)
    counted = pa.array(np.full(len(table), is_counted_now(table.schema)))
    return table.replace_schema_metadata(None).append_column("counted", counted)


def keys_of(stored: StoredTable) -> pa.Array:
    """Return a BLAKE2b digest of 128 bits of each id of a table, which stands for the id.

    Among ten million ids, two have the same digest with a probability of 10^-25.
    """
    ids = stored.read(["id"])["id"].to_pylist()
    digests = b"".join(blake2b(id_.encode(), digest_size=_KEY.byte_width).digest() for id_ in ids)
    return pa.FixedSizeBinaryArray.from_buffers(_KEY, len(ids), [None, pa.py_buffer(digests)])


@dataclass(frozen=True)
class TranscribedRun:
    """The transcripts of a run that are committed.

    Attributes:
        directory: The run.
        shards: The committed shards that have transcripts, in their order.
        own: The dataset's own columns.
        keys: `(utterances,)` what `keys_of` returns of each id, shard by shard.
        starts: `(shards + 1,)` position of the first utterance of each shard.
    """

    directory: RunDirectory
    shards: Sequence[CommittedShard]
    own: Sequence[pa.Field]
    keys: pa.Array
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, directory: RunDirectory) -> TranscribedRun:
        """Read the ids of a run.

        Raises:
            UserError: There is no run, or it has no transcripts.
        """
        directory.require_run()
        shards = [shard for shard in directory.commits().values() if shard.having("transcripts")]
        if not shards:
            raise UserError(f"{directory.root}: no transcripts are committed there; run with outputs=[transcripts]")
        found = [keys_of(stored) for shard in shards for stored in directory.tables(shard, "transcripts")]
        starts = np.cumsum([0, *map(len, found)])
        own = tables.own_columns(directory.manifest.schema())
        return cls(directory, shards, own, pa.concat_arrays(found), starts)

    def file(self, index: int) -> StoredTable:
        """Return the file of transcripts at an index of `shards`."""
        return self.directory.tables(self.shards[index], "transcripts")[0]

    def read(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Return `read_transcripts` of a file."""
        return read_transcripts(self.file(index), columns)

    def files_of(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the index in `shards` of the file that holds each position."""
        return np.searchsorted(self.starts, positions, "right") - 1

    def rows(self, positions: NDArray[np.integer], columns: Sequence[str]) -> pa.Table:
        """Read the rows at some positions, in their order. Files without any of them are not opened."""
        if not len(positions):
            return self.read(0, columns).slice(0, 0)
        files = self.files_of(positions)
        order = np.argsort(files, kind="stable")
        distinct, begins = np.unique(files[order], return_index=True)
        parts = [
            self.read(file, columns).take(positions[mine] - self.starts[file])
            for file, mine in zip(distinct.tolist(), np.split(order, begins[1:]), strict=True)
        ]
        return pa.concat_tables(parts).take(np.argsort(order, kind="stable"))


@dataclass(frozen=True)
class OnlyThere:
    """The utterances with a transcript in one run only.

    Attributes:
        count: Their number.
        failed: How many of them are failures of the other run.
        ids: The first ids.
    """

    count: int
    failed: int
    ids: Sequence[str]


@dataclass(frozen=True)
class Block:
    """Some matched utterances.

    Attributes:
        a, b: Their rows in both runs, in the same order.
    """

    a: pa.Table
    b: pa.Table


class Match:
    """The utterances of two runs, matched by id.

    Attributes:
        a, b: The runs.
        in_a, in_b: `(matched,)` positions of the matched utterances in both runs, in the order of the first run.
        only_a, only_b: What is in one run only.
    """

    def __init__(self, a: TranscribedRun, b: TranscribedRun) -> None:
        """Match the ids.

        Raises:
            UserError: No id is in both runs.
        """
        self.a, self.b = a, b
        found = pc.index_in(a.keys, value_set=b.keys).fill_null(-1).to_numpy(zero_copy_only=False)
        self.in_a = np.flatnonzero(found >= 0)
        self.in_b = found[self.in_a]
        if not len(self.in_a):
            raise UserError(
                f"{a.directory.root} and {b.directory.root}: no utterance has a transcript in both; their first ids "
                f"are {_first(a)} and {_first(b)}; give two runs of the same corpus"
            )
        lone = np.ones(len(b.keys), dtype=bool)
        lone[self.in_b] = False
        self.only_a = _only(a, np.flatnonzero(found < 0), b)
        self.only_b = _only(b, np.flatnonzero(lone), a)

    def __len__(self) -> int:
        """Return the number of matched utterances."""
        return len(self.in_a)

    def blocks(self, of_a: Sequence[str], of_b: Sequence[str]) -> Iterator[Block]:
        """Yield all matched utterances, in the order of the first run.

        Args:
            of_a: Columns to read from the first run. The column `counted` is added.
            of_b: Columns to read from the second run, likewise.
        """
        bounds = np.searchsorted(self.in_a, self.a.starts)
        begun: list[pa.Table] = []
        first = 0
        for file in range(len(self.a.shards)):
            here = self.in_a[bounds[file] : bounds[file + 1]] - self.a.starts[file]
            begun.append(self.a.read(file, of_a).take(here))
            last = int(bounds[file + 1])
            if sum(table.nbytes for table in begun) >= BLOCK_BYTES or last == len(self):
                if last > first:
                    yield Block(pa.concat_tables(begun), self.b.rows(self.in_b[first:last], of_b))
                begun, first = [], last


def _first(run: TranscribedRun) -> str:
    return repr(_ids(run, np.arange(1))[0]) if len(run.keys) else "none"


def _ids(run: TranscribedRun, positions: NDArray[np.int64]) -> list[str]:
    ids: list[str] = run.rows(positions, ["id"])["id"].to_pylist()
    return ids


def _only(run: TranscribedRun, positions: NDArray[np.int64], other: TranscribedRun) -> OnlyThere:
    lone = run.keys.take(pa.array(positions))
    failures = (
        keys_of(stored)
        for shard in (other.directory.commits().values() if len(lone) else ())
        if shard.num_failures
        for stored in other.directory.tables(shard, "failures")
    )
    failed = sum(pc.sum(pc.is_in(keys, value_set=lone)).as_py() or 0 for keys in failures)
    return OnlyThere(len(lone), failed, _ids(run, positions[:EXAMPLES]))
