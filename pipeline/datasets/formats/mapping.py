"""Finds which column or key of a list holds the path, the text, the times and so on.

The user's choice comes first; otherwise usual names are recognised. The same names count in every format.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

from pipeline.datasets.formats import Row
from pipeline.datasets.formats.values import (
    channel,
    is_missing,
    known_duration,
    number_in,
    path,
    point,
    seconds,
    shown,
    written,
)
from pipeline.runtime.errors import UserError


@dataclass
class Columns:
    """The options `dataset.columns.*`: the names of columns in the list, or their numbers, counted from 1.

    `None` looks for the usual names. An empty string means that the list has no such column.

    Attributes:
        path: Column of the path of the recording.
        text: Column of the reference transcript.
        id: Column of the list's own id.
        start: Column of the start of a segment in seconds.
        end: Column of the end of a segment in seconds.
        duration: Column of the duration of a segment in seconds, for lists without an end.
        channel: Column of the channel, counted from 1.
    """

    path: str | None = None
    text: str | None = None
    id: str | None = None
    start: str | None = None
    end: str | None = None
    duration: str | None = None
    channel: str | None = None

    id_is_enough: ClassVar[bool] = False
    """Whether the id stands for the path in a list without paths."""


ROLES = tuple(field.name for field in fields(Columns))
PLACES = ("start", "end", "duration", "channel")
"""The roles that say which part of a recording a row is. Their values are numbers."""

_USUAL: dict[str, tuple[str, ...]] = {
    "path": (
        "audiofilepath",
        "path file filename filepath audio audiopath audiofile audiofilename "
        "wav wavpath wavfile wavfilename wavfilepath",
    ),
    "text": (
        "text reference",
        "transcript transcription sentence",
        "normalizedtext normalisedtext normalizedtranscript normalizedtranscription",
        "rawtext rawtranscript rawtranscription wrd",
    ),
    "id": ("id", "uttid utteranceid"),
    "start": ("start starts starttime offset begin begins begintime",),
    "end": ("end ends endtime",),
    "duration": ("duration durations",),
    "channel": ("channel",),
}
"""The usual names of each role, as `_folded` writes them. Names of an earlier string win over those of a later one."""

_TELLING = re.compile("text|transcri|sentence|utteran|words?$|wrd|refer|caption|prompt|said|spoken|speech")


@cache
def _folded(name: str) -> str:
    """Return a name without case, accents, invisible characters, blanks, dots, hyphens, underscores and `#` before it.

    `Start_S` is `starts`, and `TRANSCRIPT` with the Turkish capital i is `transcript`.
    """
    letters = unicodedata.normalize("NFKD", name).casefold().lstrip("#")
    shown = "".join(char for char in letters if unicodedata.category(char) not in ("Cf", "Mn"))
    return re.sub(r"[\s._-]+", "", shown)


def is_usual(name: str) -> bool:
    """Whether a name is usual for one of the roles."""
    return any(_folded(name) in names.split() for tiers in _USUAL.values() for names in tiers)


def sounds_like_text(name: str) -> bool:
    """Whether a column with this name may hold what is said in a recording."""
    return _TELLING.search(_folded(name)) is not None


def roles_in(columns: Columns, names: Sequence[str], source_name: str, remedy: str = "") -> dict[str, str]:
    """Map each role (an attribute of `Columns`) to its column in a list; leave out roles without one.

    Args:
        columns: The user's choice.
        names: Names of the columns, or keys, of the list.
        source_name: Name of the list in messages.
        remedy: What else a user can do if the column of the path is not found.

    Raises:
        UserError: A column is missing or appears twice, or several columns could have a role.
    """
    has = f"its columns are {', '.join(map(shown, names[:40]))}"
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise UserError(f"{source_name}: column {shown(twice)} appears twice; {has}; give every column its own name")
    found = {}
    for role in ROLES:
        given = getattr(columns, role)
        if given:
            found[role] = name = named_column(given, names)
            if not name:
                raise UserError(f"dataset.columns.{role}={given}: {source_name} has no such column; {has}")
        elif given is None:
            usual = usual_columns(role, names)
            if len(usual) > 1:
                both, choice = " and ".join(usual), f"set dataset.columns.{role}={usual[0]}"
                raise UserError(f"{source_name}: columns {both} may both hold the {role}; {choice}")
            if usual:
                found[role] = usual[0]
    if "path" not in found and "id" in found and columns.id_is_enough:
        found["path"] = found["id"]
    if "path" not in found:
        raise UserError(
            f"{source_name}: no column is known to hold the path of the recording; {has}; "
            f"set dataset.columns.path=...{remedy}"
        )
    return found


def named_column(given: str, names: Sequence[str]) -> str:
    """Return the column that a user means by a name or a number; an empty string if there is none."""
    same = [given] if given in names else [name for name in names if _folded(name) == _folded(given)]
    if len(same) == 1:
        return same[0]
    is_number = given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= len(names)
    return names[int(given) - 1] if is_number else ""


def usual_columns(role: str, names: Sequence[str]) -> list[str]:
    """Return the columns with the most usual name of a role. A name in lower case wins over one in another case."""
    lower = [name for name in names if name == name.strip().lower()]
    for spelled in (lower, names):
        for tier in _USUAL[role]:
            if found := [name for usual in tier.split() for name in spelled if _folded(name) == usual]:
                return found
    return []


def row_of(place: str, record: Mapping[str, Any], roles: Mapping[str, str]) -> Row:
    """Make a row from a record. Numbers may be written as texts. A row with a wrong value has an error that names it.

    The segment is given by `start` and `end`, or by `start` and `duration`. Without `start` and `end` the row is the
    whole file. Many lists give its `duration` only for information, so a wrong one costs no row.
    """
    try:
        return _row_of(place, record, roles)
    except ValueError as error:
        id_ = record.get(roles["id"]) if "id" in roles else None
        with suppress(ValueError):
            return Row.wrong(place, error, path("path", record.get(roles["path"])), id_)
        return Row.wrong(place, error, id_=id_)  # a URL may hold a secret, so it is shown nowhere


def _row_of(place: str, record: Mapping[str, Any], roles: Mapping[str, str]) -> Row:
    def get(role: str) -> Any:
        value = record.get(roles[role]) if role in roles else None
        if role in PLACES and isinstance(value, str):
            return number_in(value.strip()) if value.strip() else None
        return value

    def name(role: str) -> str:
        return roles.get(role, role)

    if roles["path"] not in record:
        raise ValueError(f"{roles['path']} is missing; there are {', '.join(map(shown, list(record)[:40]))}")
    id_ = None if is_missing(get("id")) else get("id")
    if isinstance(id_, bool) or not isinstance(id_, str | int | float | None):
        raise ValueError(f"{name('id')}={shown(id_)}: must be a string or a number")
    start, end = point(name("start"), get("start")), point(name("end"), get("end"))
    if start is not None and end is None:
        duration = seconds(name("duration"), get("duration"))
        end = None if duration is None else start + duration
    elif start is None and end is not None:
        start = 0.0
    own = frozenset(roles.values())
    return Row(
        path=path(roles["path"], record[roles["path"]]),
        id=None if id_ is None else written(id_) or None,
        reference=get("text"),
        start_s=start,
        end_s=end,
        channel=channel(name("channel"), get("channel")),
        extras={key: value for key, value in record.items() if key not in own},
        place=place,
        duration_s=known_duration(get("duration")) if start is None else None,
    )
