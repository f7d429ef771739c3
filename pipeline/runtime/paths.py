"""Converts file names that are not UTF-8 to text and back.

Tables contain only UTF-8, while a POSIX file name may contain any bytes. Python represents a byte that is not UTF-8 by
a surrogate escape (PEP 383). In ids and in the `path` column such a byte appears as `%XX`.
"""

from __future__ import annotations

import os
import re

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_OTHER_SURROGATE = re.compile("[\ud800-\udfff]")
_WRITTEN_BYTES = re.compile("%([89A-F][0-9A-F])")


def encode_path(path: str) -> str:
    """Convert a path to valid UTF-8 text. Undecodable bytes become `%80` to `%FF`; all else is unchanged.

    A surrogate that does not represent a byte becomes U+FFFD. Only JSON can contain one.
    """
    if path.isascii():
        return path
    text = _ESCAPED_BYTE.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", path)
    return _OTHER_SURROGATE.sub("\ufffd", text)


def resolve_path(text: str) -> str:
    """Reverse `encode_path`.

    Args:
        text: A path as in the manifest, or one that was never encoded.

    Returns:
        A path for `open`: `text` itself if such a file exists or nothing is escaped, otherwise `text` with each `%XX`
        turned back into a byte (as a surrogate escape).
    """
    if "%" not in text or os.path.lexists(text):
        return text
    return _WRITTEN_BYTES.sub(lambda match: chr(0xDC00 + int(match[1], 16)), text)
