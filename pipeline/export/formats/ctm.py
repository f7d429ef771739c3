"""CTM, the time marks of NIST's scoring tools: a line for each word.

    talk 1 12.340 0.280 morning 0.9812

The format is described in the documentation of SCTK (https://github.com/usnistgov/SCTK/blob/master/doc/infmts.htm).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.export.material import Exported, Recording
from pipeline.export.sorted_lines import SortedLines

DESCRIPTION = "words with times and probabilities, for sclite"
SUFFIX = ".ctm"
NEEDS_WORDS = True


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write one file, sorted by recording, channel and time as sclite needs it. See `Format.write`."""
    with SortedLines(path.parent) as lines, path.open("w", encoding="utf-8", newline="\n") as file:
        for recording in recordings:
            for segment in recording.segments:
                channel = segment.channel or 1
                for word in segment.words:
                    times = f"{word.start_s:.3f} {word.end_s - word.start_s:.3f}"
                    line = f"{recording.name} {channel} {times} {word.word} {word.probability:.4f}"
                    lines.add(line, f"{recording.name} {channel:03d} {word.start_s:013.3f}")
        file.writelines(lines)
