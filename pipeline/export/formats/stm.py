"""STM, the segments of NIST's scoring tools: a line for what one speaker says.

    talk 1 alice 12.340 15.980 good morning

With `--text reference` it is the reference that sclite compares a CTM file with.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.export.formats import word_of
from pipeline.export.material import UNKNOWN, Exported, Recording
from pipeline.export.sorted_lines import SortedLines

DESCRIPTION = "what each speaker says, for sclite"
SUFFIX = ".stm"
NEEDS_WORDS = False


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write one file, sorted by recording, channel and time as sclite needs it. See `Format.write`."""
    with SortedLines(path.parent) as lines, path.open("w", encoding="utf-8", newline="\n") as file:
        for recording in recordings:
            for turn in recording.turns():
                channel, speaker = turn.channel or 1, word_of(turn.speaker, UNKNOWN)
                text = " ".join(turn.text.split())
                line = f"{recording.name} {channel} {speaker} {turn.start_s:.3f} {turn.end_s:.3f} {text}"
                lines.add(line.rstrip(), f"{recording.name} {channel:03d} {turn.start_s:013.3f}")
        file.writelines(lines)
