"""Names, ids and texts of whatever origin, as a terminal may show them."""

from __future__ import annotations

import io
import sys

from pipeline.runtime.paths import encode_path
from pipeline.runtime.redaction import mask


def escape_what_cannot_be_encoded() -> None:
    """A name or a transcript that the terminal's encoding lacks is shown escaped, not a reason to stop."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str, limit: int | None = None) -> str:
    """One line that a terminal takes for text, cut after `limit` characters; secrets are masked."""
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in mask(encode_path(text)))
    return plain if limit is None or len(plain) <= limit else f"{plain[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"
