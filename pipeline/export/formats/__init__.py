"""The formats of `python -m pipeline.export`: one module for each, which has what `Format` says."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, cast

from pipeline.export.material import Exported, Recording
from pipeline.runtime.errors import one_of


class Format(Protocol):
    """What the module of a format has.

    Attributes:
        DESCRIPTION: What is written, in a few words for the help page.
        SUFFIX: The ending of the file; an empty string if a folder is written.
        NEEDS_WORDS: Whether the format needs the times of words, which references do not have.
    """

    DESCRIPTION: str
    SUFFIX: str
    NEEDS_WORDS: bool

    def write(self, recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
        """Write the recordings, which can be passed over once.

        Args:
            recordings: The recordings.
            path: A file that does not exist yet, or an empty folder.
            exported: The export. The format counts in it what it has to leave out.
        """
        ...


def names() -> list[str]:
    """Return the names of the formats, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Format:
    """Return a format.

    Raises:
        UserError: There is no such format.
    """
    one_of("--format", name, names())
    return cast(Format, importlib.import_module(f"{__name__}.{name}"))


def write_each(recordings: Iterable[Recording], folder: Path, suffix: str, content: Callable[[Recording], str]) -> None:
    """Write a text file for each recording, which has the name of the recording."""
    for recording in recordings:
        (folder / f"{recording.name}{suffix}").write_text(content(recording), encoding="utf-8", newline="\n")


def word_of(text: str | None, otherwise: str) -> str:
    """Return a text as one word of a line: `_` in place of white space; `otherwise` if nothing is left."""
    return "_".join((text or "").split()) or otherwise
