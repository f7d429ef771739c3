"""Where an export is written: one file, or a folder. Either appears when it is complete."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime.errors import UserError, naming
from pipeline.storage.run_directory import RunDirectory

MARK = ".overnight-speech"
"""A file in each folder that this project exports. A later export replaces such a folder."""


def beside(directory: RunDirectory, ending: str) -> Path:
    """Return the place beside a run directory that has the name of the run, or of its decoding, and an ending."""
    return directory.beside / (directory.name + ending)


def check_output(option: str, path: Path, directory: RunDirectory, *, folder: bool) -> None:
    """Refuse a place inside the run directory, and one that holds something else than an earlier export.

    Args:
        option: What named the place, for messages.
        path: The place.
        directory: The run, whose folder holds only what the run writes.
        folder: Whether a folder is written there.

    Raises:
        UserError: The place cannot be used.
    """
    directory.require_outside(option, path, "place")
    if folder and os.path.lexists(path) and not (path.is_dir() and (not any(path.iterdir()) or (path / MARK).exists())):
        raise UserError(
            f"{option}={path}: there is something that no export has written; remove it, or give another folder"
        )
    if not folder and os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        # A finished file takes the place of what is there, also of a device such as /dev/null.
        raise UserError(f"{option}={path}: is a folder, a link or a device; give the name of a file")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder, which takes the place of `path` at the end of the context.

    An earlier folder is there until then. After an error, nothing has changed.

    Raises:
        OSError: The folder cannot be written.
    """
    number = uuid.uuid4().hex
    staged, before = (path.with_name(f".{path.name}.{number}{which}") for which in ("", ".before"))
    with naming(path):
        staged.mkdir(parents=True)
        try:
            yield staged
            (staged / MARK).touch()
            if path.exists():
                os.replace(path, before)
            os.replace(staged, path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            if not path.exists() and before.exists():
                os.replace(before, path)
            shutil.rmtree(before, ignore_errors=True)
