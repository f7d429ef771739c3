"""The run directory. All code that reads or writes a run uses this module.

A commit writes each table of a shard to `.staging/`, syncs the files to disk and moves them to their final names. Then
it writes the commit record in the same way. After a kill at any point, each file under a final name is complete.
`.staging/` is on the same file system as the tables. It is not in a table's folder, because DuckDB and Polars also read
hidden files there.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import RunError, UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.places import Place, place
from pipeline.storage.files import Published
from pipeline.storage.locked_run import LockedRun
from pipeline.storage.names import COMMITS, DECODED, LOCK, LOG, TABLES, Part, name_of_pass, shard_of_staging
from pipeline.storage.run_files import full

_ROW_GROUP_ROWS = 2**17
"""Rows of a row group in a table of the whole run. While a table is written, memory holds one encoded row group."""


class RunDirectory(LockedRun):
    """The files of one run, for reading and writing. File names are relative to the run directory."""

    @classmethod
    def at(cls, path: str | os.PathLike[str] | Place) -> RunDirectory:
        """Return the run at a place. `RUN_DIR/transcripts-beam` is the run with the transcripts of that decoding.

        Raises:
            UserError: The run has no such decoding, or the place cannot be used.
        """
        path = path if isinstance(path, Place) else place(os.fspath(path))
        named = full(path) if path.name in ("", "..") else path
        directory, name = cls(named.parent), named.name.removeprefix(DECODED)
        if name == named.name or cls(path).manifest.is_there or not directory.manifest.is_there:
            return cls(path)
        if name not in (names := directory.decodings()):
            there = f"it has {', '.join(names)}" if names else "it has none; stages=[decode] makes one"
            raise UserError(f"{path}: the run has no decoding {name} ({there})")
        return directory.of_decoding(name)

    # Writing. The caller holds the lock.

    def _prepare_to_write(self) -> None:
        """Create the folder for unfinished files. A run that holds the lock never creates it again.

        Raises:
            RunError: As `check_in_place`.
        """
        if not self._locks and self._guard is None:
            self._files.prepare()
        self.check_in_place()

    @contextmanager
    def new_or_kept(self) -> Iterator[None]:
        """At the end of the context, remove the run directory if it was created in the context and has no manifest."""
        root = self.root if isinstance(self.root, Path) else self._files.scratch
        new = [path for path in (root, *root.parents) if not path.exists()]
        try:
            yield
        finally:
            if new and root.is_dir() and not self.manifest.is_there:
                names = [LOCK, LOG] if self.part is None else [LOCK, LOG, self.part.file(LOCK), self.part.file(LOG)]
                # Another process may have started a run.
                with suppress(UserError, RunError), self._files.hold(LOCK, self._what):
                    for name in names:
                        self._files.remove(name)
                folders = [path.parent for path in (self._files.scratch / "lock", self._files.log(LOG))]
                for path in (*folders, *new):
                    with suppress(OSError):  # a folder that is not empty stays
                        path.rmdir()

    def local_log(self, name: str = LOG) -> Path:
        """Return the path of a log or metrics file, whose folder is created. Such a file is appended to.

        Each part of a run has files of its own.

        Raises:
            UserError: Something else than a regular file is there, such as a FIFO.
        """
        self._prepare_to_write()
        return self._files.log(name if self.part is None else self.part.file(name))

    def write(self, name: str, data: bytes | memoryview, shard: int | None = None) -> None:
        """Write a small file atomically: after a crash, either the old or the new file is there.

        Args:
            name: The file.
            data: Its content.
            shard: As for `Files.write`.

        Raises:
            RunError: As `check_in_place`.
        """
        self._prepare_to_write()
        self._files.write(name, data, shard)

    def create(self, name: str, data: bytes, shard: int | None = None) -> None:
        """Write a small file as `write` does. Where the store can, only if there is none.

        Raises:
            FileExistsError: Another process has created the file, with other content.
            RunError: As `check_in_place`.
        """
        self._prepare_to_write()
        self._files.create(name, data, shard)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file atomically: after a crash, either the old or the new file is there.

        Raises:
            RunError: As `check_in_place`.
        """
        self._prepare_to_write()
        options = {"compression": "zstd", "write_page_checksum": True, "row_group_size": _ROW_GROUP_ROWS}
        self._files.write_by(name, lambda path: pq.write_table(table, path, **options))

    def remove_scores(self) -> None:
        """Remove the scores, because the transcripts are about to change or none has a reference."""
        for stored in (self.scores, self.confusions):
            self._files.remove(stored.name)

    def remove_staging(self, shard: int) -> None:
        """Remove unfinished files and folders of a shard. The caller knows that no process is at work on the shard."""
        for path in self._scratch():
            if shard_of_staging(path.name) == shard:
                _remove(path)

    def remove_leftovers(self, part: Part | None = None) -> None:
        """Remove unfinished files of earlier attempts from `.staging/`. No process is at work on the shards.

        Args:
            part: Remove only what is left of shards of this part; `None` removes everything.
        """
        for path in self._scratch():
            shard = shard_of_staging(path.name)
            if part is not None and (shard is None or shard not in part):
                continue
            if path.name.startswith("file-") or shard is not None:
                _remove(path)

    def discard(self) -> None:
        """Remove what an attempt with other settings left. The caller has checked that it has no results."""
        for name in self._record_names():  # first, because a record promises that its tables are there
            self._files.remove(f"{COMMITS}/{name}", durable=True)
        for table in TABLES:
            for name in self.names(table):
                if name.startswith("shard-") and name.endswith(".parquet"):
                    self._files.remove(f"{table}/{name}")

    def new_staging(self, shard: int) -> Path:
        """Create a staging folder for one attempt at a shard, and return its path."""
        self._prepare_to_write()
        path = self._files.scratch / f"{name_of_pass(shard)}-{uuid.uuid4().hex}"
        path.mkdir(mode=0o700)  # others must not place files here: the names are predictable
        return path

    def has_staging(self, shard: int) -> bool:
        """Whether an attempt at a shard left unfinished files."""
        return any(shard_of_staging(path.name) == shard for path in self._scratch())

    def _scratch(self) -> list[Path]:
        """Return what lies in the folder for unfinished files on this machine."""
        return sorted(self._files.scratch.iterdir()) if self._files.scratch.is_dir() else []

    def stage(self, name: str, path: Path) -> None:
        """Move a finished local file to a name in staging, from where `staged` takes it, also after a kill."""
        self._files.stage(name, path)

    def staged(self, name: str) -> Path | None:
        """Return a local path of a file in staging; `None` if there is no such file."""
        return self._files.staged(name)

    def remove_staged(self, folder: str) -> None:
        """Remove a folder of files in staging."""
        self._files.remove_folder(folder)

    def are_there(self, published: Published) -> bool:
        """Whether the files under the final names are still those that this process has published."""
        return self._files.are_there(published)

    def publish(self, staged: Mapping[str, Path], shard: int, supplement: int = 0) -> Published:
        """Move staged tables of a pass over a shard to their final names, so that a power failure does not undo it.

        Args:
            staged: Staged file of each table, by table name.
            shard: The shard.
            supplement: Number of the pass.

        Raises:
            RunError: As `check_in_place`.
        """
        named = {self.table(table, shard, supplement).name: path for table, path in staged.items()}
        return self._files.publish(named, shard)

    def retract(self, shard: int, supplement: int = 0, *, durable: bool = True) -> dict[int, set[str]]:
        """Remove the commit records of a pass and of all later passes over a shard, so that they are computed again.

        Args:
            shard: The shard.
            supplement: Number of the pass.
            durable: Sync the folder, so that the records stay removed after a power failure.

        Returns:
            The passes with the names of their files, as `passes` has found them before.
        """
        passes = self.passes(shard, supplement)
        for number, there in reversed(passes.items()):
            if (name := self.commit_name(shard, number)) in there:
                failpoint("retract", shard)
                self._files.remove(name, durable=durable)
                failpoint("retracted", shard)
        return passes

    def remove_tables(self, shard: int, passes: dict[int, set[str]], but: Collection[str]) -> None:
        """Remove the tables of a pass, except some tables, and all tables of later passes over a shard.

        The caller has retracted the commit records, and is about to replace the tables `but`. Without this, readers of
        a folder would find rows twice when the shard is computed anew with all its outputs at once. A file of each
        table in `but` stays, under the name of the pass, because after a kill the files tell which outputs there were.

        Args:
            shard: The shard.
            passes: The pass and all later ones with the names of their files, as `retract` returns them.
            but: The tables.
        """
        first = min(passes)
        kept = set(passes[first])
        for number, there in reversed(passes.items()):  # the last first, so that a kill leaves no gap
            for table in TABLES:
                name, place = self.table(table, shard, number).name, self.table(table, shard, first).name
                if name in there:
                    if number > first and table in but and place not in kept:
                        self._files.rename(name, place)
                        kept.add(place)
                    elif number > first or table not in but:
                        self._files.remove(name)
                failpoint("removing", shard)


def _remove(path: Path) -> None:
    """Remove an unfinished file or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
