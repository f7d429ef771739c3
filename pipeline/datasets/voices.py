"""VOiCES: Voices Obscured in Complex Environmental Settings (arXiv 1804.05053, iqtlabs.github.io/voices).

The file names describe the recordings:

    Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042.wav
    Lab41-SRI-VOiCES-rm1-babb-sp0032-ch021625-sg0005-mc01-stu-clo-dg080.wav

The parts are room, distractor, speaker, chapter, segment, microphone with its type and location, and the angle of the
loudspeaker in degrees. The documentation of older releases writes `scr` for `src` and `seg` for `sg`.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.datasets import SHIPPED, Warnings, refuse_empty, require_folder, walk_files
from pipeline.records import Scalar, Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path

NAME = re.compile(
    r"""Lab41-SRI-VOiCES-
    (?: (?:src|scr) | (?P<room>rm[0-9]+) - (?P<distractor>[a-z0-9]+) )
    - (?P<speaker>sp[0-9]+) - (?P<chapter>ch[0-9]+) - (?P<segment>se?g[0-9]+)
    (?(room)
        - (?P<mic>mc[0-9]+) - (?P<mic_type>[a-z0-9]+) - (?P<mic_location>[a-z0-9]+)
        - dg(?P<degrees>[0-9]{1,4})
    )
    """,
    re.VERBOSE,
)

# The part of a name that identifies the passage that was read. LibriSpeech's own form is 307-127535-0042.
_PASSAGE = re.compile(r"(?:.*-)?sp([0-9]+)-ch([0-9]+)-se?g([0-9]+)(?:-.*)?|([0-9]+)-([0-9]+)-([0-9]+)")

_COLUMNS = {
    "split": "string",
    "source": "bool",
    "room": "string",
    "distractor": "string",
    "speaker": "string",
    "chapter": "string",
    "segment": "string",
    "mic": "string",
    "mic_type": "string",
    "mic_location": "string",
    "degrees": "int16",
    "gender": "string",
}

# Folders without speech. The documentation writes `room_response`, the archives contain `room-response`.
_NOT_SPEECH = frozenset(("distractors", "room-response", "room_response"))

_LAYOUT = (
    "expected the folder VOiCES_devkit with source-16k/{train,test}/sp*/*.wav "
    "and distant-16k/speech/{train,test}/rm*/*/sp*/*.wav"
)


@dataclass
class Options:
    """The options `dataset.*` of `dataset=voices`.

    Attributes:
        root: The folder `VOiCES_devkit` (or `VOiCES_release`, or a part of either); `None` or empty for the shipped
            recording.
    """

    root: str | None = None


class Dataset:
    """The source and distant recordings of a VOiCES tree. The id is the file's stem."""

    score_by = tuple(name for name in _COLUMNS if name not in ("chapter", "segment"))

    def __init__(self, options: Options) -> None:
        self.notice: str | None = None
        self._warnings = Warnings()
        if options.root:
            self.root = require_folder(options.root, "give the folder VOiCES_devkit, as dataset.root or in VOICES_ROOT")
            self.run_name = "voices"
        else:
            self.root = str(SHIPPED / "voices")
            self.run_name = "voices-sample"
            self.notice = (
                "no VOiCES corpus given: the one recording of the torchaudio tutorial stands in; "
                "set VOICES_ROOT or dataset.root=/path/to/VOiCES_devkit for the corpus"
            )

    def columns(self) -> dict[str, str]:
        """Return the columns, which come from the file names, the folders and the gender table."""
        return dict(_COLUMNS)

    def utterances(self) -> Iterator[Utterance]:
        """Yield every recording, sorted bytewise by its path.

        A WAV whose name does not follow the scheme has null in the columns that come from the name.

        Raises:
            UserError: There are no recordings, or a folder or a reference file cannot be read.
        """
        message = f"dataset.root={self.root}: no recordings found; {_LAYOUT}"
        return refuse_empty(self._utterances(), message)

    def warnings(self) -> list[str]:
        """Return a line about the references that could not be used, if there are any."""
        return self._warnings.lines()

    def _utterances(self) -> Iterator[Utterance]:
        self._warnings = Warnings()
        references = References(self.root, self._warnings)
        genders = _read_genders(os.path.join(self.root, "references"))
        for relative in walk_files(self.root, skip=_NOT_SPEECH):
            folder, name = os.path.split(relative)
            stem, extension = os.path.splitext(name)
            if extension.lower() != ".wav":
                continue
            columns = parse_name(stem)
            folders = folder.split(os.sep)
            columns["split"] = next((part for part in folders if part in ("train", "test")), None)
            if columns["speaker"] is not None:
                columns["gender"] = genders.get(int(str(columns["speaker"])[2:]))
            yield Utterance(
                id=encode_path(stem),
                path=os.path.join(self.root, relative),
                reference=references.of(stem),
                columns=columns,
            )


def parse_name(stem: str) -> dict[str, Scalar]:
    """Return the columns that a file name determines; all `None` if the name does not follow the scheme."""
    columns: dict[str, Scalar] = dict.fromkeys(_COLUMNS)
    match = NAME.fullmatch(stem)
    if match:
        columns |= match.groupdict()
        columns["source"] = match["room"] is None
        columns["degrees"] = None if match["degrees"] is None else int(match["degrees"])
    return columns


class References:
    """The reference transcripts in `references/`; empty if the folder is missing.

    If its two files disagree, `filename_transcripts` counts.
    """

    def __init__(self, root: str, warnings: Warnings) -> None:
        """Read both files below `root`; `warnings` counts the texts that are not UTF-8, which are not used.

        Raises:
            UserError: A file exists but cannot be read.
        """
        folder = os.path.join(root, "references")
        newer = os.path.join(folder, "filename_transcripts")
        older = os.path.join(folder, "Lab41-SRI-VOiCES.refs")
        try:
            self._texts = (
                _Texts(_csv_rows(_read_lines(newer)), warnings),
                _Texts(_older_rows(_read_lines(older)), warnings),
            )
        except csv.Error as error:
            raise UserError(f"{newer}: not a CSV file ({error}); restore it, or remove it") from None

    def of(self, stem: str) -> str | None:
        """Return the reference transcript of a recording by its stem; `None` if there is none."""
        return next((text for texts in self._texts if (text := texts.of(stem)) is not None), None)


class _Texts:
    """The reference transcripts of one file.

    All recordings of one passage (speaker, chapter, segment) have the same text. So memory holds one text per passage,
    and one per file name only if that text differs: 4,000 texts instead of 999,168. The older `.refs` file may list
    only the source recordings; distant recordings then get their text through the passage.
    """

    def __init__(self, rows: Iterator[tuple[str, str]], warnings: Warnings) -> None:
        self._by_passage: dict[tuple[int, int, int], str] = {}
        self._by_name: dict[str, str] = {}
        for name, text in rows:
            stem = os.path.basename(name).removesuffix(".wav")
            passage = _passage(stem)
            if "\ufffd" in text:
                warnings.add(
                    "references that are not UTF-8, so that the recording has none", f"{stem!r}: {text[:80]!r}"
                )
                continue
            if text and (passage is None or self._by_passage.setdefault(passage, text) != text):
                self._by_name[stem] = text

    def of(self, stem: str) -> str | None:
        text = self._by_name.get(stem)
        passage = _passage(stem)
        return self._by_passage.get(passage) if text is None and passage is not None else text


def _passage(stem: str) -> tuple[int, int, int] | None:
    match = _PASSAGE.fullmatch(stem)
    if match is None:
        return None
    speaker, chapter, segment = (int(number) for number in match.groups() if number is not None)
    return speaker, chapter, segment


def _read_lines(path: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file; none if the file is missing."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from file
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it, or remove it") from None


def _csv_rows(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of `index,file_name,transcript` lines."""
    name_at, text_at = 1, 2
    for row in csv.reader(lines):
        if "file_name" in row and "transcript" in row:
            name_at, text_at = row.index("file_name"), row.index("transcript")
        elif len(row) > max(name_at, text_at):
            yield row[name_at].strip(), row[text_at].strip()


def _older_rows(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of `name TRANSCRIPT` lines."""
    for line in lines:
        name, _, text = line.strip().replace("\t", " ").partition(" ")
        if name:
            yield name, text.strip()


def _read_genders(folder: str) -> dict[int, str]:
    """Return the gender by speaker number.

    Speakers may be written with or without `sp` and leading zeros, and the header may begin with `;`.
    """
    genders: dict[int, str] = {}
    speaker_at, gender_at = 0, 1
    for line in _read_lines(os.path.join(folder, "Lab41-SRI-VOiCES-speaker-gender-dataset.tbl")):
        fields = re.split(r"[\s;|,]+", line.strip("; \t\r\n|"))
        names = [name.lower() for name in fields]
        if "speaker" in names and "gender" in names:
            speaker_at, gender_at = names.index("speaker"), names.index("gender")
        elif len(fields) > max(speaker_at, gender_at):
            number = fields[speaker_at].removeprefix("sp")
            if number.isascii() and number.isdigit():
                genders[int(number)] = fields[gender_at]
    return genders
