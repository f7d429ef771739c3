"""Files of a run in a folder, on a disk of this machine or on a network file system.

Only real folders and regular files below the root are read and written: a FIFO would block, and a link could lead
anywhere.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from pipeline.runtime.errors import UserError, naming
from pipeline.runtime.failpoints import failpoint
from pipeline.storage import lock
from pipeline.storage.files import Entry, Files, Published
from pipeline.storage.lock import Lock
from pipeline.storage.names import name_of_pass


class LocalFiles(Files):
    """Files in a folder, in which `scratch` is the folder `staging`, so that finished files are renamed."""

    root: Path
    on_disk = True

    def __init__(self, root: Path, staging: str) -> None:
        """Create no file yet.

        Args:
            root: The folder, which need not exist yet.
            staging: Name of the subfolder for unfinished files.
        """
        self.root = root
        self.scratch = root / staging

    def prepare(self) -> None:
        """Create the folder, and the one for unfinished files."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._make_folder_of(self.scratch / "lock")

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; `None` if no regular file has that name."""
        try:
            return self._regular(name).st_size
        except OSError:
            return None

    def exists(self, name: str) -> bool:
        """Whether anything has that name, be it a file, a folder or a link."""
        return os.path.lexists(self.root / name)

    def present(self, names: Sequence[str]) -> set[str]:
        """Return those of some names that exist."""
        return {name for name in names if self.exists(name)}

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading; see `Files.open`."""
        self._regular(name)
        return pa.OSFile(os.fsencode(self.root / name))

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of a folder's entries; an empty list if there is no such folder, or it is a link."""
        path = self.root / folder
        if not path.is_dir() or (folder and path.is_symlink()):
            return []
        return sorted(entry.name for entry in os.scandir(path))

    def entries(self, folder: str) -> dict[str, Entry]:
        """Return the regular files of a folder by name; see `Files.entries`."""
        path = self.root / folder
        if not path.is_dir() or path.is_symlink():
            return {}
        found = {}
        with os.scandir(path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed meanwhile
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found[entry.name] = Entry(status.st_size, (status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def _make_folder_of(self, path: Path) -> None:
        """Create the folder of a file if it is missing. The root must exist: it may have been renamed during the run.

        Raises:
            OSError: The root does not exist, or a link or a file is in the place of the folder.
        """
        parent = path.parent
        try:
            parent.mkdir()
        except FileExistsError:
            if parent != self.root and not stat.S_ISDIR(os.lstat(parent).st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent)) from None

    def _regular(self, name: str) -> os.stat_result:
        """Return the status of a regular file in a real folder.

        Raises:
            OSError: The file does not exist, or it or its folder is something else.
        """
        path = self.root / name
        if path.parent != self.root and not stat.S_ISDIR(os.lstat(path.parent).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent))
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return status

    def write(self, name: str, data: bytes | memoryview, shard: int | None = None) -> None:
        """Write a small file atomically; see `Files.write`."""
        self._write(name, lambda staged: staged.write_bytes(data), "file" if shard is None else name_of_pass(shard))

    def write_by(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file atomically; see `Files.write_by`."""
        self._write(name, write, "file")

    def _write(self, name: str, write: Callable[[Path], object], what: str) -> None:
        target = self.root / name
        staged = self.scratch / f"{what}-{uuid.uuid4().hex}"
        try:
            with naming(target):
                failpoint("file")
                staged.touch(exist_ok=False)  # fails if the name exists, even as a symbolic link
                write(staged)
                failpoint("file-staged")
                fsync(staged)
                failpoint("file-synced")
                self._make_folder_of(target)
                os.replace(staged, target)
                failpoint("file-moved")
                fsync(target.parent)
        finally:
            with suppress(FileNotFoundError):
                staged.unlink()

    def create(self, name: str, data: bytes, shard: int | None = None) -> None:
        """Write a small file. Locks keep others out here, and `are_there` finds out if they did not."""
        self.write(name, data, shard)

    def remove(self, name: str, *, durable: bool = False) -> None:
        """Remove a file if it exists. If `durable`, the folder is synced."""
        path = self.root / name
        path.unlink(missing_ok=True)
        if durable:
            with naming(path.parent):
                fsync(path.parent)

    def remove_folder(self, name: str) -> None:
        """Remove a folder of unfinished files with all that is in it."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def rename(self, name: str, other: str) -> None:
        """Give a file another name in the same folder."""
        os.replace(self.root / name, self.root / other)

    def stage(self, name: str, path: Path) -> None:
        """Move a finished file to a name in staging."""
        target = self.root / name
        target.parent.mkdir(mode=0o700)
        os.replace(path, target)

    def staged(self, name: str) -> Path | None:
        """Return the path of a file in staging; `None` if there is no such file."""
        path = self.root / name
        return path if path.exists() else None

    def publish(self, staged: Mapping[str, Path], shard: int) -> Published:
        """Move the staged files of a shard to their final names, and sync the folders."""
        moved = {name: _identity(path) for name, path in staged.items()}
        for index, (name, path) in enumerate(staged.items()):
            target = self.root / name
            self.check()
            with naming(target):
                if index:
                    failpoint("renaming", shard)
                self._make_folder_of(target)
                os.replace(path, target)
        for folder in dict.fromkeys((self.root / name).parent for name in staged):
            with naming(folder):
                failpoint("moved", shard)
                fsync(folder)
        return moved

    def are_there(self, published: Published) -> bool:
        """Whether the files under the final names are still those that this process has moved there."""
        try:
            return all(_identity(self.root / name) == moved for name, moved in published.items())
        except OSError:
            return False

    def log(self, name: str) -> Path:
        """Return the path of a log, whose folder is created.

        Raises:
            UserError: Something else than a regular file is there, such as a FIFO.
        """
        path = self.root / name
        self._make_folder_of(path)
        if os.path.lexists(path) and self.size(name) is None:
            raise UserError(f"{path}: not a regular file; remove it, or choose another run_dir=")
        return path

    def keep_log(self, name: str, *, end: bool = False) -> None:
        """Do nothing: a log is written where it stays."""

    def hold(
        self, name: str, what: str, part: str = "", waiting: Callable[[str], None] | None = None
    ) -> AbstractContextManager[Lock]:
        """Hold a lock alone while the context lasts; see `Files.hold`."""
        return lock.hold(self.root / name, what, part)

    def hold_as_part(
        self, name: str, what: str, part: str, waiting: Callable[[str], None]
    ) -> AbstractContextManager[tuple[Lock, bool]]:
        """Hold a lock together with other parts of a run; see `Files.hold_as_part`."""
        return lock.hold_as_part(self.root / name, what, part, waiting)

    def holder(self, name: str) -> str | None:
        """Return who holds a lock; `None` if nobody does."""
        return lock.holder(self.root / name)


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def fsync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which replaces it at the end of the context, and never in part.

    Raises:
        OSError: The file cannot be written, or something else than a file is there, such as /dev/stdout.
    """
    if not path.name or (path.exists() and not path.is_file()):
        raise OSError(errno.EEXIST, "is there already, and is no file that could be replaced", str(path))
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with naming(path):
        try:
            yield staged
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
