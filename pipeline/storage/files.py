"""Files of a run directory, addressed by name. A file appears under its name only when it is complete.

`RunDirectory` uses the file system only through this module, so an object store could take its place. Only real folders
and regular files below the root are read and written: a FIFO would block, and a link could lead anywhere.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import naming
from pipeline.runtime.failpoints import failpoint

UNREADABLE = (OSError, pa.ArrowException, KeyError, ValueError, TypeError)
"""Exceptions that reading a damaged file can raise."""


class Entry(NamedTuple):
    """A file as the listing of its folder shows it.

    Attributes:
        size: Size in bytes.
        version: Differs if the file has been replaced since.
    """

    size: int
    version: tuple[int, ...]


class Files:
    """Files in a folder. Their names are relative paths such as `transcripts/shard-00000.parquet`."""

    def __init__(self, root: Path, staging: str) -> None:
        """Create no file yet.

        Args:
            root: The folder, which need not exist yet.
            staging: Name of the subfolder for unfinished files.
        """
        self.root = root
        self._staging = root / staging

    def locate(self, name: str) -> Path:
        """Return the path of a file, for messages."""
        return self.root / name

    def free_bytes(self) -> int:
        """Return the free space on the disk that holds the folder, in bytes."""
        return shutil.disk_usage(self.root).free

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; `None` if no regular file has that name."""
        try:
            return self._regular(name).st_size
        except OSError:
            return None

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading.

        Raises:
            OSError: The file does not exist, it is not a regular file, or its folder is a link.
        """
        self._regular(name)
        return pa.OSFile(os.fsencode(self.root / name))

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            OSError: As `open`.
        """
        with self.open(name) as source:
            content: bytes = source.read()
        return content

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of a folder's entries; an empty list if there is no such folder, or it is a link."""
        path = self.root / folder
        if not path.is_dir() or (folder and path.is_symlink()):
            return []
        return sorted(entry.name for entry in os.scandir(path))

    def entries(self, folder: str) -> dict[str, Entry]:
        """Return the regular files of a folder by name; none if there is no such folder, or it is a link.

        The folder is listed once. So this is faster than `size` for many files.
        """
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

    def make_folder(self, name: str) -> None:
        """Create the folder of a file if it is missing. The root must exist: it may have been renamed during the run.

        Raises:
            OSError: The root does not exist, or a link or a file is in the place of the folder.
        """
        parent = self.root / os.path.dirname(name)
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

    def remove(self, name: str, *, durable: bool = False) -> None:
        """Remove a file if it exists.

        Args:
            name: The file.
            durable: Sync the folder, so that the file stays removed after a power failure.
        """
        path = self.root / name
        path.unlink(missing_ok=True)
        if durable:
            with naming(path.parent):
                fsync(path.parent)

    def rename(self, name: str, other: str) -> None:
        """Give a file another name in the same folder."""
        os.replace(self.root / name, self.root / other)

    def publish(self, staged: Mapping[str, Path], shard: int) -> None:
        """Move the staged files of a shard to their final names, and sync the folders."""
        for index, (name, path) in enumerate(staged.items()):
            target = self.root / name
            with naming(target):
                if index:
                    failpoint("renaming", shard)
                self.make_folder(name)
                os.replace(path, target)
        for folder in dict.fromkeys((self.root / name).parent for name in staged):
            with naming(folder):
                failpoint("moved", shard)
                fsync(folder)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file atomically: after a crash, either the old or the new file is there."""
        self.write_by(name, lambda staged: staged.write_bytes(data))

    def write_by(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file atomically: after a crash, either the old or the new file is there.

        Args:
            name: The file.
            write: Called with the path of an empty file in staging, which it fills.
        """
        target = self.root / name
        staged = self._staging / f"file-{uuid.uuid4().hex}"
        try:
            with naming(target):
                failpoint("file")
                staged.touch(exist_ok=False)  # fails if the name exists, even as a symbolic link
                write(staged)
                failpoint("file-staged")
                fsync(staged)
                failpoint("file-synced")
                self.make_folder(name)
                os.replace(staged, target)
                failpoint("file-moved")
                fsync(target.parent)
        finally:
            with suppress(FileNotFoundError):
                staged.unlink()


@dataclass(frozen=True)
class StoredTable:
    """A Parquet file of a run directory. Each read opens the file again."""

    files: Files
    name: str

    def __str__(self) -> str:
        """Return the path of the file, for messages."""
        return str(self.files.locate(self.name))

    @property
    def is_there(self) -> bool:
        """Whether the file exists."""
        return self.files.size(self.name) is not None

    @contextmanager
    def open(self, **options: Any) -> Iterator[pq.ParquetFile]:
        """Open the file, and close it at the end of the context.

        Args:
            options: Options of `pyarrow.parquet.ParquetFile`.

        Raises:
            OSError: The file does not exist or cannot be read.
            pyarrow.ArrowInvalid: The file is not a Parquet file.
        """
        with self.files.open(self.name) as source, pq.ParquetFile(source, **options) as file:
            yield file

    def read(self, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
        """Read the table.

        Args:
            columns: Columns to read; `None` for all.
            filters: Expression that selects rows; `None` for all.

        Raises:
            OSError, pyarrow.ArrowInvalid: As `open`.
        """
        named = None if columns is None else list(columns)
        if filters is None:
            with self.open() as file:
                return file.read(columns=named)
        with self.files.open(self.name) as source:
            return pq.read_table(source, columns=named, filters=filters)

    def row_groups(self, filters: Any) -> list[int]:
        """Number the row groups that may hold rows which `filters` keeps, as their statistics say.

        Raises:
            OSError, pyarrow.ArrowInvalid: As `open`.
        """
        import pyarrow.dataset as ds  # imports pandas, which takes a moment

        with self.files.open(self.name) as source:
            fragment = ds.ParquetFileFormat().make_fragment(source)
            kept = fragment.subset(filter=filters, schema=fragment.physical_schema)
            return [group.id for group in kept.row_groups]

    def schema(self) -> pa.Schema:
        """Return columns and metadata without reading rows."""
        with self.open() as file:
            return file.schema_arrow


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
