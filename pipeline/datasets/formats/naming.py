"""Finds out which recording a list means by a path, in whatever way the path is spelled."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from pipeline.runtime.paths import encode_path

Value = TypeVar("Value")


class ByPath(Generic[Value]):
    """Values by the path that a list gives them. A path may lack the extension of its recording.

    If no path names a folder, a file name is enough.
    """

    def __init__(self, values: Mapping[str, Value | None]) -> None:
        """Take over the values.

        Args:
            values: A value for each path as `relative_key` or `spelled` returns it; `None` for none.
        """
        self._values = values
        self._without_folders = not any("/" in key for key in values)

    def find(self, relative: str) -> Value | None:
        """Return the value of a recording, whose path is relative to the root; `None` if it has none."""
        for name in (relative, os.path.basename(relative)) if self._without_folders else (relative,):
            for key in (name, os.path.splitext(name)[0]):
                value = self._values.get(spelled(key))
                if value is not None:
                    return value
        return None


def relative_key(listed: str, root: str, folder: str, is_there: Callable[[str], bool]) -> str:
    """Return a listed path relative to the root, in one spelling.

    Args:
        listed: A path that is absolute, relative to the root, or relative to the folder of the list.
        root: The folder of the recordings.
        folder: The folder of the list.
        is_there: Whether a path is that of a recording.
    """
    if not is_there(os.path.join(root, listed)):
        listed = listed.strip().replace("\\", "/")
    beside = os.path.join(folder, listed)
    if os.path.isabs(listed) or (not is_there(os.path.join(root, listed)) and is_there(beside)):
        listed = os.path.relpath(beside, root)
    return spelled(posixpath.normpath(listed))


def spelled(path: str) -> str:
    """Return a path or an id in one Unicode form, with `/`. macOS writes accents in another form than most lists."""
    return unicodedata.normalize("NFC", encode_path(path.replace(os.sep, "/")))
