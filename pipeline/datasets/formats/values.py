"""What stands in a list: times, channels, paths, and the types of columns.

A value that is wrong raises ValueError with what a person is told; who reads the line adds its number.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.records import Scalar
from pipeline.runtime.paths import encode_path

MAX_SECONDS = 1e8
"""Three years: what is beyond is no time in a recording."""
_MAX_CHANNEL = 2**15 - 1

# Not of numbers: 007, which is a name; nan and inf; more digits than an int64 holds.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")
_ANY_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,400}\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BOOLS = {"true": True, "false": False}


def shown(value: Any) -> str:
    """A value for a message: what Python writes, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def seconds(key: str, value: Any) -> float | None:
    """A time in seconds; `None` stays.

    Raises:
        ValueError: No number, or one beyond `MAX_SECONDS`.
    """
    if value is None:
        return None
    # The comparison is false for NaN.
    if not (is_number(value) and abs(value) <= MAX_SECONDS):
        raise ValueError(f"{key}={shown(value)}: must be a number of seconds, {MAX_SECONDS:.0g} at most")
    return float(value)


def point(key: str, value: Any) -> float | None:
    """A point of time in a recording, in seconds from its beginning; `None` stays.

    Raises:
        ValueError: As `seconds`, or negative.
    """
    time = seconds(key, value)
    if time is not None and time < 0:
        raise ValueError(f"{key}={shown(value)}: must not be negative")
    return time


def channel(key: str, value: Any, first: int = 1) -> int | None:
    """A channel, 1 the first; `None` stays.

    Args:
        key: What the value is called.
        value: The value, a whole number.
        first: What the list calls the first channel, 0 or 1.

    Raises:
        ValueError: No whole number, below the first, or more than 32,767.
    """
    if value is None:
        return None
    if type(value) is not int or not first <= value <= _MAX_CHANNEL:
        raise ValueError(f"{key}={shown(value)}: must be a channel, {first} the first")
    return value - first + 1


def path(key: str, value: Any) -> str:
    """A path as listed.

    Raises:
        ValueError: No text, empty, or a URL, which may hold a secret and is not repeated.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{key}={shown(value)}: must be a path")
    if _URL.match(value):
        raise ValueError(f"{key}: a URL; nothing is fetched here, so download it and list the file")
    return value


def reference(key: str, value: Any) -> str | None:
    """What was said, without white space around it; `None` where that is nothing.

    Raises:
        ValueError: Neither text nor a number.
    """
    if value is None:
        return None
    if not isinstance(value, str) and not is_number(value):
        raise ValueError(f"{key}={shown(value)}: must be a string")
    return encode_path(str(value).strip()) or None


def segment_mark(start_s: float | None, end_s: float | None) -> str:
    """What the id of a segment has after its file's: `#12340-15980`, in milliseconds; nothing for a whole file."""
    if start_s is None:
        return ""
    return f"#{round(start_s * 1000)}-{'' if end_s is None else round(end_s * 1000)}"


def number_in(text: str | None) -> float | int | str | None:
    """The number that a text is; otherwise the text."""
    if text is None or not _ANY_DECIMAL.fullmatch(text):
        return text
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def is_number(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def kind_of(value: Any) -> str:
    """null, bool, int64, float64, or string, which is everything else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if is_number(value):
        return "float64" if isinstance(value, float) else "int64"
    return "string"


def kind_of_text(text: str | None) -> str:
    """The same of a value in a format that knows only text."""
    if text is None:
        return "null"
    if _INTEGER.fullmatch(text):
        return "int64"
    if _DECIMAL.fullmatch(text):
        return "float64"
    return "bool" if text.lower() in _BOOLS else "string"


def column_type(kinds: set[str]) -> str:
    """The Arrow type of a column from the kinds of its values; a mixture that is not of numbers is text."""
    found = kinds - {"null"}
    if len(found) == 1:
        return next(iter(found))
    return "float64" if found == {"int64", "float64"} else "string"


def column_value(value: Any, arrow_type: str) -> Scalar:
    """A value as its column holds it; what is no text becomes JSON in a column of text."""
    if value is None:
        return None
    if arrow_type == "string":
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
        return encode_path(text)
    if arrow_type == "float64":
        return float(value)
    if arrow_type == "bool" and isinstance(value, str):
        return _BOOLS[value.lower()]
    scalar: Scalar = int(value) if isinstance(value, str) else value
    return scalar
