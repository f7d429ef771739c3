"""Compares the digests of the committed utterances, and names the first utterance of each sound.

A million digests take 24 MB, because they are compared as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.storage.commits import CommittedShard
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import AUDIO_DIGEST

HEX_DIGITS = 32
"""Length of a digest in `transcripts/`."""


@dataclass(frozen=True)
class Duplicates:
    """The utterances that share their audio with another utterance.

    Attributes:
        rows: `(members,)` manifest rows of these utterances, ascending.
        first: `(members,)` the lowest manifest row with the same audio.
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]

    @property
    def copies(self) -> NDArray[np.int64]:
        """Manifest rows of the utterances whose audio an earlier utterance has too, ascending."""
        return np.asarray(self.rows[self.rows != self.first])

    def same_as(self, rows: NDArray[np.int64], ids: pa.ChunkedArray) -> pa.Array:
        """Return the column `same_as` for some utterances.

        Args:
            rows: Manifest rows of these utterances.
            ids: The ids of all rows of the manifest.

        Returns:
            The id of the first utterance with the same audio; null for that utterance itself, and for audio that occurs
            once.
        """
        if not len(self.rows):
            return pa.nulls(len(rows), pa.string())
        place = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        first = self.first[place]
        is_copy = (self.rows[place] == rows) & (first != rows)
        taken = ids.take(pa.array(first, mask=~is_copy))
        return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken


def find_duplicates(rows: NDArray[np.int64], digests: NDArray[np.uint64]) -> Duplicates:
    """Find the utterances whose digests are equal.

    Args:
        rows: `(utterances,)` manifest rows.
        digests: `(utterances, 2)` as `digests_as_numbers` returns them.
    """
    if not len(rows):
        return Duplicates(np.empty(0, np.int64), np.empty(0, np.int64))
    order = np.lexsort((rows, digests[:, 1], digests[:, 0]))
    rows, digests = rows[order].astype(np.int64), digests[order]
    begins = np.flatnonzero(np.append(True, (digests[1:] != digests[:-1]).any(axis=1)))
    sizes = np.diff(np.append(begins, len(rows)))
    first = np.repeat(rows[begins], sizes)
    several = np.repeat(sizes > 1, sizes)
    rows, first = rows[several], first[several]
    order = np.argsort(rows)
    return Duplicates(rows[order], first[order])


def digests_as_numbers(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return digests, which are not null, as pairs of numbers, `(utterances, 2)`.

    Raises:
        pyarrow.ArrowInvalid: One of them is not 32 hexadecimal digits.
    """
    if not all_are_digests(column):
        raise pa.ArrowInvalid(f"a value of {AUDIO_DIGEST} is not {HEX_DIGITS} hexadecimal digits")
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), np.uint64).reshape(-1, 2)


def all_are_digests(column: pa.ChunkedArray) -> bool:
    """Whether each value of a column is 32 hexadecimal digits."""
    well_formed = pc.match_substring_regex(column, f"^[0-9a-f]{{{HEX_DIGITS}}}$").fill_null(False)
    return bool(pc.all(well_formed, min_count=0).as_py())


@dataclass(frozen=True)
class Heard:
    """The committed utterances whose audio is known.

    Attributes:
        rows: `(utterances,)` manifest rows.
        digests: `(utterances, 2)` their digests.
    """

    rows: NDArray[np.int64]
    digests: NDArray[np.uint64]


def read_digests(directory: RunDirectory, records: Mapping[int, CommittedShard], manifest: pa.Table) -> Heard:
    """Read the digests of all committed utterances.

    Args:
        directory: The run. Its transcripts have digests.
        records: The committed shards, by shard.
        manifest: The columns `id` and `shard` of the manifest.

    Raises:
        OSError, pyarrow.ArrowException: A table cannot be read.
    """
    rows, digests = [np.empty(0, np.int64)], [np.empty((0, 2), np.uint64)]
    for shard, committed in sorted(records.items()):
        for stored in directory.tables(committed, "transcripts"):
            table = stored.read(["id", AUDIO_DIGEST])
            table = table.filter(pc.is_valid(table[AUDIO_DIGEST]))
            rows.append(rows_of(table["id"], manifest, shard))
            digests.append(digests_as_numbers(table[AUDIO_DIGEST]))
    return Heard(np.concatenate(rows), np.concatenate(digests))


def rows_of(ids: pa.ChunkedArray, manifest: pa.Table, shard: int) -> NDArray[np.int64]:
    """Return the manifest rows of utterances of one shard.

    Args:
        ids: Their ids.
        manifest: The columns `id` and `shard` of the manifest.
        shard: The shard.

    Raises:
        pyarrow.ArrowInvalid: The shard has no utterance with such an id.
    """
    first, last = np.searchsorted(manifest["shard"].to_numpy(), [shard, shard + 1])
    there = manifest["id"].slice(first, last - first).combine_chunks()
    places = pc.index_in(ids, value_set=there)
    if places.null_count:
        raise pa.ArrowInvalid(f"an id of shard {shard} is not in the manifest")
    return np.asarray(places.to_numpy(), dtype=np.int64) + np.int64(first)
