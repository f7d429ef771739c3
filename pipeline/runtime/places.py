"""Places of files: paths on this machine, and URLs of object stores such as `s3://bucket/runs/voices`.

A `Url` has the part of the interface of `pathlib.Path` that names need, and nothing that would read a disk.

Stores are reached through fsspec, whose packages know protocols, credentials and retries. obstore was tried: it is nine
times as fast for small objects, but it hangs in a process that was forked after its first request, and recordings are
decoded in such processes.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}
"""The package that reaches each kind of store."""
_EXTRAS = {"hf": "huggingface"}
"""The extra that installs it, where its name is not that of the kind."""
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
def reaching(place: Place) -> Iterator[None]:
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
