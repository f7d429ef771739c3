"""Checks the rows of a committed shard, without reading the arrays.

Each id of the shard must be either in all requested tables or in failures, and only once. No other id may occur. The
parts of an utterance must follow one another, and have as many frames as its transcript says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.scoring.counting import COUNTS
from pipeline.storage.commits import CommitRecord
from pipeline.storage.files import StoredTable

_NAMED = 3
"""Number of ids that a message names."""
_COLUMNS = {
    "transcripts": ("id", "num_frames", "text", *COUNTS),
    "emissions": ("id", "part", "start_frame", "num_frames"),
    "features": ("id", "layer", "part", "start_frame", "num_frames"),
    "failures": ("id", "error"),
}
"""Columns to read of each table."""

Finding = tuple[str, str]
"""Name of a table, and what is wrong with the table."""


@dataclass(frozen=True)
class Rows:
    """The rows of one table of a shard.

    Attributes:
        table: The columns that were read.
        codes: `(rows,)` index of each row's id among the ids of the shard; -1 for an id of another shard.
        count: Number of ids in the shard.
    """

    table: pa.Table
    codes: NDArray[np.int64]
    count: int

    def numbers(self, column: str) -> NDArray[np.int64]:
        """Return a column of integers, `(rows,)`; null is -1."""
        return np.asarray(self.table[column].fill_null(-1).to_numpy(), dtype=np.int64)

    def occurrences(self, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return how often each id of the shard occurs, `(ids,)`. `among`, `(rows,)`, restricts the rows."""
        codes = self.codes if among is None else self.codes[among]
        return np.bincount(codes[codes >= 0], minlength=self.count)


def check_rows(
    files: Mapping[str, StoredTable], record: CommitRecord, ids: pa.Array | None, layers: Sequence[int] | None
) -> Iterator[Finding]:
    """Yield each contradiction in the rows of a shard, or between the rows and the sums in the commit record.

    Args:
        files: File of each table, by table name; `failures` is one of them.
        record: The commit record.
        ids: Ids of the shard in the manifest. `None` if the manifest is lost: the tables are compared with one another.
        layers: Requested layers of features; `None` takes those in the table.

    Raises:
        OSError, pyarrow.ArrowException, ValueError, KeyError: A file cannot be read.
    """
    found = {table: stored.read(_COLUMNS[table]) for table, stored in files.items()}
    if ids is None:
        ids = pa.chunked_array([chunk for each in found.values() for chunk in each["id"].chunks], pa.string()).unique()
    rows = {table: _located(each, ids) for table, each in found.items()}
    failed = rows["failures"].occurrences()
    lengths: dict[str, NDArray[np.int64]] = {}
    for table, each in rows.items():
        if (each.codes < 0).any():
            foreign = each.table["id"].filter(pa.array(each.codes < 0)).unique()
            yield table, f"holds {_named(foreign)}, which this shard does not have"
        if table == "failures":
            if (failed > 1).any():
                yield table, f"holds {_named(ids, failed > 1)} more than once"
        elif table == "features":
            there = sorted({*each.numbers("layer").tolist()})
            for layer in sorted({*there, *(there if layers is None else layers)}):
                if layers is not None and layer not in layers:
                    yield table, f"holds layer {layer}, which was not requested"
                    continue
                of_layer = each.numbers("layer") == layer
                yield from _check_table(table, each, ids, failed, lengths, of_layer, f" of layer {layer}")
        else:
            yield from _check_table(table, each, ids, failed, lengths)
    yield from _check_sums(rows, record, len(ids))


def _located(table: pa.Table, ids: pa.Array) -> Rows:
    codes = pc.index_in(table["id"], value_set=ids).fill_null(-1).to_numpy()
    return Rows(table, np.asarray(codes, dtype=np.int64), len(ids))


def _check_table(
    table: str,
    rows: Rows,
    ids: pa.Array,
    failed: NDArray[np.int64],
    lengths: dict[str, NDArray[np.int64]],
    among: NDArray[np.bool_] | None = None,
    of: str = "",
) -> Iterator[Finding]:
    """Check one table, or one of its layers.

    Args:
        table: Name of the table.
        rows: Its rows.
        ids: Ids of the shard.
        failed: `(ids,)` how often each id is in failures.
        lengths: `(ids,)` frames of each utterance in the tables before, by table name. This table is added.
        among: `(rows,)` the rows to check; `None` for all.
        of: The layer in words, for messages.
    """
    present = rows.occurrences(among) > 0
    both = present & (failed > 0)
    neither = ~present & (failed == 0)
    if both.any():
        yield table, f"holds {_named(ids, both)}{of}, but so does failures"
    if neither.any():
        yield table, f"lacks {_named(ids, neither)}{of}, and so does failures"
    if table == "transcripts":
        twice = rows.occurrences() > 1
        if twice.any():
            yield table, f"holds {_named(ids, twice)} more than once"
        frames = np.bincount(rows.codes[rows.codes >= 0], rows.numbers("num_frames")[rows.codes >= 0], rows.count)
        lengths.setdefault(table, np.where(twice, -1, frames.astype(np.int64)))
        return
    frames, wrong = _frames_of_parts(rows, among)
    if wrong.any():
        yield table, f"holds parts of {_named(ids, wrong)}{of} twice or not all of them"
    for other, expected in lengths.items():
        odd = present & ~wrong & (expected > 0) & (frames != expected)
        if odd.any():
            first = int(np.flatnonzero(odd)[0])
            yield table, f"{_named(ids, odd)}{of}: {frames[first]} frames, but {other} has {expected[first]}"
    lengths.setdefault(table, np.where(wrong, -1, frames))


def _frames_of_parts(rows: Rows, among: NDArray[np.bool_] | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the frames of each id, `(ids,)`, and whether its parts are wrong, `(ids,)`.

    The parts of an utterance must have the numbers 0, 1, ..., and each must start where the one before ends.
    """
    here = rows.codes >= 0 if among is None else among & (rows.codes >= 0)
    codes, part, start, count = (
        values[here] for values in (rows.codes, *map(rows.numbers, ("part", "start_frame", "num_frames")))
    )
    order = np.lexsort((part, codes))
    codes, part, start, count = (values[order] for values in (codes, part, start, count))
    places = np.arange(len(codes))
    first = np.maximum.accumulate(np.where(np.diff(codes, prepend=-1) != 0, places, 0))
    before = np.cumsum(count) - count
    wrong = (part != places - first) | (start != before - before[first]) | (count < 0)
    frames = np.bincount(codes, count, rows.count).astype(np.int64)
    return frames, np.bincount(codes[wrong], minlength=rows.count) > 0


def _check_sums(rows: Mapping[str, Rows], record: CommitRecord, utterances: int) -> Iterator[Finding]:
    """Compare the sums in the commit record with the tables."""
    if record.utterances != utterances:
        yield "commits", f"counts {record.utterances} utterances, the shard has {utterances}"
    errors = dict(Counter(rows["failures"].table["error"].to_pylist()))
    if record.failures != errors:
        yield "commits", f"counts {_counts(record.failures)} failures, the table has {_counts(errors)}"
    if "transcripts" not in rows:
        return
    table = rows["transcripts"].table
    sums: dict[str, Any] = {name: pc.sum(table[name]).as_py() or 0 for name in COUNTS}
    sums["empty_transcripts"] = pc.sum(pc.equal(table["text"], "")).as_py() or 0
    for name, found in sums.items():
        if record.counts.get(name, 0) != found:
            yield "commits", f"counts {name} {record.counts.get(name, 0)}, the table has {found}"


def _counts(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(errors.items())) or "no"


def _named(ids: pa.Array, chosen: NDArray[np.bool_] | None = None) -> str:
    """Return the first few ids, and how many more there are, in words. `chosen`, `(ids,)`, selects among `ids`."""
    meant = ids if chosen is None else ids.filter(pa.array(chosen))
    said = ", ".join(map(repr, meant[:_NAMED].to_pylist()))
    return said + (f" and {len(meant) - _NAMED} more" if len(meant) > _NAMED else "")
