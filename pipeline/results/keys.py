"""Finds the row of a user's table that names an utterance, by its id or by the path of its recording."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.archives.members import unpacked
from pipeline.datasets.formats.naming import ByPath, relative_key, spelled
from pipeline.datasets.formats.values import shown
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import common_folder, is_absolute


def rows_by_id(name: str, keys: Iterable[str | None], ids: Iterable[str]) -> NDArray[np.int64]:
    """Return the row of each id, `(ids,)`; -1 for none. Ids are equal in either Unicode form.

    Args:
        name: Name of the table, for messages.
        keys: Id in each row of the table; `None` for none.
        ids: Ids of the utterances.

    Raises:
        UserError: The table has an id twice.
    """
    row_of = _row_of(name, "id", (key and spelled(key) for key in keys))
    return np.array([row_of.get(spelled(id_), -1) for id_ in ids], np.int64)


def rows_by_path(
    name: str, keys: Iterable[str | None], paths: Sequence[str], root: str, folder: str
) -> NDArray[np.int64]:
    """Return the row of each path, `(paths,)`; -1 for none.

    Args:
        name: Name of the table, for messages.
        keys: Path in each row of the table: absolute, or relative to one of both folders, with or without the
            extension; `None` for none.
        paths: Paths of the recordings, as in the manifest.
        root: The folder of the recordings.
        folder: The folder of the table.

    Raises:
        UserError: The table has a path twice, or one that may be any of several recordings.
    """
    there = {spelled(unpacked(path)) for path in paths}

    def is_there(path: str) -> bool:
        return spelled(os.path.normpath(path)) in there

    by_path = ByPath(_row_of(name, "path", (key and relative_key(key, root, folder, is_there) for key in keys)))
    row_of: dict[str, int] = {}
    used: dict[int, str] = {}
    for path in dict.fromkeys(paths):
        row = by_path.find(os.path.relpath(unpacked(path), root))
        if row is not None and used.setdefault(row, path) != path:
            both = f"{shown(used[row])} and {shown(path)}"
            raise UserError(f"{name}: row {row + 1} matches both {both}; give the path relative to {root}")
        row_of[path] = -1 if row is None else row
    return np.array([row_of[path] for path in paths], np.int64)


def root_of(made_with: Mapping[str, Any], paths: Iterable[str]) -> str:
    """Return the folder of the recordings: that of the dataset's settings, or else the one that holds all of them.

    Args:
        made_with: The settings that the manifest was made with.
        paths: Paths of the recordings, as in the manifest.
    """
    named = (made_with.get("root"), made_with.get("audio_root"), os.path.dirname(made_with.get("path") or ""))
    folders = (folder for folder in named if folder and is_absolute(folder))
    return next(folders, None) or common_folder([os.path.dirname(unpacked(path)) for path in paths] or [os.sep])


def _row_of(name: str, on: str, keys: Iterable[str | None]) -> dict[str, int]:
    row_of: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key and row_of.setdefault(key, row) != row:
            rows = f"rows {row_of[key] + 1} and {row + 1}"
            raise UserError(f"{name}: {on} {shown(key)} is in {rows}; keep one row for each {on}")
    return row_of
