"""TextGrid of Praat, in its long form: a tier of utterances and a tier of words, for each speaker if there are several.

The format is described in Praat's manual (https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.export.formats import write_each
from pipeline.export.material import Exported, Recording
from pipeline.export.tiers import Interval, tiers_of

DESCRIPTION = "tiers for Praat, a file for each recording"
SUFFIX = ""
NEEDS_WORDS = False


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    write_each(recordings, path, ".TextGrid", _content)


def _content(recording: Recording) -> str:
    tiers = tiers_of(recording)
    end_s = recording.duration_s
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end_s!r}",
        "tiers? <exists>", f"size = {len(tiers)}", "item []:",
    ]  # fmt: skip
    for number, tier in enumerate(tiers, start=1):
        intervals = _without_gaps(tier.intervals, end_s)
        lines += [
            f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(tier.name)}",
            "        xmin = 0", f"        xmax = {end_s!r}", f"        intervals: size = {len(intervals)}",
        ]  # fmt: skip
        for index, each in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{index}]:", f"            xmin = {each.start_s!r}",
                f"            xmax = {each.end_s!r}", f"            text = {_quoted(each.text)}",
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _without_gaps(intervals: Iterable[Interval], end_s: float) -> list[Interval]:
    """Return the intervals with empty ones between them, as Praat needs a tier: from 0 to the end, without overlaps."""
    found: list[Interval] = []
    reached_s = 0.0
    for each in intervals:
        start_s, stop_s = max(each.start_s, reached_s), min(each.end_s, end_s)
        if stop_s <= start_s:
            continue
        if start_s > reached_s:
            found.append(Interval(reached_s, start_s, ""))
        found.append(Interval(start_s, stop_s, each.text))
        reached_s = stop_s
    if reached_s < end_s:
        found.append(Interval(reached_s, end_s, ""))
    return found


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
