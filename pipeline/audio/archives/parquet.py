"""Reads recordings in the rows of Parquet files, such as those of Hugging Face: `struct<bytes, path>`, or bytes alone.

The bytes of a row group are read at once and held, because a Parquet file has no smaller part that can be read alone.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audio.archives.held import HELD, Held
from pipeline.audio.archives.members import Member
from pipeline.audio.archives.ranges import size_of
from pipeline.runtime.errors import AudioError

BYTES, PATH = "bytes", "path"
"""The fields of a struct: the recording, and its name."""
_FOOTERS = Held(2**25)
"""The metadata of files, with the first row of each row group."""


def is_sound(arrow_type: pa.DataType) -> bool:
    """Whether the values of a column may be recordings: bytes, or a struct with bytes."""
    if pa.types.is_struct(arrow_type):
        index = arrow_type.get_field_index(BYTES)
        return index >= 0 and is_sound(arrow_type.field(index).type)
    return bool(pa.types.is_binary(arrow_type) or pa.types.is_large_binary(arrow_type))


def open_entry(file: BinaryIO, member: Member) -> tuple[BinaryIO, int]:
    """Return the recording in a row of an open file, and its size in bytes.

    Raises:
        AudioError: The file has changed, or the row has no recording.
        OSError: The file cannot be read.
    """
    size = size_of(file)
    if size != member.size:
        message = f"the Parquet file has {size} bytes, but had {member.size} bytes when the manifest was made"
        raise AudioError("changed", message)
    column = member.name.partition("/")[0]
    try:
        value = _value(file, member.archive, column, member.position)
    except (pa.ArrowException, OSError, KeyError, IndexError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of Arrow
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AudioError("unreadable", f"row {member.position} of the Parquet file cannot be read ({reason})") from None
    if value is None:
        raise AudioError("empty", f"the column {column!r} has no bytes in this row")
    return io.BytesIO(value), len(value)


def _value(file: BinaryIO, archive: str, column: str, row: int) -> Any:
    """Return the bytes in a row as a buffer; `None` if there are none."""

    def read_metadata() -> tuple[Any, int]:
        metadata = pq.ParquetFile(file).metadata
        starts = np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))])
        return (metadata, starts), metadata.serialized_size

    def read_group() -> tuple[Any, int]:
        reader = pq.ParquetFile(file, metadata=metadata)
        is_struct = pa.types.is_struct(reader.schema_arrow.field(column).type)
        name = f"{column}.{BYTES}" if is_struct else column
        values = reader.read_row_group(group, columns=[name])[column]
        return values, values.nbytes

    key = (archive, size_of(file))
    metadata, starts = _FOOTERS.get(key, read_metadata)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    value = HELD.get((*key, column, group), read_group)[row - int(starts[group])]
    if isinstance(value, pa.StructScalar):
        value = value[BYTES] if value.is_valid else None
    return None if value is None else value.as_buffer()
