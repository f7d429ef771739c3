"""Reads an object of a store as a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from pipeline.runtime.places import Url, reaching

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from fsspec import AbstractFileSystem

_READ_AHEAD = 1 << 20
"""Bytes that a reader asks for beyond those it needs, so that small reads do not become one request each."""


class ObjectReader(io.RawIOBase):
    """An open object. What goes wrong while it is read names the object.

    Attributes:
        place: Where the object is.
    """

    def __init__(self, store: AbstractFileSystem, place: Url) -> None:
        """Open the object. What is read is asked for in ranges.

        Args:
            store: The file system of the store.
            place: The object.

        Raises:
            FileNotFoundError, UserError, StoreError: As `reaching`.
        """
        super().__init__()
        self.place = place
        with reaching(place):
            self._file = store.open(place.path, "rb", block_size=_READ_AHEAD, cache_type="readahead")

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer from the position, as `io.RawIOBase.readinto` does; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        with reaching(self.place):
            content: bytes = self._file.read(len(view))
        view[: len(content)] = content
        return len(content)

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
        """Close the object."""
        if not self.closed:
            self._file.close()
        super().close()
