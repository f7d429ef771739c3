"""Converts Arrow tables to pandas data frames."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import tables
from pipeline.storage.files import StoredTable

WORDS = pa.schema([("id", pa.string()), *tables.WORD])
"""Schema of words: one row per word."""

# Without these types, pandas would convert an integer column with nulls to float64.
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Convert a table to a pandas data frame. Integers and booleans get pandas' nullable types."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=_NULLABLE.get)
    return frame


def read_rows(stored: StoredTable, ids: Iterable[str] | None, columns: list[str] | None = None) -> pa.Table:
    """Read the rows of these ids, in the order of the file; all rows if `ids` is `None`."""
    table = stored.read(columns)
    if ids is None:
        return table
    return table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))


def read_words(stored: StoredTable, ids: Iterable[str] | None) -> pa.Table:
    """Read the words of a file of `transcripts/`, with schema `WORDS`."""
    table = read_rows(stored, ids, ["id", "words"])
    words = table["words"].combine_chunks()
    counts = words.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    repeated = table["id"].take(pa.array(np.repeat(np.arange(len(table)), counts)))
    return pa.table([repeated, *words.flatten().flatten()], schema=WORDS)
