"""File names that are not UTF-8, written as text and turned back into the file to open.

Tables hold UTF-8 only, a POSIX file name holds any bytes. Python carries a byte that is not UTF-8 as a
surrogate escape (PEP 383); in ids and in the `path` column it appears as `%XX`.
"""

from __future__ import annotations

import os
import re

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_OTHER_SURROGATE = re.compile("[\ud800-\udfff]")
_WRITTEN_BYTES = re.compile("%([89A-F][0-9A-F])")


def encode_path(path: str) -> str:
    """Text that is valid UTF-8: undecodable bytes as `%80` to `%FF`, everything else as it is.

    A surrogate that stands for no byte (only JSON can bring one) becomes U+FFFD.
    """
    text = _ESCAPED_BYTE.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", path)
    return _OTHER_SURROGATE.sub("\ufffd", text)


def resolve_path(text: str) -> str:
    """The file that `encode_path` wrote: the literal path if it exists, else `%XX` turned back into bytes.

    Args:
        text: A path as it stands in the manifest, or one that never was encoded.

    Returns:
        A path for `open`, with surrogate escapes; `text` itself where nothing was escaped.
    """
    if "%" not in text or os.path.lexists(text):
        return text
    return _WRITTEN_BYTES.sub(lambda match: chr(0xDC00 + int(match[1], 16)), text)
