"""Places of files: paths on this machine, and URLs of object stores such as `s3://bucket/runs/voices`.

A `Url` has the part of the interface of `pathlib.Path` that names need, and nothing that would read a disk.

Stores are reached through fsspec, whose packages know protocols, credentials and retries. obstore was tried: it is nine
times as fast for small objects, but it hangs in a process that was forked after its first request, and recordings are
decoded in such processes.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runtime.errors import StoreError, UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}
"""The package that reaches each kind of store."""
_EXTRAS = {"hf": "huggingface"}
"""The extra that installs it, where its name is not that of the kind."""
_HEAD = re.compile(r"[a-z][a-z0-9+.-]*://[^/]*")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_S3 = {
    # Retries wait longer each time, by a random factor. A request to a store that says nothing ends after a while.
    "retries": {"mode": "standard", "total_max_attempts": 8},
    "connect_timeout": 10,
    "read_timeout": 30,
}
"""Settings of botocore, where fsspec's own configuration has no others."""
_S3_TRIES = 2
"""How often s3fs repeats what botocore does not, such as an answer that ends too early."""
_PARTS = {"s3": 1, "az": 4}
"""Parts of a large file that are uploaded at once: of 50 MiB, or of 4 MiB. With one, a read of S3 asks for no size."""
_GS_CONNECT_S, _GS_READ_S = 10.0, 30.0
"""Seconds that gcsfs waits for a connection, and for the next bytes of an answer."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors of a disk of this machine, while a file of a store is copied to it."""
_REASON_CHARACTERS = 400
"""So much of what a client says is part of our line."""
_MISSING = 404
"""The status of a request for an object, or in a bucket, that is not there."""
_REFUSED = (401, 403)
"""The statuses of a request that this user may not make."""
_TAKEN = 412
"""The status of a request that was to create an object which is there."""
_NO_LOGIN = re.compile("Credential|Authentication|Signing")
"""A part of the name of an error of a client that has no credentials, or whose credentials do not hold."""
_BUSY = 409
"""The status of a request for an object with which another request is under way."""


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


def local_path(text: str) -> Path:
    """Return the path of a file or a folder that must be on this machine.

    Raises:
        UserError: It is the URL of an object store.
    """
    if is_url(text):
        raise UserError(f"{text}: is in an object store, and this must be on this machine; give a path")
    return Path(text)


def filesystem(url: Url) -> AbstractFileSystem:
    """Return the file system of a store. A process that was forked gets one of its own.

    Raises:
        UserError: The package for such stores is not installed, or there are no credentials.
    """
    package = _PACKAGES[url.protocol]
    if importlib.util.find_spec(package) is None:
        extra = _EXTRAS.get(url.protocol, url.protocol)
        raise UserError(f"{url}: needs the package {package}, which the extra {extra} has; run pip install {package}")
    import fsspec

    # What a client logs would be lines beside ours, with the secrets in them. The errors that it raises say the same.
    for name in (package, "azure"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    kind = fsspec.get_filesystem_class(url.protocol)
    own = fsspec.config.conf.get(url.protocol, {})
    options: dict[str, Any] = {}
    if url.protocol in _PARTS:
        options["max_concurrency"] = int(own.get("max_concurrency", _PARTS[url.protocol]))
    if url.protocol == "s3":
        options["config_kwargs"] = _S3 | own.get("config_kwargs", {})
    if url.protocol == "gs":
        import aiohttp
        from gcsfs.core import GCSFileSystem

        # Its subclass, which fsspec takes, asks by gRPC what kind a bucket is. gRPC hangs in a process that was forked.
        kind = GCSFileSystem
        if "requests_timeout" not in own:
            options["requests_timeout"] = aiohttp.ClientTimeout(sock_connect=_GS_CONNECT_S, sock_read=_GS_READ_S)
    try:
        found: AbstractFileSystem = kind(use_listings_cache=False, **options)
    except ValueError as error:
        raise UserError(
            f"{url}: {' '.join(str(error).split())}; set the credentials in the environment or in the store's own files"
        ) from None
    if url.protocol == "s3":
        found.retries = _S3_TRIES
    return found


class Busy(StoreError):
    """Another request for the same object is under way. The same request may be repeated."""


@contextmanager
def reaching(place: Place) -> Iterator[None]:
    """Turn whatever the client of a store raises into an error that names the place.

    Raises:
        FileNotFoundError, FileExistsError: There is no such object, or there is one.
        UserError: The store refuses this user.
        StoreError: Anything else that the store or the network did; `Busy` if the request may be repeated.
        OSError: The disk of this machine cannot take a copy.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from None
    except (UserError, StoreError):
        raise
    except Exception as error:
        status = _status(error)
        if status == _MISSING:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from None
        if status == _TAKEN or isinstance(error, FileExistsError):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)) from None
        if status is None and isinstance(error, OSError) and error.errno in _FULL:
            raise
        # Azure's answers go on with a number of the request, the time, and all of it once more as XML.
        said = str(error).partition("\nRequestId:")[0]
        reason = textwrap.shorten(said, _REASON_CHARACTERS, placeholder=" ...") or type(error).__name__
        if status in _REFUSED or isinstance(error, PermissionError) or _NO_LOGIN.search(type(error).__name__):
            raise UserError(
                f"{place}: the store refuses this ({reason}); check the name of the bucket, the credentials and what "
                "they allow"
            ) from error
        kind = Busy if status == _BUSY else StoreError
        raise kind(
            f"{place}: {reason}; what was committed stays, and once the store answers, the same command continues"
        ) from error


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error comes from; `None` if it comes from no answer of a store."""
    cause: BaseException | None = error
    while cause is not None:
        answer = getattr(cause, "response", None)
        found = [getattr(each, name, None) for each in (cause, answer) for name in ("status_code", "code")]
        if isinstance(answer, dict):  # of botocore
            found = [answer.get("ResponseMetadata", {}).get("HTTPStatusCode")]
        for each in found:
            if (text := str(each)).isdecimal():
                return int(text)
        cause = cause.__cause__
    # gcsfs gives no status for this one.
    return _REFUSED[1] if str(error).startswith("Forbidden: ") else None


def is_url(path: str) -> bool:
    """Whether a path is the URL of an object store."""
    match = _URL.fullmatch(path) if "://" in path else None
    return match is not None and match[1] in _PACKAGES


def is_absolute(path: str) -> bool:
    """Whether a path does not depend on a folder: it begins with a slash, or it is a URL."""
    return os.path.isabs(path) or is_url(path)


def absolute(path: str) -> str:
    """Return a path that does not depend on the working directory, with `~` expanded; a URL as it is.

    Raises:
        UserError: As `place`.
    """
    return str(place(path)) if is_url(path) else os.path.abspath(os.path.expanduser(path))


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


def tag_of(info: Mapping[str, Any]) -> object:
    """Return what a store says of an object that differs when its content has been replaced; `None` if nothing."""
    return next((info[key] for key in ("ETag", "etag", "md5Hash", "LastModified", "blob_id") if key in info), None)
