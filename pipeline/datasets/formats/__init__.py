"""Reads lists of recordings that other programs write. Each format has one reader, which yields `Row`s.

A reader goes through its list from the beginning each time, one line at a time. It knows nothing of ids, column types
or other formats: `pipeline.datasets.manifest` turns rows into utterances. A reader never opens, executes or fetches
what a list names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One recording, or one segment of a recording, as a list has it.

    Attributes:
        path: Path as listed: absolute, or relative to a folder that the connector knows.
        id: The id in the list; `None` if the list has no ids.
        reference: The reference transcript; `None` if the list has none.
        start_s, end_s: The segment in seconds of the file; `None` means the beginning or end of the file.
        channel: The channel of the file, from 1; `None` if the list names none, or the file has only this one.
        extras: All other values by name, as listed.
    """

    path: str
    id: str | None = None
    reference: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    channel: int | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """A list that can be read.

    Attributes:
        rows: Reads the list from the beginning. Raises `UserError` with the number of a wrong line.
        format: The name of the format.
        roles: The columns by their role, such as path or text, if the format lets a user choose them.
        types: The Arrow types of extras by name, if the format declares them. Other types follow from the values.
        folder: The folder that relative paths are relative to, if the list names one.
        from_anywhere: Whether the programs that write this format resolve relative paths against the working
            directory. Then the list does not tell which folder is meant.
    """

    rows: Callable[[], Iterator[Row]]
    format: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    from_anywhere: bool = False
