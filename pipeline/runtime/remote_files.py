"""Recordings and lists, which lie on this machine or in an object store."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.runtime.errors import StoreError, UserError
from pipeline.runtime.object_reader import ObjectReader
from pipeline.runtime.paths import resolve_path
from pipeline.runtime.places import Url, filesystem, is_url, place, reaching, tag_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def file_size(path: str) -> int:
    """Return the size in bytes of a file or of an object.

    Raises:
        OSError: There is none.
        ValueError: There cannot be one.
    """
    return file_version(path)[0]


def file_version(path: str) -> tuple[int, str]:
    """Return the size in bytes of a file or of an object, and what differs when its content has been replaced.

    Raises:
        OSError, ValueError: As `file_size`.
    """
    if not is_url(path):
        status = os.stat(resolve_path(path))
        return status.st_size, str(status.st_mtime_ns)
    with _reaching(path) as url:
        found = filesystem(url).info(url.path)
        return int(found["size"]), str(tag_of(found))


def is_there(path: str) -> bool:
    """Whether a path is that of a file or a folder, or a URL is that of objects, or of what the store does not show."""
    if not is_url(path):
        return os.path.exists(resolve_path(path))
    try:
        with _reaching(path) as url:
            return bool(filesystem(url).exists(url.path))
    except OSError:
        return True


def is_folder(path: str) -> bool:
    """Whether a path is that of a folder, or objects have names that begin with a URL and a slash."""
    if not is_url(path):
        return os.path.isdir(path)
    with _reaching(path) as url:
        return bool(filesystem(url).isdir(url.path))


def open_buffered(path: str) -> io.BufferedReader:
    """Open a file or an object for reading.

    Raises:
        OSError: It cannot be opened.
    """
    return io.BufferedReader(RemoteFile(path)) if is_url(path) else open(path, "rb")


def names_in(folder: str) -> Iterator[str]:
    """Yield the names in a folder, or those of the objects directly below a URL.

    Raises:
        OSError: There is no such folder, or it cannot be read.
    """
    if is_url(folder):
        yield from _keys(folder, "/")
    else:
        yield from os.listdir(folder)


def walk_url(folder: str) -> Iterator[str]:
    """Yield the key of each object below a URL, relative to it, sorted bytewise. Hidden names are left out.

    Raises:
        OSError: The store cannot be used.
    """
    for key in _keys(folder):
        if not any(part.startswith(".") for part in key.split("/")):
            yield key


def _keys(folder: str, delimiter: str = "") -> Iterator[str]:
    """Yield the key of each object below a URL, relative to it, sorted bytewise.

    S3 lists a thousand keys at a time in this order, so memory holds a thousand. The clients of other stores return all
    keys at once.

    Args:
        folder: The URL.
        delimiter: `/` leaves out the objects further below.
    """
    with _reaching(folder) as url:
        store = filesystem(url)
        if not hasattr(store, "call_s3"):
            found = store.find(url.path, maxdepth=1 if delimiter else None)
            yield from sorted((key.removeprefix(f"{url.path}/") for key in found), key=os.fsencode)
            return
        bucket, key, _ = store.split_path(url.path)
        prefix = f"{key}/" if key else ""
        asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter, **store.req_kw}
        while True:
            page = store.call_s3("list_objects_v2", **asked)
            yield from (each["Key"].removeprefix(prefix) for each in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]


class RemoteFile(ObjectReader):
    """An object with a recording or a list, open for reading."""

    def __init__(self, path: str) -> None:
        """Open an object.

        Raises:
            OSError: There is none, or the store cannot be used.
        """
        with _reaching(path) as url:
            super().__init__(filesystem(url), url)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer from the position, as `io.RawIOBase.readinto` does; returns the number of bytes.

        Raises:
            OSError: The store cannot be used.
        """
        with _reaching(str(self.place)):
            return super().readinto(buffer)


@contextmanager
def _reaching(path: str) -> Iterator[Url]:
    """Yield the place of an object. Whatever goes wrong with a store in the context becomes an `OSError`.

    So a recording that cannot be had costs its row.

    Raises:
        OSError: With the reason.
    """
    try:
        url = place(path)
        assert isinstance(url, Url)
        with reaching(url):
            yield url
    except (UserError, StoreError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise OSError(errno.EIO, reason, path) from error
