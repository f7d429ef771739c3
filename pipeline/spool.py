"""Arrays of a shard on disk while it grows, so that memory is bounded by a row group and not by the shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

ROW_GROUP_BYTES = 64 << 20
"""Values in one Parquet row group: what a reader must hold to read one utterance."""


class ArraySpool:
    """Arrays in the order they come, read back in any order. The file lives in a staging folder."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        """Create `path`; `dtype` is that of the values kept."""
        self._file = open(path, "w+b")  # noqa: SIM115 - closed by __exit__
        self._dtype = dtype
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> ArraySpool:
        """The spool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; whoever made the staging folder removes it."""
        self._file.close()

    def append(self, row: int, array: NDArray[np.floating]) -> None:
        """Keep the array of manifest row `row`."""
        data = np.ascontiguousarray(array, dtype=self._dtype)
        self._file.seek(self._end)  # reading moves the position
        self._file.write(data.data)
        self._places[row] = (self._end, data.size)
        self._end += data.nbytes

    def row_groups(self, rows: Sequence[int]) -> Iterator[tuple[list[int], list[NDArray[np.floating]]]]:
        """Read the arrays of `rows` back, flat, in that order, a row group at a time."""
        self._file.flush()
        group: list[int] = []
        arrays: list[NDArray[np.floating]] = []
        size = 0
        for row in rows:
            offset, count = self._places[row]
            if group and size + count * self._dtype.itemsize > ROW_GROUP_BYTES:
                yield group, arrays
                group, arrays, size = [], [], 0
            self._file.seek(offset)
            arrays.append(np.fromfile(self._file, self._dtype, count))
            group.append(row)
            size += count * self._dtype.itemsize
        if group:
            yield group, arrays
