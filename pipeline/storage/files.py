"""The place where a run directory lies: files under names, each put there whole. Today a folder of a local file system.

A run directory asks for nothing else, so an object store can take the folder's place: there
`publish` puts each staged file once under its final name, since nothing is renamed.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import naming
from pipeline.runtime.failpoints import failpoint


class Files:
    """Files below a folder, by names with slashes such as `transcripts/shard-00000.parquet`."""

    def __init__(self, root: Path, staging: str) -> None:
        """Take the folder, which need not exist yet, and the name of the folder below it for unfinished files."""
        self.root = root
        self._staging = root / staging

    def locate(self, name: str) -> Path:
        """Where a file lies, for messages."""
        return self.root / name

    def size(self, name: str) -> int | None:
        """Bytes of a file; `None` where there is no regular file of that name."""
        try:
            status = os.stat(self.root / name)
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading.

        Raises:
            OSError: There is no such file, or it is not a regular file (a FIFO would never answer).
        """
        path = self.root / name
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return pa.OSFile(os.fsencode(path))

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            OSError: As `open`.
        """
        with self.open(name) as source:
            content: bytes = source.read()
        return content

    def names(self, folder: str = "") -> list[str]:
        """Names of everything in a folder, without the folder's, sorted; none where there is no folder."""
        path = self.root / folder
        return sorted(entry.name for entry in os.scandir(path)) if path.is_dir() else []

    def remove(self, name: str, *, durable: bool = False) -> None:
        """Remove a file, where there is one; `durable`: so that it stays removed after a loss of power."""
        path = self.root / name
        path.unlink(missing_ok=True)
        if durable:
            with naming(path.parent):
                fsync(path.parent)

    def publish(self, staged: Mapping[str, Path], shard: int) -> None:
        """Put the staged files of a shard under their final names, and make the names durable."""
        for index, (name, path) in enumerate(staged.items()):
            target = self.root / name
            with naming(target):
                if index:
                    failpoint("renaming", shard)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
        for folder in dict.fromkeys((self.root / name).parent for name in staged):
            with naming(folder):
                failpoint("moved", shard)
                fsync(folder)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a small file so that a crash leaves the old file or the new file."""
        target = self.root / name
        staged = self._staging / f"file-{uuid.uuid4().hex}"
        self._staging.mkdir(parents=True, exist_ok=True)
        try:
            with naming(target):
                failpoint("file")
                staged.touch(exist_ok=False)  # not through a link, nor over what is there
                staged.write_bytes(data)
                failpoint("file-staged")
                fsync(staged)
                failpoint("file-synced")
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged, target)
                failpoint("file-moved")
                fsync(target.parent)
        finally:
            with suppress(FileNotFoundError):
                staged.unlink()


@dataclass(frozen=True)
class StoredTable:
    """A Parquet file of a run directory, opened each time it is read."""

    files: Files
    name: str

    def __str__(self) -> str:
        """Where it lies, for messages."""
        return str(self.files.locate(self.name))

    @property
    def is_there(self) -> bool:
        """Whether the file is there."""
        return self.files.size(self.name) is not None

    @contextmanager
    def open(self, **options: Any) -> Iterator[pq.ParquetFile]:
        """Open the file for as long as the context lasts.

        Args:
            options: For `pyarrow.parquet.ParquetFile`.

        Raises:
            OSError: There is no such file, or it cannot be read.
            pyarrow.ArrowInvalid: It is not a Parquet file.
        """
        with self.files.open(self.name) as source, pq.ParquetFile(source, **options) as file:
            yield file

    def read(self, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
        """Read the table, or some columns, or the rows that `filters` keeps.

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
        """Columns and metadata, without reading a row."""
        with self.open() as file:
            return file.schema_arrow


def fsync(path: Path) -> None:
    """Make a file or the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
