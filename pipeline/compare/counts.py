"""Counts, for each utterance, the errors of both runs and the words in which their texts differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from pipeline.compare.matching import Block
from pipeline.compare.schemas import COUNTS, OF_REFERENCES, WORDS
from pipeline.scoring import counting
from pipeline.scoring.normalisers import standard

MAX_WORDS = 10_000
_MAX_DISTINCT = 1_000_000
MISSING = -1
"""The counts of an utterance without a reference."""


class WordTally:
    """Counts how often a word of the references is right in one run and wrong in the other."""

    def __init__(self) -> None:
        self._only: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    def add(self, reference: Sequence[str], words_a: Sequence[str], words_b: Sequence[str]) -> None:
        """Add the words of an utterance."""
        in_a, in_b = counting.hits(words_a, reference), counting.hits(words_b, reference)
        for only, places in zip(self._only, (in_a & ~in_b, in_b & ~in_a), strict=True):
            only.update(reference[place] for place in np.flatnonzero(places).tolist())
            if len(only) > _MAX_DISTINCT:  # bounds memory: single words are not frequent
                for word in [word for word, count in only.items() if count == 1]:
                    del only[word]

    def table(self) -> pa.Table:
        """Return the `MAX_WORDS` most frequent words, with schema `WORDS`."""
        of_a, of_b = self._only
        words = sorted({*of_a, *of_b}, key=lambda word: (-of_a[word] - of_b[word], word))[:MAX_WORDS]
        rows = [{"word": word, "only_a": of_a[word], "only_b": of_b[word]} for word in words]
        return pa.Table.from_pylist(rows, schema=WORDS)


def count(block: Block, tally: WordTally) -> tuple[NDArray[np.int32], list[str | None], int]:
    """Count the errors and the differences of some utterances.

    The reference is that of the first run, or of the second if the first has none. Counts in the tables are used if
    they were made with the same reference and the present version of the normaliser.

    Args:
        block: The utterances.
        tally: Counts the words that only one run has right.

    Returns:
        `COUNTS` of each utterance, `(utterances, counts)`; the references; and how many utterances have another
        reference in the second run.
    """
    counts = np.full((len(block.a), len(COUNTS)), MISSING, dtype=np.int32)
    stored = [_stored(table) for table in (block.a, block.b)]
    columns = (table[name].to_pylist() for name in ("text", "reference") for table in (block.a, block.b))
    references: list[str | None] = []
    others = 0
    for row, (text_a, text_b, reference_a, reference_b) in enumerate(zip(*columns, strict=True)):
        normal_a = standard(text_a)
        normal_b = normal_a if text_b == text_a else standard(text_b)
        words_a, words_b = normal_a.split(), normal_b.split()
        distance = 0 if normal_a == normal_b else Levenshtein.distance(words_a, words_b)
        counts[row, OF_REFERENCES:] = distance, len(words_a), len(words_b)
        reference = reference_b if reference_a is None else reference_a
        references.append(reference)
        if reference is None:
            continue
        others += reference_b is not None and reference_b != reference
        for side, (text, own) in enumerate(((text_a, reference_a), (text_b, reference_b))):
            errors = stored[side][row] if own == reference else (MISSING,)
            if errors[0] == MISSING:
                found = counting.count_errors(text, reference)
                errors = [getattr(found, name) for name in counting.COUNTS]
            counts[row, [side, 2, 3 + side, 5]] = errors
        if distance:
            tally.add(standard(reference).split(), words_a, words_b)
    return counts, references, others


def errors_now(table: pa.Table) -> NDArray[np.int32]:
    """Return the errors of some transcripts after the present normaliser, `(utterances, 4)`.

    Args:
        table: Transcripts, as `matching.read_transcripts` reads them. Those without a reference have `MISSING`.
    """
    counts = _stored(table)
    for row in np.flatnonzero((counts[:, 0] == MISSING) & table["reference"].is_valid().to_numpy()).tolist():
        found = counting.count_errors(table["text"][row].as_py(), table["reference"][row].as_py())
        counts[row] = [getattr(found, name) for name in counting.COUNTS]
    return counts


def _stored(table: pa.Table) -> NDArray[np.int32]:
    """Return the errors of a table, `(utterances, 4)`; `MISSING` if they were not counted after the same normaliser."""
    counts = np.stack([table[name].fill_null(MISSING).to_numpy() for name in counting.COUNTS], axis=1)
    counts[~table["counted"].to_numpy()] = MISSING
    return counts
