"""Reads TextGrids of Praat, in their long and their short form.

Only what stands alone counts, as Praat's manual says: texts in quotation marks, numbers, and flags such as `<exists>`
(https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.datasets.formats.source import Source
from pipeline.results.recording_names import stem_of
from pipeline.stages.corrections.correction import Correction
from pipeline.stages.corrections.tiers import Tier, corrections_of

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?!\S)|(?<!\S)(<\w+>)(?!\S)')


def read(source: Source) -> Iterator[Correction]:
    """Yield the intervals of the tiers of a file. The recording is the one that has the name of the file.

    Raises:
        UserError: The file cannot be read, or is no TextGrid.
    """
    text = "".join(line for _, line in source.lines())
    try:
        tiers = [*_tiers(text)]
    except (ValueError, StopIteration, RuntimeError):
        raise source.refusal("TextGrid", "cannot be read; save it again in Praat as a text file") from None
    yield from corrections_of(source.name, stem_of(source.path), tiers)


def _tiers(text: str) -> Iterator[Tier]:
    tokens = iter([match.groups() for match in _TOKEN.finditer(text)])

    def string() -> str:
        found, _, _ = next(tokens)
        if found is None:
            raise ValueError("expected a text")
        return found.replace('""', '"')

    def number() -> float:
        _, found, _ = next(tokens)
        if found is None:
            raise ValueError("expected a number")
        return float(found)

    if (string(), string()) != ("ooTextFile", "TextGrid"):
        raise ValueError("no TextGrid")
    number(), number()
    if next(tokens)[2] != "<exists>":
        return
    for _ in range(int(number())):
        kind, name = string(), string()
        number(), number()
        rows = range(int(number()))
        if kind == "IntervalTier":
            yield Tier(name, tuple((number(), number(), string()) for _ in rows))
        else:
            for _ in rows:  # points have no length
                number(), string()
