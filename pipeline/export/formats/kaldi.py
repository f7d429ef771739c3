"""A data folder of Kaldi: `wav.scp`, `segments`, `text`, `utt2spk`, `spk2utt`, `reco2dur`, `reco2file_and_channel`.

The files are described at https://kaldi-asr.org/doc/data_prep.html. They are sorted by their bytes, as Kaldi needs
them. An id begins with the speaker, so that a list sorted by utterances is also sorted by speakers. A channel of
a file is a recording of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

from pipeline.export.clips import measured
from pipeline.export.material import Exported, Recording, Segment
from pipeline.export.sorted_lines import SortedLines

DESCRIPTION = "a data folder of Kaldi"
SUFFIX = ""
NEEDS_WORDS = False
_FILES = ("wav.scp", "segments", "text", "utt2spk", "reco2dur", "reco2file_and_channel")


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    with ExitStack() as stack:
        files = {name: stack.enter_context(SortedLines(path)) for name in _FILES}
        by_speaker = stack.enter_context(SortedLines(path))
        channels = False
        for recording in recordings:
            if "\n" in recording.path or "\r" in recording.path:
                exported.left_out["with a line break in the path"] += len(recording.segments)
                continue
            if (header := measured(recording, exported)) is None:
                continue
            for channel in dict.fromkeys(segment.channel for segment in recording.segments):
                name = recording.name if channel is None else f"{recording.name}#c{channel}"  # no name has a #
                files["wav.scp"].add(f"{name} {recording.path}")
                files["reco2dur"].add(f"{name} {header.duration_s:.6f}")
                files["reco2file_and_channel"].add(f"{name} {recording.name} {channel or 1}")
                channels = channels or channel is not None
                for segment in recording.segments:
                    if segment.channel == channel:
                        utterance, speaker = _ids(segment)
                        end_s = min(segment.end_s, header.duration_s)
                        files["segments"].add(f"{utterance} {name} {segment.start_s:.6f} {end_s:.6f}")
                        files["text"].add(f"{utterance} {segment.text}".rstrip())
                        files["utt2spk"].add(f"{utterance} {speaker}")
                        by_speaker.add(f"{speaker} {utterance}")
        for name, lines in files.items():
            if channels or name != "reco2file_and_channel":
                with (path / name).open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(lines)
        with (path / "spk2utt").open("w", encoding="utf-8", newline="\n") as file:
            for speaker, lines_of in groupby(map(str.split, by_speaker), key=itemgetter(0)):
                file.write(" ".join([speaker, *(utterance for _, utterance in lines_of)]) + "\n")


def _word(text: str) -> str:
    return "".join(quote(char) if char.isspace() else char for char in text) or "_"


def _ids(segment: Segment) -> tuple[str, str]:
    """Return the id of an utterance and its speaker, with `%20` for a space. An unknown speaker is a new one."""
    utterance = _word(segment.id)
    if segment.speaker is None:
        return utterance, utterance
    speaker = _word(segment.speaker)
    return (utterance if utterance.startswith(speaker) else f"{speaker}-{utterance}"), speaker
