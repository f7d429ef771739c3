"""Reads the JSON objects of a list: one object a line, or one JSON document that holds them.

{"audio_filepath": "a.wav"}                       JSON lines
{"audio_filepath": "b.wav"}

[{"audio_filepath": "a.wav"}, ...]                an array
{"version": 1, "data": [{"path": "a.wav"}, ...]}  an object with one list of objects
{"a": {"wav": "a.wav"}, "b": {"wav": "b.wav"}}    an object of objects, whose keys are the ids
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from pipeline.datasets.formats.mapping import is_usual
from pipeline.datasets.formats.source import Source, line
from pipeline.datasets.formats.values import WrittenFloat, shown
from pipeline.runtime.errors import UserError

MAX_DOCUMENT_BYTES = 2**28
"""256 MB. A document is read whole, and takes about ten times its size in memory. JSON lines have no such limit."""

# Python and pandas write NaN for a missing value. `json.loads` would make a decoder for each text.
_DECODER = json.JSONDecoder(parse_constant=float, parse_float=WrittenFloat)
_EXPECTED = 'not an object; expected {"audio_filepath": ..., ...}'


def objects(source: Source) -> Iterator[tuple[str, dict[str, Any] | ValueError]]:
    """Yield the place and the object of every line, or of every item of a document: `line 3`, or `item 3`.

    Instead of an object comes the error of a line or an item that is not an object.

    Raises:
        UserError: The list cannot be read, or a document has no list of objects.
    """
    if is_document(source):
        for number, item in enumerate(_items(source), start=1):
            is_object = isinstance(item, dict)
            yield f"item {number}", item if is_object else ValueError(f"{shown(item)} is {_EXPECTED}")
        return
    for number, text in source.lines():
        if text.strip():
            try:
                entry = parse(text)
            except ValueError as error:
                yield line(number), error
                continue
            yield line(number), entry if isinstance(entry, dict) else ValueError(_EXPECTED)


def is_document(source: Source) -> bool:
    """Whether a list is one document: an array, or an object of several lines, or an object that holds recordings."""
    lines = (text for _, line in source.raw_lines() if (text := line.decode("utf-8-sig", "replace").strip()))
    first, second = next(lines, ""), next(lines, "")
    if not first.startswith(("{", "[")):
        return False
    try:
        value = json.loads(first)
    except json.JSONDecodeError as error:
        return error.pos >= len(first)  # the line is right as far as it goes
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) or (not second and bool(_lists(value) or _is_keyed(value)))


def _items(source: Source) -> list[Any]:
    """Return the items of a document."""
    parts: list[str] = []
    size = 0
    for _, text in source.lines():
        parts.append(text)
        size += len(text)
        if size > MAX_DOCUMENT_BYTES:
            raise UserError(f"{source.name}: one JSON document of more than 256 MB; {_remedy(source, '.[]')}")
    try:
        document = parse("".join(parts))
    except ValueError as error:
        raise UserError(f"{source.name}: {error}; write one object a line, or one JSON array of objects") from None
    if not isinstance(document, dict):
        items: list[Any] = document
        return items
    lists = _lists(document)
    if len(lists) > 1:
        raise UserError(
            f"{source.name}: one JSON object with several lists ({', '.join(map(shown, lists))}); "
            f"{_remedy(source, f'.{next(iter(lists))}[]')}"
        )
    if lists:
        return next(iter(lists.values()))
    return [{"id": key, **item} for key, item in document.items()] if _is_keyed(document) else [document]


def _lists(document: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the values that are lists of objects; none if the document is itself a recording."""
    found = {
        key: value
        for key, value in document.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    }
    is_recording = any(is_usual(key) or key == "type" for key in document.keys() - found.keys())
    return {} if is_recording else found


def _is_keyed(document: dict[str, Any]) -> bool:
    return bool(document) and all(isinstance(item, dict) for item in document.values())


def _remedy(source: Source, query: str) -> str:
    command = f"jq -c '{query}' {shlex.quote(source.path)} > list.jsonl"
    return f"write the recordings one object a line, for example with: {command}"


def parse(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: The text is not JSON; the message has the reason.
    """
    try:
        return json.loads(text) if text.startswith("\ufeff") else _DECODER.decode(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON ({error.msg} at {line}column {error.colno})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
