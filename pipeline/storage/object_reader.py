"""Reads an object of a store as a file."""

from __future__ import annotations

import io
from typing import Any

from pipeline.runtime.places import Place, reaching


class ObjectReader(io.RawIOBase):
    """An open object. What goes wrong while it is read names the object."""

    def __init__(self, file: Any, place: Place) -> None:
        """Read nothing yet.

        Args:
            file: The open file of fsspec.
            place: Its place, for messages.
        """
        super().__init__()
        self._file, self._place = file, place

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; all that are left if `size` is negative."""
        with reaching(self._place):
            content: bytes = self._file.read(-1 if size is None else size)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset in bytes, and return it."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the offset in bytes."""
        return int(self._file.tell())

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
