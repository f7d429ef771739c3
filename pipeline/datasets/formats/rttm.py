"""Reads RTTM, which says who spoke when. Every SPEAKER line is a row: one segment of one speaker.

    SPEAKER meeting 1 12.34 3.64 <NA> <NA> alice <NA> <NA>

The format is defined in appendix A of NIST's Rich Transcription 2009 evaluation plan.
"""

from __future__ import annotations

from pipeline.datasets.formats.keyed import fields
from pipeline.datasets.formats.turns import Turn, recording_name
from pipeline.datasets.formats.values import number_in, point, seconds, shown

# fmt: off
_OTHER_TYPES = frozenset((
    "SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "IP", "SU", "CB",
    "A/P", "SPKR-INFO", "SPKR_INFO",
))
# fmt: on


def parse(line: str) -> Turn | None:
    """Return the turn of a line; `None` for a comment, a blank line, or a line of another type.

    Raises:
        ValueError: The line is not RTTM.
    """
    parts = fields(line)
    if not parts or parts[0].startswith(";;") or parts[0] in _OTHER_TYPES:
        return None
    if parts[0] != "SPEAKER":
        raise ValueError(f"{shown(parts[0])} is not a line type of RTTM; expected SPEAKER")
    if len(parts) < 8:
        raise ValueError(f"{len(parts)} fields; expected SPEAKER file channel start duration <NA> <NA> speaker")
    name = recording_name(parts[1])
    start, duration = point("start", number_in(parts[3])), seconds("duration", number_in(parts[4]))
    assert start is not None, "a field of a line is always text"
    assert duration is not None, "a field of a line is always text"
    return Turn(name, parts[2], start, start + duration, None if parts[7] == "<NA>" else parts[7])
