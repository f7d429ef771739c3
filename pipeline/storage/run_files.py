"""The files of a run directory by name: its tables, those of its decodings, and its locks."""

from __future__ import annotations

import os
import re
from copy import copy
from pathlib import Path, PurePosixPath
from typing import Self

import pyarrow as pa

from pipeline.runtime.digests import sha256_of
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Place, Url
from pipeline.storage.commits import CommittedShard
from pipeline.storage.compacted import CompactedTable
from pipeline.storage.derived import DerivedTable
from pipeline.storage.files import Files, StoredTable
from pipeline.storage.local_files import LocalFiles
from pipeline.storage.names import (
    COMMITS,
    CONFUSIONS,
    COVERAGE,
    DECODED,
    LOCK,
    MANIFEST,
    REFERENCES,
    REPORT,
    SCORES,
    STAGING,
    name_of_pass,
    of_decoding,
)
from pipeline.storage.run_record import StoredFile


def files_at(root: Place) -> Files:
    """Return the files of the run at a place."""
    if isinstance(root, Url):
        from pipeline.storage.object_files import ObjectFiles  # a run in a folder needs no client of a store

        return ObjectFiles(root)
    return LocalFiles(root, STAGING)


def full(root: Place) -> Place:
    """Return the place of a run as an absolute path, or as the URL that it is."""
    return Path(os.path.abspath(root)) if isinstance(root, Path) else root


class RunFiles:
    """The files of one run, for reading. File names are relative to the run directory.

    Attributes:
        root: The folder or the place in an object store, for messages.
        manifest, scores, confusions, references, coverage: Tables of the whole run.
        report: Name of the report's page.
        decoded: The transcripts of a decoding, which take the place of those of the stage `infer`; `None` for these.
    """

    def __init__(self, root: Place) -> None:
        """Read nothing yet; the folder need not exist."""
        self.root = root
        self._files = files_at(root)
        self.manifest = StoredTable(self._files, MANIFEST)
        self.scores = StoredTable(self._files, SCORES)
        self.confusions = StoredTable(self._files, CONFUSIONS)
        self.references = StoredTable(self._files, REFERENCES)
        self.coverage = StoredTable(self._files, COVERAGE)
        self.report = REPORT
        self.decoded: DerivedTable | None = None

    def of_decoding(self, name: str) -> Self:
        """Return the same run with the transcripts, the scores and the report of a decoding in place of its own."""
        found = copy(self)
        found.decoded = self.derived(f"{DECODED}{name}")
        found.scores = StoredTable(self._files, of_decoding(SCORES, name))
        found.confusions = StoredTable(self._files, of_decoding(CONFUSIONS, name))
        found.coverage = StoredTable(self._files, of_decoding(COVERAGE, name))
        found.report = of_decoding(REPORT, name)
        return found

    @property
    def place(self) -> Place:
        """The folder, with that of the decoding: `runs/voices/wav2vec2_asr_base_960h/transcripts-beam`."""
        return self.root if self.decoded is None else self.root / self.decoded.folder

    @property
    def name(self) -> str:
        """Name of the folder, with that of the decoding: `wav2vec2_asr_base_960h-beam`."""
        name = full(self.root).name
        return name if self.decoded is None else f"{name}-{self.decoded.decoding}"

    @property
    def beside(self) -> Path:
        """The folder for what is made of the run and is no part of it: the one that the run directory is in.

        For a run in an object store, it is the current folder.
        """
        root = full(self.root)
        return root.parent if isinstance(root, Path) else Path()

    def decodings(self) -> list[str]:
        """Return the names of the decodings of this run."""
        return [table.decoding for table in self.derived_tables() if table.decoding is not None]

    def derived_tables(self) -> list[DerivedTable]:
        """Return all tables that are made of committed tables of this run."""
        found = (
            self.derived(name.removeprefix(f"{COMMITS}-")) for name in self.names() if name.startswith(f"{COMMITS}-")
        )
        return [table for table in found if table.identity() is not None]

    def derived(self, folder: str) -> DerivedTable:
        """Return a table that is made of committed tables of this run, shard by shard."""
        return DerivedTable(self._files, folder)

    def compacted(self, table: str) -> CompactedTable:
        """Return the compacted files of a table."""
        return CompactedTable(self._files, table)

    def is_locked(self) -> bool:
        """Whether a process holds the lock now."""
        return self._files.holder(LOCK) is not None

    def parts_at_work(self) -> list[str]:
        """Return the parts of the run that are at work now, each with its process and machine."""
        names = (name for name in self.files_of_parts(LOCK) if name != LOCK)
        return [said for name in names if (said := self._files.holder(name)) is not None]

    def locate(self, name: str) -> Place:
        """Return the path of a file, for messages."""
        return self._files.locate(name)

    def has(self, name: str) -> bool:
        """Whether a regular file has this name."""
        return self._files.size(name) is not None

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; `None` if no regular file has that name."""
        return self._files.size(name)

    @property
    def on_disk(self) -> bool:
        """Whether finished tables stay on the disk on which they are written."""
        return self._files.on_disk

    def free_bytes(self) -> int:
        """Return the free space on the disk on which tables are written, in bytes."""
        return self._files.free_bytes()

    def files_of_parts(self, name: str) -> list[str]:
        """Return the names of a file of the run's process and of those of its parts, as far as they exist."""
        path = PurePosixPath(name)
        pattern = re.compile(rf"{re.escape(path.stem)}(-\d+-of-\d+)?{re.escape(path.suffix)}")
        return [str(path.with_name(each)) for each in self.names(str(path.parent)) if pattern.fullmatch(each)]

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading, as bytes.

        Raises:
            OSError: The file does not exist, or it is not a regular file.
        """
        return self._files.open(name)

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            OSError: As `open`.
        """
        return self._files.read(name)

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of a folder's entries; an empty list if the folder does not exist."""
        return self._files.names(folder)

    def stored(self, name: str) -> StoredTable:
        """Return a table that is no table of a shard, by the name of its file."""
        return StoredTable(self._files, name)

    def table(self, table: str, shard: int, supplement: int = 0) -> StoredTable:
        """Return the file of one table that a pass over a shard writes. A pass that is computed again replaces it."""
        if table == "transcripts" and self.decoded is not None:
            return self.decoded.table(shard)
        return StoredTable(self._files, f"{table}/{name_of_pass(shard, supplement)}.parquet")

    def tables(self, shard: CommittedShard, table: str) -> list[StoredTable]:
        """Return the committed files of one table and shard: one of each pass that wrote the table."""
        return [self.table(table, record.shard, record.supplement) for record in shard.having(table)]

    def commit_name(self, shard: int, supplement: int = 0) -> str:
        """Return the name of a commit record."""
        return f"{COMMITS}/{name_of_pass(shard, supplement)}.json"

    def require_outside(self, option: str, path: Path, what: str) -> None:
        """Refuse a place inside the run directory, which holds only what the run writes.

        Args:
            option: What named the place, for the message.
            path: The place.
            what: What is to be given instead, such as `folder`.

        Raises:
            UserError: The place is inside the run directory.
        """
        if isinstance(self.root, Path) and path.resolve().is_relative_to(self.root.resolve()):
            raise UserError(f"{option}={path}: is inside the run directory {self.root}; give a {what} outside it")

    def require_run(self) -> None:
        """Check that the folder holds a run.

        Raises:
            UserError: It does not.
        """
        if not self.manifest.is_there:
            path = full(self.root)
            if path.name.startswith(DECODED) and RunFiles(path.parent).manifest.is_there:
                raise UserError(f"{self.root}: is a decoding, and the command takes whole runs; give {path.parent}")
            raise UserError(f"{self.root}: no run there (no {MANIFEST}); give the run_dir of a run")

    def file_record(self, name: str) -> StoredFile:
        """Return the size and SHA-256 of a file.

        Raises:
            OSError: As `open`.
        """
        with self.open(name) as source:
            return StoredFile(source.size(), sha256_of(source))
