"""Reads Parquet lists, whose columns already have types. A row may hold the bytes of its recording."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audio.archives.members import Member
from pipeline.audio.archives.parquet import PATH, is_sound
from pipeline.datasets.formats import Batch, Listing, Row
from pipeline.datasets.formats.detect import parquet_files
from pipeline.datasets.formats.mapping import PLACES, Columns, roles_in, row_of, usual_columns
from pipeline.datasets.formats.source import MAX_LINE_BYTES, Source
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.remote_files import file_size, open_buffered

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
    """Return the list in a Parquet file, or in all Parquet files below a folder.

    The column of the recordings holds their paths, or their bytes, as `Audio` of Hugging Face and plain binary do. The
    bytes are not read. Other columns with bytes are left out if there are recordings in bytes.

    Args:
        source: The file or the folder.
        columns: The meaning of the columns.

    Raises:
        UserError: A file is not Parquet or has other columns than the first, or a column with bytes holds no recording.
    """
    sources = [replace(source, path=path, name=_name(source, path)) for path in parquet_files(source.path)]
    schemas = []
    for each in sources:
        with readable(each), open_buffered(each.path) as raw, pq.ParquetFile(raw) as file:
            schemas.append(file.schema_arrow)
        if schemas[-1].names != schemas[0].names:
            both = f"{', '.join(schemas[-1].names)}; those of {sources[0].name} are {', '.join(schemas[0].names)}"
            raise UserError(f"{each.name}: its columns are {both}; give files with the same columns")
    schema = schemas[0]
    with_bytes = [column.name for column in schema if _holds_bytes(column.type)]
    sounds = [name for name in with_bytes if is_sound(schema.field(name).type)]
    usual = [name for name in sounds if usual_columns("path", [name])]
    if columns.path is None and len(usual) == 1:
        columns = replace(columns, path=usual[0])
    if columns.path in sounds:
        # The bytes are the segment already, so other columns name its times in a recording that is not here.
        columns = replace(columns, **{role: getattr(columns, role) or "" for role in PLACES})
    roles = roles_in(columns, schema.names, source.name)
    sound = roles["path"] if roles["path"] in sounds else None
    if with_bytes and sound is None:
        raise UserError(
            f"{source.name}: column {with_bytes[0]!r} holds bytes, which the result tables cannot hold; set "
            "dataset.columns.path= to the column that holds the recordings, or write a list without this column"
        )
    own = frozenset(roles.values())
    read = [name for name in schema.names if name not in with_bytes]
    if sound is not None and pa.types.is_struct(schema.field(sound).type):
        read += [f"{sound}.{PATH}"] if schema.field(sound).type.get_field_index(PATH) >= 0 else []

    def batches() -> Iterator[Batch]:
        for first, batch in _batches(source, read):
            yield Batch(batch, partial(_rows, source, batch, first, roles))

    def rows() -> Iterator[Row]:
        for each in sources:
            with readable(each):
                size = file_size(each.path)
            for first, batch in _batches(each, read):
                for number, record in _records(each, batch, first):
                    place = f"row {number}" if len(sources) == 1 else f"{os.path.basename(each.path)}: row {number}"
                    if sound is not None:
                        name = (record.get(sound) or {}).get(PATH)
                        column = f"{sound}/{encode_path(name)}" if name else sound
                        record[sound] = Member("parquet", column, number - 1, size, each.path).path
                    yield row_of(place, record, roles)

    types = {column.name: _type(column.type) for column in schema if column.name not in {*own, *with_bytes}}
    known = {name: type_ for name, type_ in types.items() if type_ is not None}
    by_columns = len(sources) == 1 and not with_bytes
    by_columns &= all(column.name in {*own, *known} or _is_text(column.type) for column in schema)
    return Listing(rows, roles=roles, types=known, batches=batches if by_columns else None)


def _name(source: Source, path: str) -> str:
    return source.name if path == source.path else f"{source.name}: {os.path.relpath(path, source.path)}"


def _batches(source: Source, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the number of the first row of each batch, counted from 1, and the batch."""
    first = 1
    with readable(source), open_buffered(source.path) as raw, pq.ParquetFile(raw) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            batch.validate(full=True)  # Arrow does not check whether text is UTF-8
            yield first, batch
            first += batch.num_rows


def _records(source: Source, batch: pa.RecordBatch, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the values of each row of a batch, whose first row has the number `first`."""
    # Python copies every value, so rows with large ones are taken one at a time.
    rows = 1 if batch.nbytes > MAX_LINE_BYTES else max(1, batch.num_rows)
    for start in range(0, batch.num_rows, rows):
        with readable(source):
            records = batch.slice(start, rows).to_pylist()
        for number, record in enumerate(records, start=first + start):
            yield number, {name: _value(value) for name, value in record.items()}


def _rows(source: Source, batch: pa.RecordBatch, first: int, roles: Mapping[str, str]) -> Iterator[Row]:
    return (row_of(f"row {number}", record, roles) for number, record in _records(source, batch, first))


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
