"""Opens archives, and gives a part of an open file as a file."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, cast

from pipeline.runtime.errors import AudioError
from pipeline.runtime.paths import resolve_path
from pipeline.runtime.places import is_url
from pipeline.runtime.remote_files import RemoteFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def open_file(path: str) -> BinaryIO:
    """Open a file of any kind, or an object of a store, for reading, without a buffer.

    Args:
        path: Path as in the manifest; `%XX` stands for an undecodable byte.

    Raises:
        AudioError: The path is not that of a regular file.
        OSError: The file cannot be opened.
    """
    if is_url(path):
        return cast(BinaryIO, RemoteFile(path))
    found = resolve_path(path)
    _require_regular(os.stat(found))
    # Opening must not block if a FIFO has replaced the file since the check.
    file = open(found, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        _require_regular(os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes. The position is then at its end."""
    return file.seek(0, os.SEEK_END)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a path for `open`; does not wait if the path is a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    raise AudioError("unreadable", f"{kind}, not a recording; it was not opened")


class RangeFile(io.RawIOBase):
    """The bytes from `start` to `start + size` of an open file, as a file that can be read and sought in.

    Nobody else may use the file in the meantime. It stays open when the range is closed.
    """

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        """Take `size` bytes of `file` from byte `start`."""
        super().__init__()
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position in the range."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, as `io.RawIOBase.seek` does.

        Raises:
            ValueError: The position is negative.
        """
        position = offset + (0, self._position, self._size)[whence]
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer from the position, as `io.RawIOBase.readinto` does; returns the number of bytes."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        self._file.seek(self._start + self._position)
        count: int = self._file.readinto(view)  # type: ignore[attr-defined]  # every file in binary mode has it
        self._position += count
        return count
