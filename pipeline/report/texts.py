"""Text of whatever origin, for a page: what cannot be seen or would reorder the rest is shown as an escape."""

from __future__ import annotations

import re

from pipeline.runtime.paths import encode_path
from pipeline.runtime.redaction import mask

LIMIT = 2_000
"""Characters of one text on the page; the tables have the rest."""

# Control characters (tab and line feed are white space), line separators, the marks that turn the direction of what
# follows, and code points that are no characters. Marks that say how a single letter is joined or read stay.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufdd0-\ufdef\ufffe\uffff]"
)


def shown(text: object, limit: int = LIMIT) -> str:
    """A value as text that may stand in a page; HTML's own characters are the template's to escape."""
    plain = encode_path(str(text))
    cut = plain if len(plain) <= limit else plain[:limit] + "\N{HORIZONTAL ELLIPSIS}"
    return _UNSEEN.sub(lambda match: repr(match[0])[1:-1] if match[0] != "\ufeff" else "\\ufeff", cut)


def masked(text: object, limit: int = LIMIT) -> str:
    """`shown`, without secrets: for paths, settings and messages; transcripts are data."""
    return shown(mask(encode_path(str(text))), limit)
