"""Reads Kaldi data folders: `wav.scp`, `segments`, `text`, `utt2spk`, `spk2gender` and `reco2file_and_channel`.

The formats are described at https://kaldi-asr.org/doc/data_prep.html. If the folder has `segments`, each of its lines
is a row; otherwise each line of `wav.scp` is. Rows keep the order of that file, and ids are Kaldi's. A text whose
utterance is missing is ignored, as in Kaldi's own scripts. Nothing is executed: a `wav.scp` with commands is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.keyed import KeyedLines, Repeated, fields, keyed_lines
from pipeline.datasets.formats.source import Source, line
from pipeline.datasets.formats.values import channel, number_in, path, point, shown

_ARCHIVE_OFFSET = re.compile(r":[0-9]+(?:\[[^\]]*\])?\Z")


def is_data_folder(folder: str) -> bool:
    """Whether a folder has a `wav.scp`, as every Kaldi data folder does."""
    return os.path.lexists(os.path.join(folder, "wav.scp"))


def listing(source: Source) -> Listing:
    """Return the list in a data folder."""
    has_segments = os.path.lexists(os.path.join(source.path, "segments"))

    def rows() -> Iterator[Row]:
        with _opened(source) as folder:
            yield from _segments(source, folder) if has_segments else _recordings(source, folder)

    return Listing(rows, from_anywhere=True)


@dataclass(frozen=True)
class _Folder:
    """The files of a data folder in which single keys are looked up; `None` for a missing file.

    Attributes:
        sides: `reco2file_and_channel`.
        shared: Paths that several recordings have in common.
    """

    text: KeyedLines | None
    utt2spk: KeyedLines | None
    spk2gender: KeyedLines | None
    sides: KeyedLines | None
    shared: Repeated

    def row(
        self,
        place: str,
        utterance: str,
        recording: str,
        file: str,
        start_s: float | None = None,
        end_s: float | None = None,
        number: int | None = None,
    ) -> Row:
        """Make the row of an utterance.

        Args:
            place: Where the line is.
            utterance: The id of the utterance.
            recording: The id of the recording.
            file: The path of the recording in `wav.scp`.
            start_s: Start of the segment in seconds.
            end_s: End of the segment in seconds.
            number: The channel, from 1, if `segments` names one.

        Raises:
            ValueError: The path or the channel is not valid, or a key has several values.
        """
        extras = {}
        if self.utt2spk:
            extras["speaker"] = speaker = self.utt2spk.get(utterance)
            if self.spk2gender:
                extras["gender"] = self.spk2gender.get(speaker) if speaker else None
        # The side of a telephone call is a channel of the file only if both sides share one file. Usually each side is
        # a file of its own, without the other channel.
        if number is None and self.sides and file in self.shared:
            number = _side(self.sides.get(recording))
        spoken = self.text.get(utterance) if self.text else None
        return Row(_plain_path(file), utterance, spoken, start_s, end_s, number, extras, place)


@contextmanager
def _opened(source: Source) -> Iterator[_Folder]:
    with ExitStack() as stack:

        def lines(name: str) -> KeyedLines | None:
            return stack.enter_context(keyed_lines(_file(source, name)))

        sides = lines("reco2file_and_channel")
        shared = Repeated(file for _, (_, file) in _wav_scp(source)) if sides else Repeated(())
        yield _Folder(lines("text"), lines("utt2spk"), lines("spk2gender"), sides, shared)


def _recordings(source: Source, folder: _Folder) -> Iterator[Row]:
    for number, (recording, file) in _wav_scp(source):
        place = f"wav.scp: {line(number)}"
        try:
            if not file:
                raise ValueError("has no path; expected recording and path")
            yield folder.row(place, recording, recording, file)
        except ValueError as error:
            yield Row.wrong(place, error, id_=recording)


def _segments(source: Source, folder: _Folder) -> Iterator[Row]:
    segments = _file(source, "segments")
    with keyed_lines(_file(source, "wav.scp")) as files:
        for number, text in segments.lines():
            place, parts = f"segments: {line(number)}", fields(text)
            if not parts:
                continue
            try:
                if len(parts) not in (4, 5):
                    raise ValueError(f"{len(parts)} fields; expected utterance, recording, start, end")
                utterance, recording, start, end, *side = parts
                file = files.get(recording) if files else None
                if not file:
                    raise ValueError(f"recording {shown(recording)} has no path in wav.scp; add it there")
                yield folder.row(
                    place,
                    utterance,
                    recording,
                    file,
                    start_s=point("start", number_in(start)),
                    end_s=None if number_in(end) == -1 else point("end", number_in(end)),
                    # Kaldi's extract-segments counts channels from 0, although its comments say otherwise.
                    number=channel("channel", number_in(side[0]), first=0) if side else None,
                )
            except ValueError as error:
                yield Row.wrong(place, error, id_=parts[0])


def _wav_scp(source: Source) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield the line number, and the recording and path (or an empty text), of every line of `wav.scp`."""
    scp = _file(source, "wav.scp")
    for number, text in scp.lines():
        parts = fields(text, 2)
        if parts:
            yield number, (parts[0], "".join(parts[1:]))


def _plain_path(file: str) -> str:
    """Check that a value in `wav.scp` is the path of a file, and return it.

    Raises:
        ValueError: The value is a command, standard input, or a position in an archive.
    """
    if file.startswith("|") or file.endswith("|"):
        raise ValueError(
            f"{shown(file)}: wav.scp holds a command, and this project executes none; "
            "write the command's output to a file, and the path of the file into wav.scp"
        )
    if file == "-":
        raise ValueError("wav.scp holds '-', standard input; give the path of a file")
    if _ARCHIVE_OFFSET.search(file):
        raise ValueError(
            f"{shown(file)}: a position in a Kaldi archive; copy it to a file (wav-copy) and give the file's path"
        )
    return path("path", file)


def _side(line: str | None) -> int | None:
    """Return the channel, from 1, of a value `file channel` in `reco2file_and_channel`; it is A or B, or 1 or 2."""
    parts = fields(line or "")
    if not parts:
        return None
    known = " ABCDEFGH".find(parts[-1]) if len(parts[-1]) == 1 and parts[-1].isalpha() else number_in(parts[-1])
    return channel("channel in reco2file_and_channel", known)


def _file(folder: Source, name: str) -> Source:
    return folder.beside(os.path.join(folder.path, name), f"{folder.name}: {name}")
