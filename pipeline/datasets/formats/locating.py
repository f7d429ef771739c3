"""Finds the recording that a row of a list names, also in another spelling of its path."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable

from pipeline.audio.archives.members import member_of
from pipeline.datasets.formats import Row
from pipeline.datasets.formats.values import shown
from pipeline.runtime.paths import resolve_path
from pipeline.runtime.places import is_url, joined

# SpeechBrain writes $data_root for the folder of the recordings.
PLACEHOLDER = re.compile(r"(?:\$\w+|\$?\{\w+\}|%\w+%|<\w+>)[/\\]+")
"""What stands for the folder of the recordings at the beginning of a path."""


def located(folder: str, row: Row, warn: Callable[[str, str], None]) -> str:
    """Return the path of a recording. If there is none, one with another spelling of the same path is taken.

    Args:
        folder: The folder that relative paths are relative to.
        row: The row.
        warn: Called with the kind and the place of a path in another spelling.
    """
    if (member := member_of(row.path)) is not None:
        return member._replace(archive=joined(folder, member.archive)).path
    if is_url(row.path) or is_url(folder):
        return joined(folder, row.path)
    path = resolve_path(os.path.join(folder, row.path))
    plain = PLACEHOLDER.sub("", row.path, count=1) if PLACEHOLDER.match(row.path) else row.path
    plain = plain.replace("\\", "/").strip()
    if (plain == row.path and row.path.isascii()) or os.path.lexists(path):
        return path
    for other in (plain, unicodedata.normalize("NFC", plain), unicodedata.normalize("NFD", plain)):
        if other != row.path and os.path.lexists(found := os.path.join(folder, other)):
            read = f"{row.place}: {shown(row.path)} as {other!a}"
            warn("paths that do not exist as listed, but in another spelling, which was read", read)
            return found
    return path
