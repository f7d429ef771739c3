r"""Label tracks of Audacity: a line for each stretch of speech, `12.340000\t15.980000\tgood morning`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.export.formats import write_each
from pipeline.export.material import PAUSE_S, UNKNOWN, Exported, Recording

DESCRIPTION = "label tracks, a file for each recording"
SUFFIX = ""
NEEDS_WORDS = True


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    write_each(recordings, path, ".txt", _content)


def _content(recording: Recording) -> str:
    several = len(recording.voices) > 1
    return "".join(
        f"{turn.start_s:.6f}\t{turn.end_s:.6f}\t"
        + (f"{turn.speaker or UNKNOWN}: " if several else "")
        + f"{turn.text}\n"
        for turn in recording.turns(PAUSE_S)
    )
