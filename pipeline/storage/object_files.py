"""Files of a run in an object store.

A store has no rename, and no lock. An object appears under its name when it is complete, and can be created on the
condition that there is none. So a table is written in a folder of this machine, and put under its final name once it is
complete. The commit record is created last, on that condition: if two processes commit the same shard, one of them is
told, and compares (see `committing`). Leases take the place of locks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.runtime.errors import StoreError, UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.object_reader import ObjectReader
from pipeline.runtime.places import Busy, Url, filesystem, reaching, tag_of
from pipeline.runtime.signals import deferring_stop
from pipeline.storage import lease
from pipeline.storage.files import Entry, Files, Published
from pipeline.storage.lock import Lock

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_READ_AT_ONCE = 500
"""Small objects that are read together, many of them at the same time."""
_BUSY_TRIES = 8
"""How often a conditional request is repeated while the store is busy with another one for the same key."""


class ObjectFiles(Files):
    """Files below a place in an object store; `scratch` is a folder of this machine's temporary files."""

    root: Url
    on_disk = False

    def __init__(self, root: Url) -> None:
        """Ask the store for nothing yet."""
        self.root = root
        self._logs: dict[str, int] = {}  # the size of each when it was stored last
        digest = hashlib.sha256(str(root).encode()).hexdigest()[:16]
        self.scratch = Path(tempfile.gettempdir()) / f"overnight-speech-{os.getuid()}" / digest

    @property
    def _store(self) -> AbstractFileSystem:
        return filesystem(self.root)

    def _key(self, name: str) -> str:
        return (self.root / name).path

    def prepare(self) -> None:
        """Create the folder for unfinished files. No other user may write there, because its name can be guessed.

        Raises:
            UserError: The folder cannot be written, or another user has made it.
        """
        parent = self.scratch.parent
        try:
            parent.mkdir(mode=0o700, exist_ok=True, parents=True)
            status = os.lstat(parent)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                raise FileExistsError(errno.EEXIST, "is no folder of this user")
            self.scratch.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{parent}: cannot be written, and tables are written there before they go to {self.root} "
                f"({error.strerror}); set TMPDIR to another folder"
            ) from None

    # Reading.

    def info(self, name: str) -> dict[str, Any] | None:
        """Return what the store says of an object; `None` if there is none."""
        try:
            with reaching(self.locate(name)):
                found: dict[str, Any] = self._store.info(self._key(name))
        except FileNotFoundError:
            return None
        return found if found["type"] == "file" else None

    def age_s(self, name: str) -> float | None:
        """Return the seconds since an object was written, by the clocks of both machines; `None` if there is none."""
        with suppress(FileNotFoundError), reaching(self.locate(name)):
            return time.time() - float(self._store.modified(self._key(name)).timestamp())
        return None

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; `None` if there is none."""
        found = self.info(name)
        return None if found is None else int(found["size"])

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self.info(name) is not None

    def present(self, names: Sequence[str]) -> set[str]:
        """Return those of some names that exist. One list for each folder answers that."""
        folders: dict[str, list[str]] = {}
        for name in names:
            folders.setdefault(str(PurePosixPath(name).parent), []).append(name)
        with ThreadPoolExecutor(len(folders) or 1) as threads:
            found = threads.map(self._beginning_with, map(os.path.commonprefix, folders.values()))
            return {*names} & {each for some in found for each in some}

    def _beginning_with(self, start: str) -> list[str]:
        folder, _, prefix = start.rpartition("/")
        own = self._key("")
        with suppress(FileNotFoundError), reaching(self.locate(folder)):
            return [
                key.strip("/").removeprefix(f"{own}/") for key in self._store.find(self._key(folder), prefix=prefix)
            ]
        return []

    def open(self, name: str) -> pa.NativeFile:
        """Open an object for reading; see `Files.open`. What is read is asked for in ranges."""
        return pa.PythonFile(ObjectReader(self._store, self.root / name), mode="r")

    def read(self, name: str) -> bytes:
        """Read a small object in one request."""
        with reaching(self.locate(name)):
            content: bytes = self._store.cat_file(self._key(name))
        return content

    def read_each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Read many small objects, some hundreds at a time."""
        names = iter(names)
        while some := [*islice(names, _READ_AT_ONCE)]:
            keys = {self._key(name): name for name in some}
            with reaching(self.root):
                contents = self._store.cat_ranges([*keys], None, None, on_error="return")
            for name, content in zip(keys.values(), contents, strict=True):
                try:
                    if isinstance(content, Exception):
                        with reaching(self.locate(name)):
                            raise content
                    yield name, content
                except FileNotFoundError:
                    yield name, None

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of the objects and folders below a name; an empty list if there are none."""
        return sorted(self._listed(folder))

    def _listed(self, folder: str) -> dict[str, dict[str, Any]]:
        try:
            with reaching(self.locate(folder)):
                entries = self._store.ls(self._key(folder), detail=True)
        except FileNotFoundError:
            return {}
        own = self._key(folder)
        found = {entry["name"].strip("/").removeprefix(own).strip("/"): entry for entry in entries}
        return {name: entry for name, entry in found.items() if name}

    def entries(self, folder: str) -> dict[str, Entry]:
        """Return the objects directly below a name, by the rest of their names; see `Files.entries`."""
        return {
            name: Entry(int(entry["size"]), tag_of(entry))
            for name, entry in self._listed(folder).items()
            if entry["type"] == "file"
        }

    # Writing.

    def write_by(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file on this machine, and put it; see `Files.write_by`."""
        failpoint("file")
        staged = self.scratch / f"file-{uuid.uuid4().hex}"
        try:
            staged.touch(exist_ok=False)
            write(staged)
            self._put(name, staged)
        finally:
            staged.unlink(missing_ok=True)
        failpoint("file-moved")

    def write(self, name: str, data: bytes | memoryview, shard: int | None = None) -> None:
        """Write a small object."""
        failpoint("file")
        with reaching(self.locate(name)):
            self._store.pipe_file(self._key(name), bytes(data))
        failpoint("file-moved")

    def create(self, name: str, data: bytes, shard: int | None = None) -> None:
        """Write a small object if there is none; see `Files.create`."""
        failpoint("file")
        for left in reversed(range(_BUSY_TRIES)):
            try:
                with reaching(self.locate(name)):
                    self._store.pipe_file(self._key(name), data, mode="create")
                break
            except FileExistsError:
                # The answer to an earlier attempt of this process may have been lost.
                with suppress(FileNotFoundError):
                    if self.read(name) == data:
                        break
                raise
            except Busy:  # two requests for one key at the same moment
                if not left:
                    raise
                time.sleep(random.uniform(0.1, 1.0))
        failpoint("file-moved")

    def remove(self, name: str, *, durable: bool = False) -> None:
        """Remove an object if it exists. The store makes sure that it stays removed."""
        self.check()
        with suppress(FileNotFoundError), reaching(self.locate(name)):
            self._store.rm_file(self._key(name))

    def remove_folder(self, name: str) -> None:
        """Remove all objects below a name in staging."""
        for each in self.names(name):
            self.remove(f"{name}/{each}")
        shutil.rmtree(self.scratch / Path(name).name, ignore_errors=True)

    def rename(self, name: str, other: str) -> None:
        """Copy an object within the store, and remove the first one."""
        self.check()
        with reaching(self.locate(name)):
            self._store.cp_file(self._key(name), self._key(other))
        self.remove(name)

    def _put(self, name: str, path: Path) -> None:
        self.check()
        # A large file is uploaded in parts. If that fails, s3fs removes the parts. It does not if a stop interrupts it,
        # which happens in the main thread only.
        interruptible = threading.current_thread() is threading.main_thread()
        with deferring_stop() if interruptible else nullcontext(), reaching(self.locate(name)):
            self._store.put_file(str(path), self._key(name))

    def stage(self, name: str, path: Path) -> None:
        """Put a finished local file under a name in staging."""
        self._put(name, path)
        path.unlink()

    def staged(self, name: str) -> Path | None:
        """Get an object in staging, and return its local path; `None` if there is no such object."""
        if not self.exists(name):
            return None
        self.prepare()
        folder = self.scratch / Path(name).parent.name
        folder.mkdir(mode=0o700, exist_ok=True)
        with reaching(self.locate(name)):
            self._store.get_file(self._key(name), str(folder / Path(name).name))
        return folder / Path(name).name

    def publish(self, staged: Mapping[str, Path], shard: int) -> Published:
        """Put the staged files of a shard under their final names, and remove them here."""
        tags: dict[str, object] = {}
        for index, (name, path) in enumerate(staged.items()):
            if index:
                failpoint("renaming", shard)
            self._put(name, path)
            tags[name] = self._tag(name)
            path.unlink()
        failpoint("moved", shard)
        return tags

    def _tag(self, name: str) -> object:
        return tag_of(self.info(name) or {})

    def are_there(self, published: Published) -> bool:
        """Whether the objects under the final names are still those that this process has put there."""
        return all(self._tag(name) == tag for name, tag in published.items())

    def log(self, name: str) -> Path:
        """Return the local path of a log. What the store has of it is fetched when this run first asks for it.

        A process that was killed leaves the log here. It stays if it is longer than the one in the store.
        """
        path = self.scratch / name
        if name not in self._logs:
            path.parent.mkdir(parents=True, exist_ok=True)
            if (self.size(name) or 0) > (path.stat().st_size if path.exists() else 0):
                with reaching(self.locate(name)):
                    self._store.get_file(self._key(name), str(path))
            path.touch()
            self._logs[name] = 0
        return path

    def keep_log(self, name: str, *, end: bool = False) -> None:
        """Put a log into the store if it has grown. A failure does not matter."""
        with suppress(OSError, StoreError, UserError):
            if end and name not in self._logs and (self.scratch / name).exists():
                self.log(name)  # a process that was killed has left it, and this one had nothing to add
        if name not in self._logs:
            return
        path = self.scratch / name
        with suppress(OSError, StoreError, UserError):
            if (size := path.stat().st_size) > self._logs[name]:
                self._put(name, path)
                self._logs[name] = size
            if end:
                path.unlink()
                del self._logs[name]

    # Locks.

    def hold(
        self, name: str, what: str, part: str = "", waiting: Callable[[str], None] | None = None
    ) -> AbstractContextManager[Lock]:
        """Hold a lease alone while the context lasts; see `Files.hold`."""
        return lease.hold(self, name, what, part, waiting)

    def hold_as_part(
        self, name: str, what: str, part: str, waiting: Callable[[str], None]
    ) -> AbstractContextManager[tuple[Lock, bool]]:
        """Hold a lease until other parts may work; see `Files.hold_as_part`."""
        return lease.hold_as_part(self, name, what, part, waiting)

    def holder(self, name: str) -> str | None:
        """Return who holds a lease; `None` if nobody does."""
        return lease.holder(self, name)
