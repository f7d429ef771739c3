"""Reads a reference transcript that has a file of its own."""

from __future__ import annotations

import codecs
import io
import re
from typing import cast

from pipeline.audio.archives.ranges import open_file
from pipeline.datasets.formats.source import decoded, utf16_remedy
from pipeline.datasets.formats.values import MAX_TEXT_BYTES
from pipeline.runtime.errors import AudioError

# A text of TIMIT begins with the numbers of the first and last sample: 0 46797 She had your dark suit.
_TIMIT = re.compile(r"\A0 [1-9][0-9]{3,6} (?=\D+\Z)")


def read_reference(path: str, encoding: str | None = None) -> str | None:
    """Return the text of a file as `reference_in` does; `None` also if there is no such file.

    Raises:
        ValueError: As `reference_in`, or the file is not regular or cannot be read.
    """
    try:
        with open_file(path) as file:
            data = io.BufferedReader(cast(io.RawIOBase, file)).read(MAX_TEXT_BYTES + 1)
    except AudioError:
        raise ValueError("not a file") from None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    return reference_in(data, encoding)


def reference_in(data: bytes, encoding: str | None = None) -> str | None:
    """Return the text of a file without surrounding white space; `None` if it has no text.

    The numbers of samples in a text of TIMIT are left out.

    Args:
        data: The content of the file, or more than its first 1 MB. It is UTF-8, or UTF-16 with a byte order mark.
        encoding: The encoding of a file that is neither.

    Raises:
        ValueError: The file is larger than 1 MB, or is in none of these encodings.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError("larger than 1 MB")
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            text = decoded(data, encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8, or name its encoding with dataset.encoding=, such as cp1252"
        raise ValueError(f"not {error.encoding.upper()}; {remedy}") from None
    if "\0" in text:
        raise ValueError(f"has NUL characters; save it as UTF-8, or {utf16_remedy(text)}")
    return _TIMIT.sub("", text.strip()) or None
