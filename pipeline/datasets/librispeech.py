"""LibriSpeech: English read from audio books (CC BY 4.0), as released on OpenSLR, or a part of it.

    dev-clean/84/121123/84-121123-0000.flac     speaker, chapter, segment
    dev-clean/84/121123/84-121123.trans.txt     84-121123-0000 GO DO YOU HEAR
    SPEAKERS.TXT, CHAPTERS.TXT                  above the subsets: gender, subset, book

Source: https://www.openslr.org/12. If a line of a `.trans.txt` has no recording, the line is an utterance all the same,
and fails as `not_found`. This way an incomplete copy does not look complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from pipeline.datasets import Warnings, refuse_empty, require_folder, walk_files, with_extension
from pipeline.datasets.formats.keyed import fields
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import reference, shown
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path

NAME = re.compile(r"(?P<speaker>[0-9]{1,9})-(?P<chapter>[0-9]{1,9})-(?P<segment>[0-9]{1,9})")
_SUBSET = re.compile(r"(?:dev|test|train)-(?:clean|other)(?:-[0-9]+)?")
# The release has FLAC; people often convert it to WAV.
_EXTENSIONS = ("flac", "wav")
_LIST = "trans.txt"
_UNUSED = "lines of lists that cannot be used"

_COLUMNS = ("subset", "speaker", "chapter", "segment", "gender", "book")

_LAYOUT = "expected the folder LibriSpeech, or a subset of it, with SPEAKER/CHAPTER/*.flac"


@dataclass
class Options:
    """The options `dataset.*` of `dataset=librispeech`.

    Attributes:
        root: The folder `LibriSpeech`, or a subset such as `dev-clean`.
    """

    root: str = MISSING


class Dataset:
    """The recordings of a LibriSpeech tree. The id is the file's stem."""

    score_by = ("subset", "speaker", "gender")

    def __init__(self, options: Options) -> None:
        self.root = require_folder(options.root, "give the folder LibriSpeech, or a subset of it")
        self.run_name = "librispeech"
        self.notice: str | None = None
        self._warnings = Warnings()

    def columns(self) -> dict[str, str]:
        """Return the columns, which come from file names, folders, SPEAKERS.TXT and CHAPTERS.TXT; null if unknown."""
        return dict.fromkeys(_COLUMNS, "string")

    def utterances(self) -> Iterator[Utterance]:
        """Yield every recording, sorted bytewise by its path.

        Missing recordings come at the position of their chapter's list. A recording whose name does not follow the
        scheme has null in the columns that come from the name.

        Raises:
            UserError: There are no recordings, or a folder or a list cannot be read.
        """
        return refuse_empty(self._utterances(), f"dataset.root={self.root}: no recordings found; {_LAYOUT}")

    def warnings(self) -> list[str]:
        """Return a line for each kind of line that could not be used."""
        return self._warnings.lines()

    def not_found(self) -> str:
        """Say which recordings are missing."""
        return f"they are those of the lists *.{_LIST}; {_LAYOUT}"

    def _utterances(self) -> Iterator[Utterance]:
        self._warnings = Warnings()
        speakers = _read_table(self._above("SPEAKERS.TXT"), self._warnings)
        chapters = _read_table(self._above("CHAPTERS.TXT"), self._warnings)
        opened, texts = "", dict[str, str | None]()
        for relative in walk_files(self.root):
            folder, name = os.path.split(os.path.join(self.root, relative))
            stem, extension = os.path.splitext(name)
            if name.lower().endswith(f".{_LIST}"):
                missing = [_recording(folder, stem) for stem in _read_texts(os.path.join(folder, name), Warnings())]
                paths = [path for path in missing if not os.path.lexists(path)]
                stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
            elif extension[1:].lower() in _EXTENSIONS:
                stems, paths = [stem], [os.path.join(folder, name)]
            else:
                continue
            for stem, path in zip(stems, paths, strict=True):
                list_ = with_extension(os.path.join(folder, stem.rpartition("-")[0]), _LIST)
                if list_ != opened:
                    opened, texts = list_, _read_texts(list_, self._warnings)
                yield Utterance(
                    id=encode_path(stem),
                    path=path,
                    reference=texts.get(stem),
                    columns=_columns(folder, stem, speakers, chapters),
                )

    def _above(self, name: str) -> Source:
        """Find a table of the release: in the root, in the folder above it, or in `LibriSpeech` below it."""
        folders = (self.root, os.path.dirname(self.root), os.path.join(self.root, "LibriSpeech"))
        paths = [os.path.join(folder, name) for folder in folders]
        path = next((path for path in paths if os.path.isfile(path)), paths[0])
        return Source(path, path)


def _recording(folder: str, stem: str) -> str:
    return with_extension(os.path.join(folder, stem), *_EXTENSIONS)


def _columns(
    folder: str, stem: str, speakers: dict[str, list[str]], chapters: dict[str, list[str]]
) -> dict[str, str | None]:
    columns: dict[str, str | None] = dict.fromkeys(_COLUMNS)
    match = NAME.fullmatch(stem)
    subset = os.path.basename(os.path.dirname(os.path.dirname(folder)))
    columns["subset"] = subset if _SUBSET.fullmatch(subset) else None
    if match:
        columns |= match.groupdict()
        # ID | SEX | SUBSET | MINUTES | NAME, and ID | READER | MINUTES | SUBSET | PROJECT | BOOK | CHAPTER | TITLE
        speaker, chapter = speakers.get(match["speaker"], []), chapters.get(match["chapter"], [])
        columns["gender"] = _cell(speaker, 1)
        columns["book"] = _cell(chapter, 7)
        columns["subset"] = columns["subset"] or _cell(chapter, 3) or _cell(speaker, 2)
    return columns


def _cell(cells: list[str], index: int) -> str | None:
    return (cells[index] or None) if index < len(cells) else None


def _read_texts(path: str, warnings: Warnings) -> dict[str, str | None]:
    """Return the texts of a chapter by the stems of its recordings; nothing if the file is missing.

    A line that does not begin with a stem, or is not UTF-8, is left out with a warning: it must not become a path.

    Raises:
        UserError: The file cannot be read.
    """
    if not os.path.isfile(path):
        return {}
    source = Source(path, path)
    texts: dict[str, str | None] = {}
    for number, line in _lines(source, warnings):
        stem, *text = fields(line, 2) or [""]
        try:
            if stem and not NAME.fullmatch(stem):
                raise ValueError(f"{shown(stem)} is not the name of a recording; expected 84-121123-0000 TEXT")
            if stem:
                texts[stem] = reference("text", "".join(text))
        except ValueError as error:
            warnings.add(_UNUSED, str(source.refusal(number, error)))
    return texts


def _lines(source: Source, warnings: Warnings) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of every line. A line that is not UTF-8 is left out with a warning."""
    for number, line in source.raw_lines():
        try:
            text = source.text(number, line)
        except UserError as error:
            warnings.add(_UNUSED, str(error))
            continue
        yield number, text


def _read_table(source: Source, warnings: Warnings) -> dict[str, list[str]]:
    """Return the rows of a table of the release by their first cell, a number; nothing if the file is missing."""
    if not os.path.isfile(source.path):
        return {}
    rows = (
        [cell.strip() for cell in line.split("|", 7)]
        for _, line in _lines(source, warnings)
        if not line.startswith(";")
    )
    return {cells[0]: [encode_path(cell) for cell in cells] for cells in rows}
