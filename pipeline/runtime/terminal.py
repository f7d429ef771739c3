"""Makes untrusted names, ids and texts safe to show on a terminal."""

from __future__ import annotations

import io
import sys

from pipeline.runtime.paths import encode_path
from pipeline.runtime.redaction import mask


def escape_what_cannot_be_encoded() -> None:
    """Make stdout and stderr escape characters that the terminal's encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 shard`, `2 shards`, `10,000 shards`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def printable(text: str, limit: int | None = None) -> str:
    """Return the text as one line without control characters and secrets, shortened to `limit` characters."""
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in mask(encode_path(text)))
    return plain if limit is None or len(plain) <= limit else f"{plain[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"
