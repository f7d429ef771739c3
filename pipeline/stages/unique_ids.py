"""Makes the ids of utterances unique, in memory that holds a hash of each id and not the ids again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.datasets import Warnings
from pipeline.datasets.formats.blocks import BLOCK_ROWS
from pipeline.runtime.errors import UserError


def with_unique_ids(table: pa.Table, warnings: Warnings) -> pa.Table:
    """Add `#2`, `#3`, ... to the second, third, ... of several utterances with one id.

    Raises:
        UserError: An id is empty.
    """
    if pc.any(pc.equal(table["id"], "")).as_py():
        path = table.filter(pc.equal(table["id"], ""))["path"][0]
        raise UserError(f"{path}: an utterance has an empty id; give each utterance an id")
    repeated = _repeated(table["id"])
    if not len(repeated):
        return table
    # Only an id that ends in a number can be the one that is made here.
    taken = set(table["id"].filter(pc.match_substring_regex(table["id"], r"#[0-9]+$")).to_pylist())
    ids, number, made = table["id"].take(pa.array(repeated)).to_pylist(), Counter[str](), dict[int, str]()
    for row, id_ in zip(repeated.tolist(), ids, strict=True):
        number[id_] += 1
        if number[id_] > 1:
            while f"{id_}#{number[id_]}" in taken:
                number[id_] += 1
            made[row] = f"{id_}#{number[id_]}"
            taken.add(made[row])
            warnings.add("ids that another utterance has, so that a number is added", f"{id_!r} becomes {made[row]!r}")
    changed = np.zeros(len(table), bool)
    changed[[*made]] = True
    column = pc.replace_with_mask(table["id"], pa.array(changed), pa.array([*made.values()], pa.string()))
    return table.set_column(0, table.schema.field("id"), column)


def _repeated(ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the rows whose id another row has too, ascending."""
    batches = pa.table({"id": ids}).to_batches(max_chunksize=BLOCK_ROWS)
    hashes = np.fromiter((hash(id_) for batch in batches for id_ in batch["id"].to_pylist()), np.int64, len(ids))
    in_order = np.sort(hashes)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    if not len(twice):
        return np.empty(0, np.int64)
    rows = np.flatnonzero(np.isin(hashes, twice))
    found = ids.take(pa.array(rows)).to_pylist()
    times = Counter(found)
    return rows[[times[id_] > 1 for id_ in found]]
