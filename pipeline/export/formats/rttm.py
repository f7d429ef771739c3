"""RTTM, which says who speaks when: a line for each stretch of speech of one speaker.

SPEAKER talk 1 12.340 3.640 <NA> <NA> alice <NA> <NA>
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.export.formats import word_of
from pipeline.export.material import PAUSE_S, UNKNOWN, Exported, Recording

DESCRIPTION = "who speaks when"
SUFFIX = ".rttm"
NEEDS_WORDS = True


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write one file, with the recordings in the order of the run. See `Format.write`."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for recording in recordings:
            for turn in recording.turns(PAUSE_S):
                times = f"{turn.start_s:.3f} {turn.end_s - turn.start_s:.3f}"
                speaker = word_of(turn.speaker, UNKNOWN)
                file.write(f"SPEAKER {recording.name} {turn.channel or 1} {times} <NA> <NA> {speaker} <NA> <NA>\n")
