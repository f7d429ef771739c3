"""Reads Parquet lists, whose columns already have types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.formats import Batch, Listing, Row
from pipeline.datasets.formats.mapping import Columns, roles_in, row_of
from pipeline.datasets.formats.source import MAX_LINE_BYTES, Source
from pipeline.runtime.errors import UserError

_BATCH_ROWS = 4096

_TYPES = {
    pa.bool_(): "bool",
    pa.int8(): "int16",
    pa.uint8(): "int16",
    pa.int16(): "int16",
    pa.uint16(): "int32",
    pa.int32(): "int32",
    pa.uint32(): "int64",
    pa.int64(): "int64",
    pa.float16(): "float64",
    pa.float32(): "float64",
    pa.float64(): "float64",
}
"""Types of extra columns. A decimal becomes float64. The type of any other column follows from its values: texts are
read as in a CSV file, dates become ISO 8601, lists and structs become JSON."""


def listing(source: Source, columns: Columns) -> Listing:
    """Return the list in a Parquet file; `columns` gives the meaning of the columns.

    Raises:
        UserError: The file is not Parquet, or a column holds bytes, such as embedded audio.
    """
    with readable(source), pq.ParquetFile(source.path) as file:
        schema = file.schema_arrow
    roles = roles_in(columns, schema.names, source.name)
    for column in schema:
        if _holds_bytes(column.type):
            raise UserError(
                f"{source.name}: column {column.name!r} holds bytes, which the result tables cannot hold; "
                "write the recordings to files, and a list of them without this column"
            )
    own = frozenset(roles.values())

    def batches() -> Iterator[Batch]:
        for first, columns in _batches(source):
            yield Batch(columns, partial(_rows, source, columns, first, roles))

    def rows() -> Iterator[Row]:
        for batch in batches():
            yield from batch.rows()

    types = {column.name: _type(column.type) for column in schema if column.name not in own}
    known = {name: type_ for name, type_ in types.items() if type_ is not None}
    by_columns = all(column.name in {*own, *known} or _is_text(column.type) for column in schema)
    return Listing(rows, roles=roles, types=known, batches=batches if by_columns else None)


def _batches(source: Source) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the number of the first row of each batch, counted from 1, and the batch."""
    first = 1
    with readable(source), pq.ParquetFile(source.path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            batch.validate(full=True)  # Arrow does not check whether text is UTF-8
            yield first, batch
            first += batch.num_rows


def _rows(source: Source, batch: pa.RecordBatch, first: int, roles: Mapping[str, str]) -> Iterator[Row]:
    """Yield the rows of a batch, whose first row has the number `first`."""
    # Python copies every value, so rows with large ones are taken one at a time.
    rows = 1 if batch.nbytes > MAX_LINE_BYTES else max(1, batch.num_rows)
    for start in range(0, batch.num_rows, rows):
        with readable(source):
            records = batch.slice(start, rows).to_pylist()
        for number, record in enumerate(records, start=first + start):
            yield row_of(f"row {number}", {name: _value(value) for name, value in record.items()}, roles)


@contextmanager
def readable(source: Source) -> Iterator[None]:
    """Turn an error of Arrow in the block into one line that names the file.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{source.name}: not a readable Parquet file ({reason}); write it again") from None


def _type(arrow_type: pa.DataType) -> str | None:
    plain = _plain(arrow_type)
    return "float64" if pa.types.is_decimal(plain) else _TYPES.get(plain)


def _value(value: Any) -> Any:
    """Return a value as the other formats have it: decimals as floats, dates and times as texts."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return str(value) if isinstance(value, timedelta) else value


def _is_text(arrow_type: pa.DataType) -> bool:
    plain = _plain(arrow_type)
    return plain in (pa.string(), pa.large_string(), pa.null())


def _plain(arrow_type: pa.DataType) -> pa.DataType:
    """Return the type of the values, without dictionary encoding or extension types."""
    if pa.types.is_dictionary(arrow_type):
        return arrow_type.value_type
    return arrow_type.storage_type if isinstance(arrow_type, pa.BaseExtensionType) else arrow_type


def _holds_bytes(arrow_type: pa.DataType) -> bool:
    plain = _plain(arrow_type)
    if pa.types.is_binary(plain) or pa.types.is_large_binary(plain) or pa.types.is_fixed_size_binary(plain):
        return True
    return any(_holds_bytes(plain.field(index).type) for index in range(plain.num_fields))
