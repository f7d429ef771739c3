"""Reads the list of LJSpeech, and of corpora in its layout: an id, the text and the normalised text a line.

    metadata.csv          LJ001-0002|in being comparatively modern.|in being comparatively modern.
    wavs/LJ001-0002.wav

Quotes are part of the text. The reference is the last text of the line. Source: https://keithito.com/LJ-Speech-Dataset.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pipeline.datasets import is_recording, with_extension
from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.delimited import records
from pipeline.datasets.formats.source import Source, line
from pipeline.datasets.formats.values import path

_FOLDER = "wavs"
_EXTENSIONS = ("wav", "flac", "mp3", "ogg", "opus")


def is_ljspeech(folder: str, first: str) -> bool:
    """Whether the first line of a list is LJSpeech's: the name, without extension, of a recording in `wavs`."""
    name, pipe, _ = first.partition("|")
    if not pipe or not name or "\0" in name or is_recording(name):
        return False
    return os.path.lexists(os.path.join(folder, _file(folder, name)))


def listing(source: Source, folder: str) -> Listing:
    """Return the list; `folder` contains `wavs`."""

    def rows() -> Iterator[Row]:
        for number, cells in records(source, "|", quotes=False, remedy="write an id, the text and the normalised text"):
            if isinstance(cells, ValueError):
                yield Row.wrong(line(number), cells)
                continue
            name, *texts = cells
            try:
                yield Row(
                    path("id", _file(folder, path("id", name))),
                    id=name,
                    reference=texts[-1] if texts else None,
                    extras={"text": texts[0]} if len(texts) > 1 else {},
                    place=line(number),
                )
            except ValueError as error:
                yield Row.wrong(line(number), error)

    return Listing(rows)


def _file(folder: str, name: str) -> str:
    return os.path.relpath(with_extension(os.path.join(folder, _FOLDER, name), *_EXTENSIONS), folder)
