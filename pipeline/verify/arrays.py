"""Checks the arrays of a committed shard: whether each has the size that its row says, and only finite numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.storage.files import StoredTable
from pipeline.storage.layouts import ArrayReader, ArrayTable, layout_metadata
from pipeline.storage.tables import metadata_of


def check_arrays(stored: StoredTable, table: ArrayTable, dtype: str | None, layout: str | None) -> Iterator[str]:
    """Yield what is wrong with the arrays of a file. Memory holds one row group at a time.

    Args:
        stored: The file.
        table: The table that the file belongs to.
        dtype: float16 or float32; `None` if `run.json` is lost.
        layout: list or binary; `None` if `run.json` is lost.

    Raises:
        OSError, pyarrow.ArrowException, ValueError, KeyError: The file cannot be read.
    """
    with stored.open() as file:
        metadata = metadata_of(file.schema_arrow)
        reader = ArrayReader(file.schema_arrow, metadata, table)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, ["id", "num_frames", table.width, table.values], use_threads=False)
            yield from _check_group(rows, reader, table)
            yield from _check_metadata(rows, metadata, table, dtype, layout)


def _check_metadata(
    rows: pa.Table, metadata: dict[str, object], table: ArrayTable, dtype: str | None, layout: str | None
) -> Iterator[str]:
    """Compare the metadata by which other readers decode the arrays with `run.json` and with the rows."""
    if dtype is None or layout is None:
        return
    for width in rows[table.width].unique().to_pylist():
        for key, expected in layout_metadata(dtype, layout, width).items():
            if metadata.get(key) != expected:
                yield f"its metadata say {key} {metadata.get(key)!r}, it holds {expected!r}"


def _check_group(rows: pa.Table, reader: ArrayReader, table: ArrayTable) -> Iterator[str]:
    ids, column = rows["id"], rows[table.values].combine_chunks()
    frames, widths = (np.asarray(rows[name].to_numpy(), np.int64) for name in ("num_frames", table.width))
    sizes, expected = reader.sizes(column), frames * widths * reader.dtype.itemsize
    for row in np.flatnonzero(sizes != expected)[:1].tolist():
        yield (
            f"holds {sizes[row]} bytes of {ids[row].as_py()!r}, "
            f"{frames[row]} frames of {widths[row]} numbers take {expected[row]}"
        )
        return
    wrong = _first_not_finite(reader.flat(column))
    if wrong is not None:
        row = int(np.searchsorted(np.cumsum(sizes), wrong * reader.dtype.itemsize, side="right"))
        yield f"holds numbers of {ids[row].as_py()!r} that are not finite"


def _first_not_finite(values: NDArray[np.floating]) -> int | None:
    """Return the index of the first NaN or infinite number; `None` if all are finite."""
    wrong = ~np.isfinite(values)
    return int(wrong.argmax()) if wrong.any() else None
