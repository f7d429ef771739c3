"""Reads STM, the references of NIST's scoring tools. Every line is a row: one segment of one speaker.

    talk 1 alice 12.34 15.98 <o,f0,female> good morning

The labels in `<>` may be missing. The format is described in the documentation of SCTK
(https://github.com/usnistgov/SCTK/blob/master/doc/infmts.htm).
"""

from __future__ import annotations

import re

from pipeline.datasets.formats.keyed import fields
from pipeline.datasets.formats.turns import Turn, recording_name
from pipeline.datasets.formats.values import number_in, point

# `<unk>`, without a comma, is a word.
_LABELS = re.compile(r"<([^<>\s]*,[^<>\s]*|NA|O|)>(?:\s+|\Z)", re.IGNORECASE)
_NOT_SCORED = "ignore_time_segment_in_scoring"


def parse(line: str) -> Turn | None:
    """Return the turn of a line; `None` for a comment or a blank line.

    A segment that is left out of the scores has no reference.

    Raises:
        ValueError: The line is not STM.
    """
    parts = fields(line, 6)
    if not parts or parts[0].startswith(";;"):
        return None
    if len(parts) < 5:
        raise ValueError(f"{len(parts)} fields; expected file channel speaker start end <labels> text")
    name = recording_name(parts[0])
    start, end = point("start", number_in(parts[3])), point("end", number_in(parts[4]))
    assert start is not None, "a field of a line is always text"
    assert end is not None, "a field of a line is always text"
    text = "".join(parts[5:])
    labels = _LABELS.match(text)
    spoken = text[labels.end() :] if labels else text
    if spoken.strip().casefold() == _NOT_SCORED:
        spoken = ""
    extras = {"labels": (labels[1] or None) if labels else None}
    return Turn(name, parts[1], start, end, parts[2], spoken.strip() or None, extras)
