"""Gives each recording of a run a short name that is safe as a file name and as a word of a line."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable

from pipeline.audio.archives.members import unpacked

_MAX_BYTES = 150
"""A longer name is cut, because file systems allow 255 bytes and a format adds an ending."""


class UniqueNames:
    """Makes safe names. No two are equal, also where a file system does not tell upper from lower case."""

    def __init__(self) -> None:
        """Start without names."""
        self._taken: set[str] = set()

    def of(self, *candidates: str) -> str:
        """Return the safe form of the first text whose safe form is free; else that of the last, with a number."""
        for name in map(safe_name, candidates):
            if name.casefold() not in self._taken:
                break
        else:
            number = 2
            while f"{name}-{number}".casefold() in self._taken:
                number += 1
            name = f"{name}-{number}"
        self._taken.add(name.casefold())
        return name


def safe_name(text: str) -> str:
    """Return a text with `_` for everything but letters, digits, `.`, `-` and `_`. It is neither empty nor hidden."""
    plain = "".join(
        char if char in ".-_" or unicodedata.category(char)[0] in "LMN" else "_"
        for char in unicodedata.normalize("NFC", text)
    )
    if plain[:1] in ("", ".", "-"):
        plain = f"_{plain}"
    if len(plain.encode()) > _MAX_BYTES:
        start = plain.encode()[: _MAX_BYTES - 9].decode(errors="ignore")
        plain = f"{start}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return plain


def stem_of(path: str) -> str:
    """Return the file name of a path without its ending."""
    return os.path.splitext(os.path.basename(unpacked(path)))[0]


def recording_names(paths: Iterable[str], root: str) -> dict[str, str]:
    """Return the name of each recording, by path: `0017` for `monday/0017.wav`.

    A recording whose file name is not the only one of its kind has the name `monday_0017`, with the folders below the
    root. If that is not free either, a number is added.

    Args:
        paths: Paths of the recordings, as in the manifest.
        root: The folder of the recordings.
    """
    stems = {path: stem_of(path) for path in paths}
    number = Counter(safe_name(stem).casefold() for stem in stems.values())
    unique = UniqueNames()
    names = {path: unique.of(stem) for path, stem in stems.items() if number[safe_name(stem).casefold()] == 1}
    for path in stems:
        if path not in names:
            relative = os.path.relpath(unpacked(path), root)
            names[path] = unique.of(os.path.splitext(relative)[0], relative)
    return {path: names[path] for path in stems}
