"""Places of files: paths on this machine, and URLs of object stores such as `s3://bucket/runs/voices`.

A `Url` has the part of the interface of `pathlib.Path` that names need, and nothing that would read a disk.

Stores are reached through fsspec, whose packages know protocols, credentials and retries. obstore was tried: it is nine
times as fast for small objects, but it hangs in a process that was forked after its first request, and recordings are
decoded in such processes.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import resolve_path

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from fsspec import AbstractFileSystem

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}
"""The package that reaches each kind of store."""
_EXTRAS = {"hf": "huggingface"}
"""The extra that installs it, where its name is not that of the kind."""
READ_AHEAD = 1 << 20
"""Bytes that a reader asks for beyond those it needs, so that small reads do not become one request each."""
_HEAD = re.compile(r"[a-z][a-z0-9+.-]*://[^/]*")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_OPTIONS: dict[str, dict[str, Any]] = {
    # Retries wait longer each time, by a random factor. A request to a store that says nothing ends after a while.
    "s3": {
        "config_kwargs": {
            "retries": {"mode": "standard", "total_max_attempts": 8},
            "connect_timeout": 10,
            "read_timeout": 30,
        }
    },
}


@dataclass(frozen=True, order=True)
class Url:
    """The place of an object, or of all objects whose names begin with it and a slash.

    Attributes:
        protocol: `s3`, `gs`, `az` or `hf`.
        path: The bucket and the key, without a slash at the end.
    """

    protocol: str
    path: str

    def __str__(self) -> str:
        """Return `s3://bucket/key`."""
        return f"{self.protocol}://{self.path}"

    def __truediv__(self, name: str) -> Url:
        """Return the place of a name below this one."""
        return Url(self.protocol, f"{self.path}/{name}".rstrip("/"))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The place without the last part of the key; the bucket is its own parent."""
        return Url(self.protocol, self.path.rpartition("/")[0] or self.path)

    def with_name(self, name: str) -> Url:
        """Return the place with another last part of the key."""
        return self.parent / name

    def absolute(self) -> Url:
        """Return this place."""
        return self

    resolve = absolute


Place = Path | Url
"""A path on this machine, or the URL of an object store."""


def place(text: str) -> Place:
    """Return the place that a text names.

    Raises:
        UserError: It is a URL of an unknown kind, or names no bucket.
    """
    match = _URL.fullmatch(text)
    if match is None:
        return Path(text)
    protocol, path = match[1], match[2].rstrip("/")
    if protocol not in _PACKAGES:
        known = ", ".join(f"{name}://" for name in _PACKAGES)
        raise UserError(f"{text}: {protocol}:// is not known; give a path, or a place that begins with one of {known}")
    if not path or path.startswith("/"):
        raise UserError(f"{text}: names no bucket; give {protocol}://BUCKET/NAME")
    if "@" in path.partition("/")[0]:
        raise UserError(f"{text}: names a user; credentials belong in the environment or in the store's own files")
    return Url(protocol, path)


def filesystem(url: Url) -> AbstractFileSystem:
    """Return the file system of a store. A process that was forked gets one of its own.

    Raises:
        UserError: The package for such stores is not installed.
    """
    package = _PACKAGES[url.protocol]
    if importlib.util.find_spec(package) is None:
        extra = _EXTRAS.get(url.protocol, url.protocol)
        raise UserError(f"{url}: needs the package {package}, which the extra {extra} has; run pip install {package}")
    import fsspec

    found: AbstractFileSystem = fsspec.filesystem(
        url.protocol, use_listings_cache=False, **_OPTIONS.get(url.protocol, {})
    )
    return found


@contextmanager
def reaching(place: Place | str) -> Iterator[None]:
    """Turn whatever the client of a store raises into an `OSError` that names the place.

    Raises:
        FileNotFoundError, FileExistsError: There is no such object, or there is one.
        OSError: Anything else, with the reason in one line.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError) as error:
        code = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EEXIST
        raise type(error)(code, os.strerror(code), str(place)) from None
    except UserError:
        raise
    except Exception as error:
        code = getattr(error, "errno", None) or errno.EIO
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(code, reason, str(place)) from error


def is_url(path: str) -> bool:
    """Whether a path is the URL of an object store."""
    match = _URL.fullmatch(path) if "://" in path else None
    return match is not None and match[1] in _PACKAGES


def is_absolute(path: str) -> bool:
    """Whether a path does not depend on a folder: it begins with a slash, or it is a URL."""
    return os.path.isabs(path) or is_url(path)


def absolute(path: str) -> str:
    """Return a path that does not depend on the working directory, with `~` expanded; a URL as it is."""
    return path.rstrip("/") if is_url(path) else os.path.abspath(os.path.expanduser(path))


def joined(folder: str, path: str) -> str:
    """Return a path that is relative to a folder or to a URL, or absolute, as an absolute one."""
    return path if is_url(path) else os.path.join(folder, path)


def is_below(path: str, folder: str) -> bool:
    """Whether an absolute path is that of a folder, or of something in it."""
    path = path if is_url(path) else os.path.normpath(path)
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def common_folder(paths: Sequence[str]) -> str:
    """Return the deepest folder, or place in a bucket, that all these absolute paths are in; `""` if there is none."""
    heads = {match[0] if (match := _HEAD.match(path)) and is_url(path) else "" for path in paths}
    if len(heads) != 1:
        return ""
    head = heads.pop()
    common = head + os.path.commonpath([path.removeprefix(head) for path in paths])
    return common.rstrip("/") if head else common


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
    with reaching(path):
        found = filesystem(_parsed(path)).info(_parsed(path).path)
        return int(found["size"]), str(tag_of(found))


def tag_of(info: Mapping[str, Any]) -> object:
    """Return what a store says of an object that differs when its content has been replaced; `None` if nothing."""
    return next((info[key] for key in ("ETag", "etag", "md5Hash", "LastModified") if key in info), None)


def is_there(path: str) -> bool:
    """Whether a path is that of a file or a folder, or a URL is that of objects, or of what the store does not show."""
    if not is_url(path):
        return os.path.exists(resolve_path(path))
    try:
        with reaching(path):
            return bool(filesystem(_parsed(path)).exists(_parsed(path).path))
    except OSError:
        return True


def is_folder(path: str) -> bool:
    """Whether a path is that of a folder, or objects have names that begin with a URL and a slash."""
    if not is_url(path):
        return os.path.isdir(path)
    with reaching(path):
        return bool(filesystem(_parsed(path)).isdir(_parsed(path).path))


def open_buffered(path: str) -> io.BufferedReader:
    """Open a file or an object for reading.

    Raises:
        OSError: It cannot be opened.
    """
    return io.BufferedReader(RemoteFile(path)) if is_url(path) else open(path, "rb")


def names_in(folder: str) -> list[str]:
    """Return the names in a folder, or those directly below a URL.

    Raises:
        OSError: There is no such folder, or it cannot be read.
    """
    if not is_url(folder):
        return os.listdir(folder)
    url = _parsed(folder)
    with reaching(folder):
        return [name.rstrip("/").rpartition("/")[2] for name in filesystem(url).ls(url.path, detail=False)]


def walk_url(folder: str) -> Iterator[str]:
    """Yield the key of each object below a URL, relative to it, sorted bytewise. Hidden names are left out.

    Raises:
        OSError: The store cannot be used.
    """
    url = _parsed(folder)
    with reaching(folder):
        found = filesystem(url).find(url.path)
    for key in sorted((key.removeprefix(url.path + "/") for key in found), key=os.fsencode):
        if not any(part.startswith(".") for part in key.split("/")):
            yield key


class RemoteFile(io.RawIOBase):
    """An object of a store as a file that can be read and sought in. It is asked for in ranges."""

    def __init__(self, path: str) -> None:
        """Open an object.

        Raises:
            OSError: There is none, or the store cannot be used.
        """
        super().__init__()
        self.name = path
        url = _parsed(path)
        with reaching(path):
            self._file = filesystem(url).open(url.path, "rb", block_size=READ_AHEAD, cache_type="readahead")

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, as `io.RawIOBase.seek` does."""
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer from the position, as `io.RawIOBase.readinto` does; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        with reaching(self.name):
            found = self._file.read(len(view))
        view[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Close the object."""
        if not self.closed:
            self._file.close()
        super().close()


def _parsed(path: str) -> Url:
    found = place(path)
    assert isinstance(found, Url)
    return found
