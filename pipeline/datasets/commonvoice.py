"""Mozilla Common Voice: sentences read by volunteers (CC0). A dataset is one language of a release.

    de/validated.tsv, train.tsv, dev.tsv, test.tsv, invalidated.tsv, other.tsv
    de/clips/common_voice_de_17298952.mp3       or the clip in another format, under the same name

Source: https://commonvoice.mozilla.org/datasets. The columns differ from release to release, so all columns of a file
are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from omegaconf import MISSING

from pipeline.datasets import Warnings, refuse_empty, require_folder, with_extension
from pipeline.datasets.formats.delimited import records
from pipeline.datasets.formats.source import Source, line
from pipeline.datasets.formats.values import column_value, number_in, reference, shown
from pipeline.records import Scalar, Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path, resolve_path

SPLITS = ("validated", "train", "dev", "test", "invalidated", "other")

# The release has MP3; people often convert it.
_EXTENSIONS = ("mp3", "wav", "flac", "opus", "ogg", "m4a")

_Value = TypeVar("_Value")

_OWN = ("path", "sentence")
_COUNTS = ("up_votes", "down_votes")
_REMEDY = "give the folder of a language, such as cv-corpus-21.0-2025-03-14/de"


@dataclass
class Options:
    """The options `dataset.*` of `dataset=commonvoice`.

    Attributes:
        root: The folder of a language, which contains `clips` and the lists.
        split: The list to read, one of `SPLITS`. `validated` contains every clip whose sentence was confirmed,
            including the clips of train, dev and test.
    """

    root: str = MISSING
    split: str = "validated"


class Dataset:
    """The clips of one list, in its order. The id is the file's stem."""

    score_by = ("age", "gender", "accents", "accent", "variant", "locale", "segment")

    def __init__(self, options: Options) -> None:
        self.root = require_folder(options.root, _REMEDY)
        if options.split not in SPLITS:
            raise UserError(f"dataset.split={options.split}: not allowed; there are {', '.join(SPLITS)}")
        self.run_name = "commonvoice"
        self.notice: str | None = None
        path = os.path.join(self.root, f"{options.split}.tsv")
        self._source = Source(path, path)
        self._warnings = Warnings()
        if not os.path.isfile(path):
            there = ", ".join(split for split in SPLITS if os.path.isfile(os.path.join(self.root, f"{split}.tsv")))
            remedy = f"choose dataset.split from {there}" if there else _REMEDY
            raise UserError(f"dataset.split={options.split}: {path} is missing; {remedy}")

    def columns(self) -> dict[str, str]:
        """Return all columns of the list except path and sentence. Votes are numbers, everything else is text.

        Raises:
            UserError: The list cannot be read, or has no column for the path or the sentence.
        """
        header, _ = self._read()
        return {encode_path(name): "int32" if name in _COUNTS else "string" for name in header if name not in _OWN}

    def utterances(self) -> Iterator[Utterance]:
        """Yield every clip of the list.

        Raises:
            UserError: The list is empty or cannot be read. A clip whose line is wrong is an utterance with an `error`.
        """
        return refuse_empty(self._utterances(), f"{self._source.name}: lists no clips; choose another dataset.split")

    def warnings(self) -> list[str]:
        """Return a line for each kind of value or line that could not be used."""
        return self._warnings.lines()

    def not_found(self) -> str:
        """Say where the clips are looked for."""
        return f"the clips are looked for in {os.path.join(self.root, 'clips')}; {_REMEDY}"

    def _read(self) -> tuple[list[str], Iterator[tuple[int, list[str] | ValueError]]]:
        """Return the names of the columns, and an iterator over the line number and the cells of each row."""
        # Quotes in these files belong to the sentences and are often unbalanced; they do not enclose values.
        rows = records(self._source, "\t", quotes=False)
        number, header = next(rows, (1, []))
        assert isinstance(header, list), "a wrong header is refused"
        missing = [name for name in _OWN if name not in header]
        if missing:
            raise self._source.refusal(number, f"column {missing[0]} is missing; restore the list of the release")
        if len(set(header)) < len(header) or "" in header:
            raise self._source.refusal(
                number, "two columns have the same name, or a column has no name; restore the list"
            )
        return header, rows

    def _utterances(self) -> Iterator[Utterance]:
        header, rows = self._read()
        self._warnings = Warnings()
        for number, cells in rows:
            try:
                if isinstance(cells, ValueError):
                    raise cells
                record = dict(zip(header, cells, strict=True))
                name = _file_name(record["path"])
            except ValueError as error:
                self._warnings.add("lines that cannot be used, each of them a failure", f"{line(number)}: {error}")
                yield Utterance(line(number), "", error=str(self._source.refusal(number, error)))
                continue
            yield Utterance(
                id=encode_path(os.path.splitext(name)[0]),
                path=_clip(resolve_path(os.path.join(self.root, "clips", name))),
                reference=self._checked(number, "sentence", record["sentence"], reference),
                columns={
                    encode_path(key): self._checked(number, key, record[key], _value)
                    for key in header
                    if key not in _OWN
                },
            )

    def _checked(self, number: int, key: str, text: str, value: Callable[[str, str], _Value]) -> _Value | None:
        """Return the value of a cell; `None`, with a warning, if it cannot be used."""
        try:
            return value(key, text)
        except ValueError as error:
            self._warnings.add(f"values of {key} that cannot be used, and are null", f"{line(number)}: {error}")
            return None


def _file_name(listed: str) -> str:
    """Return the file name of a clip. The first releases list it without its extension.

    Raises:
        ValueError: `listed` is not a plain file name. A path could lead out of the corpus.
    """
    if os.path.basename(listed) != listed or listed in ("", ".", "..") or "\0" in listed:
        raise ValueError(f"path={shown(listed)}: must be the name of a file in clips")
    return listed if os.path.splitext(listed)[1] else f"{listed}.mp3"


def _clip(listed: str) -> str:
    """Return the path of a clip, which may have been converted to another format."""
    return listed if os.path.lexists(listed) else with_extension(os.path.splitext(listed)[0], *_EXTENSIONS)


def _value(key: str, text: str) -> Scalar:
    if not text:
        return None
    if key not in _COUNTS:
        return column_value(text, "string")
    count = number_in(text)
    if not isinstance(count, int) or abs(count) >= 2**31:
        raise ValueError(f"{key}={shown(text)}: must be a whole number")
    return count
