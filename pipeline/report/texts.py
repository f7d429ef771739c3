"""Makes untrusted text safe for the page: characters that are invisible or change the text direction are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.runtime.paths import encode_path
from pipeline.runtime.redaction import mask_all

LIMIT = 2_000
"""Maximum of characters of one text on the page."""

# Control characters except tab and line feed, line separators, marks that change the text direction, and code points
# that are not characters. Marks that join letters are kept.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufdd0-\ufdef\ufffe\uffff]"
)


def shown(text: object, limit: int = LIMIT) -> str:
    """Return a value as text for the page. The template escapes the special characters of HTML."""
    plain = encode_path(str(text))
    cut = plain if len(plain) <= limit else plain[:limit] + "\N{HORIZONTAL ELLIPSIS}"
    return _UNSEEN.sub(lambda match: repr(match[0])[1:-1] if match[0] != "\ufeff" else "\\ufeff", cut)


def masked(text: object, limit: int = LIMIT) -> str:
    """Return `shown` of the text without secrets. For paths, settings and messages; transcripts are not masked."""
    return masked_all([text], limit)[0]


def masked_all(texts: Iterable[object], limit: int = LIMIT) -> list[str]:
    """Return `masked` of many texts."""
    return [shown(text, limit) for text in mask_all(encode_path(str(text)) for text in texts)]
