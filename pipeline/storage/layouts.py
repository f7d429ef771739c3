"""The two layouts of the arrays in `emissions/` and `features/`. No other module knows how an array is stored.

`list`: a row holds a list of numbers, which every reader of Parquet understands.

`binary`: a row holds the bytes of the array: little-endian numbers, one frame after the other. The metadata of the file
have `layout`, and what a reader needs to decode the bytes: `dtype` as NumPy writes it (`<f2`), and `width`, the numbers
in a frame. The bytes are stored as they are, without compression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

LIST, BINARY = LAYOUTS = ("list", "binary")
_STORED: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


@dataclass(frozen=True)
class ArrayTable:
    """A table of arrays.

    Attributes:
        name: Name of the table.
        values: Column of the arrays.
        width: Column of their number of columns.
    """

    name: str
    values: str
    width: str


EMISSIONS = ArrayTable("emissions", "emission", "num_labels")
FEATURES = ArrayTable("features", "feature", "dim")
ARRAY_TABLES = {table.name: table for table in (EMISSIONS, FEATURES)}


def column_type(dtype: str, layout: str) -> pa.DataType:
    """Return the Arrow type of a column of arrays; `dtype` is float16 or float32."""
    # A part has at most 32 MiB, so the offsets of a row group, which has hardly more, fit into 32 bits.
    return pa.binary() if layout == BINARY else pa.list_(pa.float16() if dtype == "float16" else pa.float32())


def layout_metadata(dtype: str, layout: str, width: int) -> dict[str, Any]:
    """Return the file metadata by which a reader decodes the arrays; none for lists, which need none.

    Args:
        dtype: float16 or float32.
        layout: list or binary.
        width: Numbers in a frame.
    """
    return {"layout": BINARY, "dtype": _STORED[dtype].str, "width": width} if layout == BINARY else {}


def to_column(arrays: Sequence[NDArray[np.floating]], dtype: str, layout: str) -> pa.Array | pa.ChunkedArray:
    """Return arrays, each `(frames, width)`, as a column. In `binary`, the column shares the memory of the arrays."""
    if layout == BINARY:
        values = (np.ascontiguousarray(array, _STORED[dtype]) for array in arrays)
        return pa.chunked_array([_one_value(each) for each in values], pa.binary())
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([array.size for array in arrays], out=offsets[1:])
    flat = np.concatenate([array.reshape(-1) for array in arrays]) if arrays else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat.astype(dtype, copy=False)))


def _one_value(array: NDArray[np.floating]) -> pa.BinaryArray:
    offsets = np.asarray([0, array.nbytes], np.int32)
    return pa.BinaryArray.from_buffers(pa.binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(array)])


def writer_options(column: pa.Field) -> dict[str, Any]:
    """Return the options of `pyarrow.parquet.ParquetWriter` for a column of arrays."""
    if column.type == pa.binary():
        # zstd makes features 8 % smaller and takes three to four times as long; LZ4 makes them no smaller.
        return {"compression": "none"}
    # BYTE_STREAM_SPLIT makes float32 compressible. float16 stays plain, because DuckDB cannot read float16 with
    # BYTE_STREAM_SPLIT.
    split = [f"{column.name}.list.element"] if column.type.value_type == pa.float32() else False
    return {"compression": "zstd", "compression_level": 1, "use_byte_stream_split": split}


class ArrayReader:
    """Decodes the column of arrays of a file, whatever its layout.

    Attributes:
        dtype: Type of the stored numbers.
    """

    def __init__(self, schema: pa.Schema, metadata: dict[str, Any], table: ArrayTable) -> None:
        """Find out how the arrays are stored.

        Args:
            schema: Columns of the file.
            metadata: Metadata of the file, as `tables.metadata_of` returns them.
            table: The table that the file belongs to.

        Raises:
            ValueError: The metadata do not say how bytes are decoded.
        """
        type_ = schema.field(table.values).type
        self._binary = type_ == pa.binary()
        if self._binary:
            found = [each for each in _STORED.values() if each.str == metadata.get("dtype")]
            if not found:
                raise ValueError(f"its metadata say dtype {metadata.get('dtype')!r}, which is neither <f2 nor <f4")
            self.dtype = found[0]
        else:
            self.dtype = np.dtype(type_.value_type.to_pandas_dtype())

    def array(self, column: pa.ChunkedArray, row: int, width: int) -> NDArray[np.floating]:
        """Return the array of one row, `(frames, width)`. It cannot be written to."""
        value = column[row]
        flat = np.frombuffer(value.as_buffer(), self.dtype) if self._binary else self._numbers(value.values)
        return flat.reshape(-1, width)

    def sizes(self, column: pa.Array) -> NDArray[np.int64]:
        """Return the bytes of each row's array, `(rows,)`."""
        if self._binary:
            return np.asarray(pc.binary_length(column).to_numpy(zero_copy_only=False), dtype=np.int64)
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        return np.asarray(lengths * self.dtype.itemsize, dtype=np.int64)

    def flat(self, column: pa.Array) -> NDArray[np.floating]:
        """Return the numbers of all rows, one row after the other. Each size must be that of whole numbers."""
        if not self._binary:
            return self._numbers(column.flatten())
        _, offsets, data = column.buffers()
        bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        values = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]] if len(column) else np.empty(0, np.uint8)
        return values.view(self.dtype)

    @staticmethod
    def _numbers(values: pa.Array) -> NDArray[np.floating]:
        return np.asarray(values.to_numpy(zero_copy_only=False))
