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
        path: Path as listed: absolute, or relative to a folder that the connector knows; empty if the row has none.
        id: The id in the list; `None` if the list has no ids.
        reference: The reference transcript as listed, of any type; `None` if the list has none.
        start_s, end_s: The segment in seconds of the file; `None` means the beginning or end of the file.
        channel: The channel of the file, from 1; `None` if the list names none, or the file has only this one.
        extras: All other values by name, as listed.
        place: Where the row is, for messages: `line 3`.
        error: Why the row cannot be used, with its place. Such a row is a failure and costs no other row.
        duration_s: Seconds of a whole file, as far as the list says them.
    """

    path: str
    id: str | None = None
    reference: Any = None
    start_s: float | None = None
    end_s: float | None = None
    channel: int | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    error: str | None = None
    duration_s: float | None = None

    @classmethod
    def wrong(cls, place: str, error: object, path: object = None, id_: object = None) -> Row:
        """Return a row that cannot be used.

        Args:
            place: Where the row is.
            error: What is wrong.
            path: The path in the row; anything else than a text or a number counts as none.
            id_: The id in the row, likewise.
        """
        known = [
            str(value) if isinstance(value, str | int) and not isinstance(value, bool) else "" for value in (path, id_)
        ]
        return cls(path=known[0], id=known[1] or None, place=place, error=f"{place}: {error}")


@dataclass(frozen=True)
class Batch:
    """Some rows of a list that can be read by columns.

    Attributes:
        columns: The columns, a `pyarrow.RecordBatch`; `None` if they cannot hold all that the rows say. Numbers may be
            texts, in their spelling.
        rows: Reads the rows one by one.
    """

    columns: Any
    rows: Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class Listing:
    """A list that can be read.

    Attributes:
        rows: Reads the list from the beginning. A wrong row has an `error`; a list that is wrong as a whole raises
            `UserError`.
        format: The name of the format.
        roles: The columns by their role, such as path or text, if the format lets a user choose them.
        types: The Arrow types of extras by name, if the format declares them. Other types follow from the values.
        folder: The folder that relative paths are relative to, if the list names one.
        from_anywhere: Whether the programs that write this format resolve relative paths against the working
            directory. Then the list does not tell which folder is meant.
        batches: Reads the list by columns, if it can be and its columns hold texts, numbers and booleans.
    """

    rows: Callable[[], Iterator[Row]]
    format: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    from_anywhere: bool = False
    batches: Callable[[], Iterator[Batch]] | None = None
