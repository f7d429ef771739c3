"""Files of a run, addressed by name. A file appears under its name only when it is complete.

`RunDirectory` reaches files only through `Files`: `LocalFiles` are in a folder, `ObjectFiles` in an object store.
"""

from __future__ import annotations

import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Place
from pipeline.storage.lock import Lock

UNREADABLE = (OSError, pa.ArrowException, KeyError, ValueError, TypeError)
"""Exceptions that reading a damaged file can raise."""

_READERS = 16
"""Threads that read small files. On a remote file system, reading is mostly waiting."""
Published = Mapping[str, object]
"""What tells each published file from another one that has taken its name, by name."""


class Entry(NamedTuple):
    """A file as the listing of its folder shows it.

    Attributes:
        size: Size in bytes.
        version: Differs if the file has been replaced since.
    """

    size: int
    version: object


class Files(ABC):
    """The files of a folder or of a place in an object store, by names such as `transcripts/shard-00000.parquet`.

    Attributes:
        root: The folder or the place, for messages.
        scratch: A folder of this machine for files that are being written.
        on_disk: Whether finished files stay on the disk of `scratch`.
        check: Raises a `RunError` if this process has lost the lock that it held. Does nothing if it held none.
    """

    root: Place
    scratch: Path
    on_disk: bool
    check: Callable[[], None] = staticmethod(lambda: None)

    def locate(self, name: str) -> Place:
        """Return the place of a file, for messages."""
        return self.root / name

    def free_bytes(self) -> int:
        """Return the free space on the disk that holds `scratch`, in bytes."""
        return shutil.disk_usage(next(path for path in (self.scratch, *self.scratch.parents) if path.exists())).free

    @abstractmethod
    def prepare(self) -> None:
        """Create the folders that `scratch` and finished files need."""

    # Reading.

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; `None` if no regular file has that name."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether anything has that name, be it a file, a folder or a link."""

    @abstractmethod
    def present(self, names: Sequence[str]) -> set[str]:
        """Return those of some names that exist. The names have the same beginning in each folder."""

    @abstractmethod
    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading.

        Raises:
            OSError: The file does not exist, it is not a regular file, or its folder is a link.
        """

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            OSError: As `open`.
        """
        with self.open(name) as source:
            content: bytes = source.read()
        return content

    def read_each(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Read many small files. Yield each name and its content; `None` for a file that cannot be read."""
        names = [*names]
        with ThreadPoolExecutor(_READERS) as pool:
            yield from zip(names, pool.map(self._read_or_none, names), strict=True)

    def _read_or_none(self, name: str) -> bytes | None:
        with suppress(OSError):
            return self.read(name)
        return None

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of a folder's entries; an empty list if there is no such folder, or it is a link."""

    @abstractmethod
    def entries(self, folder: str) -> dict[str, Entry]:
        """Return the regular files of a folder by name; none if there is no such folder, or it is a link.

        The folder is listed once. So this is faster than `size` for many files.
        """

    # Writing.

    @abstractmethod
    def write(self, name: str, data: bytes | memoryview, shard: int | None = None) -> None:
        """Write a small file atomically: after a crash, either the old or the new file is there.

        Args:
            name: The file.
            data: Its content.
            shard: The shard that the file belongs to, if there is one. After a kill, the unfinished file is removed
                with the staging folders of the shard.
        """

    @abstractmethod
    def write_by(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file atomically: after a crash, either the old or the new file is there.

        Args:
            name: The file.
            write: Called with the path of an empty file in staging, which it fills.
        """

    @abstractmethod
    def create(self, name: str, data: bytes, shard: int | None = None) -> None:
        """Write a small file, such as a commit record, as `write` does. Where the store can, only if there is none.

        Raises:
            FileExistsError: Another process has created the file, with other content.
        """

    @abstractmethod
    def remove(self, name: str, *, durable: bool = False) -> None:
        """Remove a file if it exists.

        Args:
            name: The file.
            durable: Make sure that the file stays removed after a power failure.
        """

    @abstractmethod
    def remove_folder(self, name: str) -> None:
        """Remove a folder of unfinished files with all that is in it."""

    @abstractmethod
    def rename(self, name: str, other: str) -> None:
        """Give a file another name in the same folder."""

    @abstractmethod
    def stage(self, name: str, path: Path) -> None:
        """Move a finished local file to a name in staging, from where another process can publish it after a kill."""

    @abstractmethod
    def staged(self, name: str) -> Path | None:
        """Return a local path of a file in staging; `None` if there is no such file."""

    @abstractmethod
    def publish(self, staged: Mapping[str, Path], shard: int) -> Published:
        """Move the staged files of a shard to their final names, so that they stay there after a power failure.

        Raises:
            RunError: This process has lost the lock of the run. This is checked before each file.
        """

    @abstractmethod
    def are_there(self, published: Published) -> bool:
        """Whether the files under the final names are still those that this process has published."""

    @abstractmethod
    def log(self, name: str) -> Path:
        """Return the local path of a log, whose folder is created. `keep_log` stores it."""

    @abstractmethod
    def keep_log(self, name: str, *, end: bool = False) -> None:
        """Store a log that has grown, if it lies elsewhere while it is written; `end` says that the run ends."""

    # Locks.

    @abstractmethod
    def hold(
        self, name: str, what: str, part: str = "", waiting: Callable[[str], None] | None = None
    ) -> AbstractContextManager[Lock]:
        """Hold a lock alone while the context lasts. A process must not take the same lock twice.

        Args:
            name: The file of the lock; created with its folder if it is missing.
            what: What the lock protects, for messages: `run_dir=...`.
            part: The part of a run that this process computes; an empty string for a whole run. A part is content
                with a place that has no locks.
            waiting: Called once if this function has to wait, with whom it waits for and how long. In a folder it
                does not wait.

        Raises:
            Locked: Another process holds the lock.
            UserError: The place cannot be written or locked.
        """

    @abstractmethod
    def hold_as_part(
        self, name: str, what: str, part: str, waiting: Callable[[str], None]
    ) -> AbstractContextManager[tuple[Lock, bool]]:
        """Hold a lock together with other parts of a run while the context lasts; alone if there are no other parts.

        Args:
            name: The file of the lock.
            what: What the lock protects.
            part: The part of the run that this process computes.
            waiting: Called once if another part plans or closes the run, with who it is and why this function waits
                for it.

        Returns:
            A context with the lock, and whether this process holds it alone. `Lock.let_others_in` ends that.

        Raises:
            Locked: A whole run holds the lock.
            UserError: As `hold`.
        """

    @abstractmethod
    def holder(self, name: str) -> str | None:
        """Return who holds a lock: process, machine and start time in UTC, as far as known. `None` if nobody does."""


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

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Say in one line what to do if this file cannot be read in the context.

        Raises:
            UserError: It cannot be read.
        """
        try:
            yield
        except UNREADABLE as error:
            run_dir = shlex.quote(str(self.files.root))
            raise UserError(
                f"{self}: cannot be read ({str(error).splitlines()[0]}); python -m pipeline.verify {run_dir} --retract "
                "removes what is damaged, then the same command computes it again"
            ) from None

    def schema(self) -> pa.Schema:
        """Return columns and metadata without reading rows."""
        with self.open() as file:
            return file.schema_arrow
