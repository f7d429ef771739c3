"""Stages the arrays of a shard on disk, so that memory holds one row group and not a whole shard."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pipeline.records import ArrayPart
from pipeline.runtime.errors import naming
from pipeline.runtime.failpoints import failpoint

ROW_GROUP_BYTES = 16 << 20
"""Bytes of values in one Parquet row group. For lists of float16, Arrow's writer needs seven times as much memory in
addition. Larger groups are neither faster nor smaller."""
PART_BYTES = 32 << 20
"""Maximum bytes of values in one part, which is a row: seven minutes of a base model's features in float16."""


class StagedArrays:
    """A file in a staging folder that takes pieces of arrays in any order of rows, and returns whole arrays."""

    def __init__(self, path: Path, dtype: np.dtype, width: int) -> None:
        """Create the file.

        Args:
            path: The file.
            dtype: Type of the stored values.
            width: Number of columns of each array.
        """
        self._path = path
        self._file = open(path, "x+b")  # noqa: SIM115 - closed by __exit__
        self._dtype = dtype
        self._width = width
        self._stretches: dict[int, list[tuple[int, int]]] = {}
        self._end = 0

    def __enter__(self) -> StagedArrays:
        """Return this object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file. `ShardTables` removes the staging folder."""
        self._file.close()

    def append(self, row: int, array: NDArray[np.floating]) -> None:
        """Store the next frames of a row.

        Args:
            row: Row of the manifest.
            array: `(frames, width)`.
        """
        data = np.ascontiguousarray(array, dtype=self._dtype)
        assert data.ndim == 2, f"an array of shape {data.shape} is not frames of {self._width}"
        assert data.shape[1] == self._width, f"frames of {data.shape[1]} values are not frames of {self._width}"
        with naming(self._path):
            failpoint("spool")
            self._file.seek(self._end)  # `row_groups` moves the position
            self._file.write(data.data)
        self._stretches.setdefault(row, []).append((self._end, len(data)))
        self._end += data.nbytes

    def row_groups(self, rows: Iterable[int]) -> Iterator[list[ArrayPart]]:
        """Read the arrays of `rows`, in this order, one row group at a time. Long arrays are cut into parts."""
        with naming(self._path):
            self._file.flush()
        group: list[ArrayPart] = []
        size = 0
        for row in rows:
            for part in self._parts(row):
                if group and size + part.values.nbytes > ROW_GROUP_BYTES:
                    yield group
                    group, size = [], 0
                group.append(part)
                size += part.values.nbytes
        if group:
            yield group

    def _parts(self, row: int) -> Iterator[ArrayPart]:
        frame_bytes = self._width * self._dtype.itemsize
        left = sum(frames for _, frames in self._stretches[row])
        longest = max(1, PART_BYTES // frame_bytes)
        stretches = iter(self._stretches[row])
        offset, frames = next(stretches)
        start, part = 0, 0
        while True:
            values = np.empty((min(left, longest), self._width), self._dtype)
            filled = 0
            while filled < len(values):
                if frames == 0:
                    offset, frames = next(stretches)
                count = min(frames, len(values) - filled)
                self._file.seek(offset)
                piece = values[filled : filled + count]
                read = self._file.readinto(piece.data.cast("B")) if piece.size else 0
                if read != piece.nbytes:
                    raise OSError(errno.EIO, f"{read} of {piece.nbytes} staged bytes are there", str(self._path))
                offset, frames, filled = offset + count * frame_bytes, frames - count, filled + count
            yield ArrayPart(row, part, start, values)
            start, left, part = start + filled, left - filled, part + 1
            if left == 0:
                return
