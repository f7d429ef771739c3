"""WebVTT, the subtitles of web pages (https://www.w3.org/TR/webvtt1/). Speakers are its voices, `<v alice>`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.export.cues import Cue, cues_of
from pipeline.export.formats import write_each
from pipeline.export.material import Exported, Recording

DESCRIPTION = "subtitles of web pages, a file for each recording"
SUFFIX = ""
NEEDS_WORDS = True


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    write_each(recordings, path, ".vtt", _content)


def _content(recording: Recording) -> str:
    return "WEBVTT\n" + "".join(map(_block, cues_of(recording, names_speakers=False)))


def _block(cue: Cue) -> str:
    text = "\n".join(map(_escaped, cue.lines))
    speaker = " ".join((cue.speaker or "").split())
    voice = f"<v {_escaped(speaker)}>" if speaker else ""
    return f"\n{_time(cue.start_s)} --> {_time(cue.end_s)}\n{voice}{text}\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{milliseconds:03d}"
