"""SubRip, the subtitles that every player reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.export.cues import cues_of
from pipeline.export.formats import write_each
from pipeline.export.material import Exported, Recording

DESCRIPTION = "subtitles, a file for each recording"
SUFFIX = ""
NEEDS_WORDS = True


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    write_each(recordings, path, ".srt", _content)


def _content(recording: Recording) -> str:
    cues = enumerate(cues_of(recording, names_speakers=True), start=1)
    return "\n".join(
        f"{number}\n{_time(cue.start_s)} --> {_time(cue.end_s)}\n" + "".join(f"{line}\n" for line in cue.lines)
        for number, cue in cues
    )


def _time(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"
