"""Checks and converts the values in a list: times, channels, paths, references, and the types of columns.

A wrong value raises `ValueError` with a message for the user. The reader of the line adds its number.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.records import Scalar
from pipeline.runtime.paths import encode_path

MAX_SECONDS = 1e8
"""Three years. A larger number is not a time in a recording."""
_MAX_CHANNEL = 2**15 - 1

# These patterns exclude 007, which is a name, and nan, inf, and more digits than an int64 can have.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")
_ANY_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,400}\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BOOLS = {"true": True, "false": False}


def shown(value: Any) -> str:
    """Format a value for a message: its `repr`, shortened to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def seconds(key: str, value: Any) -> float | None:
    """Check a time in seconds and return it as a float; `None` stays `None`.

    Raises:
        ValueError: The value is not a number, or is beyond `MAX_SECONDS`.
    """
    if value is None:
        return None
    # The comparison is false for NaN.
    if not (is_number(value) and abs(value) <= MAX_SECONDS):
        raise ValueError(f"{key}={shown(value)}: must be a number of seconds, {MAX_SECONDS:.0g} at most")
    return float(value)


def point(key: str, value: Any) -> float | None:
    """Check a position in a recording, in seconds from its beginning; `None` stays `None`.

    Raises:
        ValueError: As `seconds`, or the value is negative.
    """
    time = seconds(key, value)
    if time is not None and time < 0:
        raise ValueError(f"{key}={shown(value)}: must not be negative")
    return time


def channel(key: str, value: Any, first: int = 1) -> int | None:
    """Check a channel number and return it counted from 1; `None` stays `None`.

    Args:
        key: Name of the value in the list.
        value: The value, a whole number.
        first: The number of the first channel in the list, 0 or 1.

    Raises:
        ValueError: The value is not a whole number, below `first`, or more than 32,767.
    """
    if value is None:
        return None
    if type(value) is not int or not first <= value <= _MAX_CHANNEL:
        raise ValueError(f"{key}={shown(value)}: must be a channel number, counted from {first}")
    return value - first + 1


def path(key: str, value: Any) -> str:
    """Check a path and return it as listed.

    Raises:
        ValueError: The value is not text, or empty, or a URL. The message leaves a URL out, because it may hold a
            secret.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{key}={shown(value)}: must be a path")
    if _URL.match(value):
        raise ValueError(f"{key}: a URL; this project downloads no recordings, so download it and list the file")
    return value


def reference(key: str, value: Any) -> str | None:
    """Check a reference transcript and return it without surrounding white space; `None` if nothing is left.

    Raises:
        ValueError: The value is neither text nor a number.
    """
    if value is None:
        return None
    if not isinstance(value, str) and not is_number(value):
        raise ValueError(f"{key}={shown(value)}: must be a string")
    return encode_path(str(value).strip()) or None


def segment_mark(start_s: float | None, end_s: float | None) -> str:
    """Return the suffix for the id of a segment, `#12340-15980` in milliseconds; an empty string for a whole file."""
    if start_s is None:
        return ""
    return f"#{round(start_s * 1000)}-{'' if end_s is None else round(end_s * 1000)}"


def number_in(text: str | None) -> float | int | str | None:
    """Return the number that a text spells; the text itself if it spells none."""
    if text is None or not _ANY_DECIMAL.fullmatch(text):
        return text
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def is_number(value: Any) -> bool:
    """Whether a value is a float, or an int of at most 63 bits, and not a bool."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def kind_of(value: Any) -> str:
    """Return the kind of a value: null, bool, int64, float64, or string for everything else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if is_number(value):
        return "float64" if isinstance(value, float) else "int64"
    return "string"


def kind_of_text(text: str | None) -> str:
    """Return the kind of a value in a format that has only text, as `kind_of`."""
    if text is None:
        return "null"
    if _INTEGER.fullmatch(text):
        return "int64"
    if _DECIMAL.fullmatch(text):
        return "float64"
    return "bool" if text.lower() in _BOOLS else "string"


def column_type(kinds: set[str]) -> str:
    """Return the Arrow type of a column from the kinds of its values; a mixture of other than numbers is a string."""
    found = kinds - {"null"}
    if len(found) == 1:
        return next(iter(found))
    return "float64" if found == {"int64", "float64"} else "string"


def column_value(value: Any, arrow_type: str) -> Scalar:
    """Convert a value to the type of its column. In a string column, other values become JSON."""
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
