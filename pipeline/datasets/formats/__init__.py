"""Lists of recordings as others write them: one reader a format, each of which gives `Row`s.

A reader reads its list from the beginning each time it is asked, a line at a time, and knows nothing of
ids, types or the other formats: `pipeline.datasets.manifest` makes utterances of rows. Nothing that a list
names is opened, executed or fetched here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.datasets.formats.values import kind_of


@dataclass(frozen=True, slots=True)
class Row:
    """One recording, or one segment of one, as a list gives it.

    Attributes:
        path: As listed: absolute, or relative to a folder that is the connector's business.
        id: The list's own; `None` where it has none.
        reference: What was said; `None` where the list does not say.
        start_s, end_s: The segment in seconds of the file; `None` for its beginning or end.
        channel: The channel of the file, 1 the first; `None` where the list names none, or it has no choice.
        extras: Everything else, name to value, as listed.
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
        rows: Reads it from the beginning. Raises `UserError` with the number of the line that is wrong.
        types: Name to Arrow type of every extra, where the format declares them; `None`: from the values.
        kind: What a value is, see `values.kind_of`.
        from_anywhere: Whether the programs that write this format take relative paths from the working
            directory, so that it cannot be told which folder is meant.
    """

    rows: Callable[[], Iterator[Row]]
    types: Mapping[str, str] | None = None
    kind: Callable[[Any], str] = kind_of
    from_anywhere: bool = False
