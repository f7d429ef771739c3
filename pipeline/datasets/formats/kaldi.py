"""Kaldi data folders: `wav.scp`, and `segments`, `text`, `utt2spk`, `spk2gender`, `reco2file_and_channel`.

The formats: https://kaldi-asr.org/doc/data_prep.html. With `segments` a row is a segment, without it a
recording, in the order of that file; ids are Kaldi's. A text of an utterance that is not there is left out,
as by Kaldi's own scripts. Nothing is executed: a `wav.scp` that holds commands is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.keyed import KeyedLines, Repeated, fields, keyed_lines
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import channel, number_in, path, point, reference, shown

_ARCHIVE_OFFSET = re.compile(r":[0-9]+(?:\[[^\]]*\])?\Z")


def is_data_folder(folder: str) -> bool:
    """Whether it holds what every data folder does."""
    return os.path.lexists(os.path.join(folder, "wav.scp"))


def listing(source: Source) -> Listing:
    """The data folder `source`."""
    has_segments = os.path.lexists(os.path.join(source.path, "segments"))

    def rows() -> Iterator[Row]:
        with _opened(source) as folder:
            yield from _segments(source, folder) if has_segments else _recordings(source, folder)

    return Listing(rows, from_anywhere=True)


@dataclass(frozen=True)
class _Folder:
    """The files of a data folder that are asked for single keys; `None` where one is missing.

    Attributes:
        sides: `reco2file_and_channel`.
        shared: Paths that are several recordings.
    """

    text: KeyedLines | None
    utt2spk: KeyedLines | None
    spk2gender: KeyedLines | None
    sides: KeyedLines | None
    shared: Repeated

    def row(
        self,
        utterance: str,
        recording: str,
        file: str,
        start_s: float | None = None,
        end_s: float | None = None,
        number: int | None = None,
    ) -> Row:
        """The row of an utterance.

        Args:
            utterance: Its id.
            recording: The id of its recording.
            file: What `wav.scp` has for that.
            start_s: Where it begins, in seconds.
            end_s: Where it ends.
            number: Its channel, where `segments` says it.

        Raises:
            ValueError: A path or a channel that is none.
        """
        extras = {}
        if self.utt2spk:
            extras["speaker"] = speaker = self.utt2spk.get(utterance)
            if self.spk2gender:
                extras["gender"] = self.spk2gender.get(speaker) if speaker else None
        # The side of a telephone call is a channel only where both sides are one file: as a rule each
        # recording is a file of its own, from which the other channel has been left out already.
        if number is None and self.sides and file in self.shared:
            number = _side(self.sides.get(recording))
        spoken = self.text.get(utterance) if self.text else None
        return Row(_plain_path(file), utterance, reference("text", spoken), start_s, end_s, number, extras)


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
        try:
            yield folder.row(recording, recording, file)
        except ValueError as error:
            raise _file(source, "wav.scp").refusal(number, error) from None


def _segments(source: Source, folder: _Folder) -> Iterator[Row]:
    segments = _file(source, "segments")
    with keyed_lines(_file(source, "wav.scp")) as files:
        for number, line in segments.lines():
            parts = fields(line)
            if not parts:
                continue
            try:
                if len(parts) not in (4, 5):
                    raise ValueError(f"{len(parts)} fields; expected are utterance, recording, start, end")
                utterance, recording, start, end, *side = parts
                file = files.get(recording) if files else None
                if file is None:
                    raise ValueError(f"recording {shown(recording)} is not in wav.scp; add it there")
                yield folder.row(
                    utterance,
                    recording,
                    file,
                    start_s=point("start", number_in(start)),
                    end_s=None if number_in(end) == -1 else point("end", number_in(end)),
                    # Kaldi's extract-segments counts channels from 0, whatever its comments say.
                    number=channel("channel", number_in(side[0]), first=0) if side else None,
                )
            except ValueError as error:
                raise segments.refusal(number, error) from None


def _wav_scp(source: Source) -> Iterator[tuple[int, tuple[str, str]]]:
    """Number, recording and path of every line of `wav.scp`."""
    scp = _file(source, "wav.scp")
    for number, line in scp.lines():
        parts = fields(line, 2)
        if len(parts) == 1:
            raise scp.refusal(number, f"{shown(parts[0])} has no path; expected are recording and path")
        if parts:
            yield number, (parts[0], parts[1])


def _plain_path(file: str) -> str:
    """A path of `wav.scp` that names a file.

    Raises:
        ValueError: A command, standard input, or a place in an archive.
    """
    if file.startswith("|") or file.endswith("|"):
        raise ValueError(
            f"{shown(file)}: wav.scp holds a command, and none is executed here; "
            "write its output to a file, and the path of that into wav.scp"
        )
    if file == "-":
        raise ValueError("wav.scp holds '-', standard input; give the path of a file")
    if _ARCHIVE_OFFSET.search(file):
        raise ValueError(f"{shown(file)}: a place in a Kaldi archive; copy it to a file (wav-copy), and give its path")
    return path("path", file)


def _side(line: str | None) -> int | None:
    """The channel of `file channel`, the value in `reco2file_and_channel`: A and B, or 1 and 2."""
    parts = fields(line or "")
    if not parts:
        return None
    known = " ABCDEFGH".find(parts[-1]) if len(parts[-1]) == 1 and parts[-1].isalpha() else number_in(parts[-1])
    return channel("channel in reco2file_and_channel", known)


def _file(folder: Source, name: str) -> Source:
    return Source(os.path.join(folder.path, name), f"{folder.name}: {name}")
