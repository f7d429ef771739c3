"""Arrow tables to pandas frames."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import tables
from pipeline.storage.files import StoredTable

WORDS = pa.schema([("id", pa.string()), *tables.WORD])
"""One row a word."""

# A nullable integer column would read as float64; a count should stay a count.
_NULLABLE = {
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A pandas frame; integers and booleans have pandas' nullable types."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=_NULLABLE.get)
    return frame


def read_rows(stored: StoredTable, ids: Iterable[str] | None, columns: list[str] | None = None) -> pa.Table:
    """The rows of these ids, in the order of the file; every row where `ids` is `None`."""
    table = stored.read(columns)
    if ids is None:
        return table
    return table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))


def read_words(stored: StoredTable, ids: Iterable[str] | None) -> pa.Table:
    """The words of a file of `transcripts/`, schema `WORDS`."""
    table = read_rows(stored, ids, ["id", "words"])
    words = table["words"].combine_chunks()
    counts = words.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    repeated = table["id"].take(pa.array(np.repeat(np.arange(len(table)), counts)))
    return pa.table([repeated, *words.flatten().flatten()], schema=WORDS)
