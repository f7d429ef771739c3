"""Writes the rows of an Arrow table as JSON, a column at a time, because Python objects take ten times as long."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_BLOCK_ROWS = 16_384
_ESCAPED = r'["\\\x00-\x1f]'
"""Characters that JSON writes otherwise than they are."""


def json_rows(table: pa.Table) -> Iterator[pa.Buffer]:
    """Yield the JSON objects of the rows, one behind the other, in blocks of many rows.

    The bytes are those of `json.dumps(row, ensure_ascii=False, sort_keys=True)`.

    Args:
        table: Columns of texts, whole numbers, floats and booleans.
    """
    for batch in table.to_batches(max_chunksize=_BLOCK_ROWS):
        parts: list[Any] = []
        for name in sorted(batch.schema.names):
            parts += [f"{', ' if parts else '{'}{json.dumps(name, ensure_ascii=False)}: ", _values(batch[name])]
        rows = pc.binary_join_element_wise(*parts, "}", "")
        yield rows.buffers()[2].slice(0, pc.sum(pc.binary_length(rows)).as_py())


def _values(column: pa.Array) -> pa.Array:
    """Return the values of a column in JSON."""
    if column.null_count == len(column):
        return pa.array(["null"]).take(pa.array([0] * len(column)))
    if pa.types.is_string(column.type):
        if pc.any(pc.match_substring_regex(column, _ESCAPED)).as_py():
            column = _each(encode_basestring, column)
        else:
            column = pc.binary_join_element_wise('"', column, '"', "")
    elif pa.types.is_floating(column.type):
        column = _each(_float, column)
    else:
        column = column.cast(pa.string())
    return column.fill_null("null")


def _each(encode: Callable[[Any], str], column: pa.Array) -> pa.Array:
    return pa.array([None if value is None else encode(value) for value in column.to_pylist()], pa.string())


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else json.dumps(value)
