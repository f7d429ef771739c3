"""Finds which column or key of a list holds the path, the text, the times and so on.

The user's choice comes first; otherwise usual names are recognised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pipeline.datasets.formats import Row
from pipeline.datasets.formats.values import channel, path, point, reference, seconds, shown
from pipeline.runtime.errors import UserError


@dataclass
class Columns:
    """The options `dataset.columns.*`: the names of columns in the list.

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


ROLES = tuple(field.name for field in fields(Columns))

JSON_KEYS = {"path": "audio_filepath", "text": "text", "id": "id", "start": "offset", "duration": "duration"}
"""The keys of NVIDIA NeMo's lists, and `id`."""

_USUAL = {
    "path": ("audio_filepath", "path", "file", "filename", "file_name", "filepath", "file_path", "audio", "wav"),
    "text": ("text", "transcript", "transcription", "sentence", "reference"),
    "id": ("id",),
    "start": ("start", "start_s", "start_time", "offset"),
    "end": ("end", "end_s", "end_time"),
    "duration": ("duration", "duration_s"),
    "channel": ("channel",),
}


def json_keys(columns: Columns) -> dict[str, str]:
    """Map each role (an attribute of `Columns`) to its key in a list of JSON lines; leave out roles without a key."""
    given = {role: getattr(columns, role) for role in ROLES}
    keys = {role: JSON_KEYS.get(role) if key is None else key for role, key in given.items()}
    return {role: key for role, key in keys.items() if key}


def header_columns(columns: Columns, header: Sequence[str], source_name: str) -> dict[str, str]:
    """Map each role (an attribute of `Columns`) to its column in a list with a header; leave out roles without one.

    Raises:
        UserError: A column is missing or appears twice, or several columns could have a role.
    """
    has = f"its columns are {', '.join(map(shown, header[:40]))}"
    twice = next((name for name in header if header.count(name) > 1), None) if len(set(header)) < len(header) else None
    if twice is not None:
        raise UserError(f"{source_name}: column {shown(twice)} appears twice; {has}; give every column its own name")
    found = {}
    for role in ROLES:
        given = getattr(columns, role)
        if given:
            if given not in header:
                raise UserError(f"dataset.columns.{role}={given}: {source_name} has no such column; {has}")
            found[role] = given
        elif given is None:
            usual = [name for name in _USUAL[role] if name in header]
            if len(usual) > 1:
                both, remedy = " and ".join(usual), f"set dataset.columns.{role}={usual[0]}"
                raise UserError(f"{source_name}: columns {both} may both hold the {role}; {remedy}")
            if usual:
                found[role] = usual[0]
    if "path" not in found:
        raise UserError(
            f"{source_name}: no column is known to hold the path of the recording; {has}; set dataset.columns.path=..."
        )
    return found


def row_of(record: Mapping[str, Any], roles: Mapping[str, str]) -> Row:
    """Make a row from a record whose values already have their types.

    The segment is given by `start` and `end`, or by `start` and `duration`. Without `start` and `end` the row is the
    whole file, and `duration` is ignored, because many lists give it only for information.

    Raises:
        ValueError: A value is wrong; the message names it.
    """

    def get(role: str) -> Any:
        return record.get(roles[role]) if role in roles else None

    def name(role: str) -> str:
        return roles.get(role, role)

    if roles["path"] not in record:
        raise ValueError(f"{roles['path']} is missing; there are {', '.join(map(shown, list(record)[:40]))}")
    id_ = get("id")
    if isinstance(id_, bool) or not isinstance(id_, str | int | None):
        raise ValueError(f"{name('id')}={shown(id_)}: must be a string or a whole number")
    start, end = point(name("start"), get("start")), point(name("end"), get("end"))
    duration = seconds(name("duration"), get("duration"))
    if start is not None and end is None and duration is not None:
        end = start + duration
    elif start is None and end is not None:
        start = 0.0
    own = frozenset(roles.values())
    return Row(
        path=path(roles["path"], record[roles["path"]]),
        id=None if id_ is None else str(id_),
        reference=reference(name("text"), get("text")),
        start_s=start,
        end_s=end,
        channel=channel(name("channel"), get("channel")),
        extras={key: value for key, value in record.items() if key not in own},
    )
