"""Reads the manifests of fairseq's wav2vec 2.0 and HuBERT: a folder, then a path and a number of samples a line.

    /data/LibriSpeech
    dev-clean/84/121123/84-121123-0000.flac	232480

The transcripts are beside the list, one a line: `train.wrd` for `train.tsv`, or `train.ltr`, whose letters are
separated by blanks and whose words by `|`. The format is described at
https://github.com/facebookresearch/fairseq/tree/main/examples/wav2vec.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import zip_longest

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.source import Source, line
from pipeline.datasets.formats.values import path, shown
from pipeline.runtime.errors import UserError

_LINE = re.compile(r"([^\t]+)\t[0-9]+")


def is_fairseq(first: str, second: str) -> bool:
    """Whether the first two lines of a list are those of fairseq."""
    return "\t" not in first and _LINE.fullmatch(second) is not None


def listing(source: Source) -> Listing:
    """Return the list in a manifest of fairseq. The number of samples is not used.

    Raises:
        UserError: The file cannot be read.
    """
    root = next((text.strip() for _, text in source.lines()), "")
    return Listing(lambda: _rows(source), folder=os.path.join(os.path.dirname(source.path), root))


def _rows(source: Source) -> Iterator[Row]:
    lines = ((number, text.strip()) for number, text in source.lines() if number > 1 and text.strip())
    texts = _texts(source)
    for listed, text in zip_longest(lines, texts or ()):
        if listed is None or (texts is not None and text is None):
            raise UserError(f"{source.name}: the transcripts beside it have another number of lines; write them again")
        number, entry = listed
        match = _LINE.fullmatch(entry)
        if match is None:
            yield Row.wrong(line(number), f"{shown(entry)} is not a path, a tab and a number of samples")
            continue
        try:
            yield Row(path("path", match[1]), reference=text, place=line(number))
        except ValueError as error:
            yield Row.wrong(line(number), error)


def _texts(source: Source) -> Iterator[str] | None:
    """Return the transcripts beside a list; `None` if there are none."""
    stem = os.path.splitext(source.path)[0]
    words, letters = f"{stem}.wrd", f"{stem}.ltr"
    if os.path.isfile(words):
        return (text for _, text in source.beside(words, words).lines())
    if os.path.isfile(letters):
        return ("".join(text.split()).replace("|", " ") for _, text in source.beside(letters, letters).lines())
    return None
