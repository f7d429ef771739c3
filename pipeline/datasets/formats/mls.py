"""Reads the lists of Multilingual LibriSpeech: an id and the text a line.

    train/transcripts.txt                         4800_10003_000000	und so weiter
    train/audio/4800/10003/4800_10003_000000.flac

The parts of the id are speaker, book and segment. Source: https://www.openslr.org/94.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from pipeline.datasets import with_extension
from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.source import Source, line
from pipeline.datasets.formats.values import shown

_LINE = re.compile(r"((?P<speaker>[0-9]+)_(?P<book>[0-9]+)_[0-9]+)\t(?P<text>.*)", re.DOTALL)
_EXTENSIONS = ("flac", "opus", "wav", "mp3", "ogg")


def is_mls(first: str) -> bool:
    """Whether the first line of a list is one of Multilingual LibriSpeech."""
    return _LINE.fullmatch(first) is not None


def listing(source: Source, folder: str) -> Listing:
    """Return the list; `folder` contains `audio`."""

    def rows() -> Iterator[Row]:
        for number, text in source.lines():
            match = _LINE.fullmatch(text)
            if match is None and text.strip():
                error = f"{shown(text.strip())} is not SPEAKER_BOOK_SEGMENT, a tab and the text"
                yield Row.wrong(line(number), error)
            if match is not None:
                stem = os.path.join("audio", match["speaker"], match["book"], match[1])
                file = os.path.relpath(with_extension(os.path.join(folder, stem), *_EXTENSIONS), folder)
                extras = {"speaker": match["speaker"], "book": match["book"]}
                yield Row(file, match[1], match["text"], extras=extras, place=line(number))

    return Listing(rows)
