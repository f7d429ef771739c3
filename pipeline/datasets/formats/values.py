"""Checks and converts the values in a list: times, channels, paths, references, and the types of columns.

A wrong value raises `ValueError` with a message for the user. The reader of the line adds its number.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any

from pipeline.audio.archives.members import file_of, member_of
from pipeline.records import Scalar
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.places import is_url, place

MAX_SECONDS = 1e8
"""Three years. A larger number is not a time in a recording."""
MAX_TEXT_BYTES = 2**20
"""1 MB. A longer text is no transcript, and no value to group by."""
MAX_CHANNEL = 2**15 - 1

_MAX_EXACT = 2**53
"""Float64 holds every whole number up to this one."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_ANY_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,400}\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class WrittenFloat(float):
    """A number of a JSON list that also knows its spelling: `1.10`, which is 1.1.

    Attributes:
        text: The spelling.
    """

    def __new__(cls, text: str) -> WrittenFloat:
        """Parse the spelling of a number."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


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
        comma = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value)
        remedy = f"; write the decimal comma as a point, {value.replace(',', '.')}" if comma else ""
        raise ValueError(f"{key}={shown(value)}: must be a number of seconds, {MAX_SECONDS:.0g} at most{remedy}")
    return float(value)


def known_duration(value: Any) -> float | None:
    """Return the duration of a whole file in seconds; `None` for a value that is none, because no row needs it."""
    return float(value) if is_number(value) and 0 < value <= MAX_SECONDS else None


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
    # A tool that knows no missing whole numbers writes 1.0.
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if type(number) is not int or not first <= number <= MAX_CHANNEL:
        raise ValueError(f"{key}={shown(value)}: must be a channel number, counted from {first}")
    return number - first + 1


def path(key: str, value: Any) -> str:
    """Check a path and return it as listed. Of an object, as Hugging Face writes one, its `path` is taken.

    Raises:
        ValueError: The value is not text, or empty, or a URL. The message leaves a URL out, because it may hold a
            secret.
    """
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        value = value["path"]
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{key}={shown(value)}: must be a path")
    if _URL.match(value) and member_of(value) is None and not is_url(value):
        known = "s3://, gs://, az:// and hf://"
        raise ValueError(f"{key}: a URL, and only those of {known} are read; download it and list the file")
    if is_url(file_of(value)):
        try:
            place(file_of(value))
        except UserError:
            raise ValueError(f"{key}: a URL that names a user or no bucket; write s3://BUCKET/KEY") from None
    return value


def reference(key: str, value: Any) -> str | None:
    """Check a reference transcript and return it without surrounding white space; `None` if nothing is left.

    Raises:
        ValueError: The value is neither text nor a number, or is larger than `MAX_TEXT_BYTES`.
    """
    if is_missing(value):
        return None
    if not isinstance(value, str) and not is_number(value):
        raise ValueError(f"{key}={shown(value)}: must be a string")
    text = encode_path(str(_as_written(value)).strip())
    if is_too_long(text):
        raise ValueError(f"{key}={shown(text)}: larger than 1 MB")
    return text or None


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


def written(value: Any) -> str:
    """Return a text or a number as the list spells it."""
    return str(_as_written(value))


def is_missing(value: Any) -> bool:
    """Whether a value says that there is none: `None`, or NaN, which pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_too_long(text: str) -> bool:
    """Whether a text takes more than `MAX_TEXT_BYTES` in UTF-8."""
    # A character takes at most four bytes, so a short text need not be encoded.
    return len(text) * 4 > MAX_TEXT_BYTES and len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES


def is_number(value: Any) -> bool:
    """Whether a value is a float, or an int of at most 63 bits, and not a bool."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def kind_of(value: Any) -> str:
    """Return the kind of a value: null, bool, int64, float64, `long` for an int64 that float64 may change, or string.

    A text has the kind of the number that it spells, but only in the one spelling that comes back when the number is
    written again. So 007, 1.10, +1, 12e3 and nan are strings in every format.
    """
    if is_missing(value) or value == "":
        return "null"
    if isinstance(value, bool):
        return "bool"
    written = _as_written(value)
    number = _spelled(written) if isinstance(written, str) else value
    if number is None or not is_number(number):
        return "string"
    if isinstance(number, float):
        return "float64"
    return "int64" if abs(number) <= _MAX_EXACT else "long"


def _as_written(value: Any) -> Any:
    return value.text if isinstance(value, WrittenFloat) else value


def _spelled(text: str) -> int | float | None:
    """Return the finite number whose `repr` is the text; `None` if there is none."""
    for type_ in (int, float):
        with suppress(ValueError):
            number = type_(text)
            if repr(number) == text and math.isfinite(number):
                return number
    return None


def column_type(kinds: set[str]) -> str:
    """Return the Arrow type of a column from the kinds of its values; a mixture of other than numbers is a string."""
    found = kinds - {"null"}
    if found <= {"int64", "long"} and found:
        return "int64"
    if len(found) == 1:
        return next(iter(found))
    return "float64" if found == {"int64", "float64"} else "string"


def column_value(value: Any, arrow_type: str) -> Scalar:
    """Convert a value to the type of its column. In a string column, other values become JSON.

    Raises:
        ValueError: The value is larger than `MAX_TEXT_BYTES`.
    """
    if is_missing(value):
        return None
    if arrow_type == "string":
        text = _as_written(value)
        if not isinstance(text, str):
            text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
        if is_too_long(text):
            raise ValueError(f"{shown(text)}: larger than 1 MB")
        return encode_path(text)
    if value == "":
        return None
    if arrow_type == "bool":
        return bool(value)
    return float(value) if arrow_type == "float64" else int(value)
