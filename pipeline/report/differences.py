"""A transcript beside its reference, word by word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from rapidfuzz.distance import Levenshtein

from pipeline.scoring.normalisers import standard

MAX_WORDS = 400
"""Words of either text up to which they are set side by side; the work grows with their product."""

Operation = Literal["equal", "substitution", "deletion", "insertion"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A place in the alignment: the word of the reference, that of the text; empty where there is none."""

    operation: Operation
    reference: str
    text: str


def side_by_side(reference: str, text: str) -> list[Pair] | None:
    """Align the words of two texts, compared as the column `wer` compares them, shown as they were written.

    Returns:
        The places, or `None` where the texts are too long for it.
    """
    if max(reference.count(" "), text.count(" ")) >= MAX_WORDS:
        return None
    expected, found = _words(reference, standard), _words(text, standard)
    pairs: list[Pair] = []
    left, right = [key for key, _ in expected], [key for key, _ in found]
    for step in Levenshtein.opcodes(left, right):
        ours, theirs = range(step.src_start, step.src_end), range(step.dest_start, step.dest_end)
        for one, other in zip_longest(ours, theirs):
            operation = _operation(step.tag, one, other)
            shown = ("" if one is None else expected[one][1], "" if other is None else found[other][1])
            pairs.append(Pair(operation, *shown))
    return pairs


def _operation(tag: str, one: int | None, other: int | None) -> Operation:
    if tag == "equal":
        return "equal"
    return "insertion" if one is None else "deletion" if other is None else "substitution"


def _words(text: str, normalise: Callable[[str], str]) -> Sequence[tuple[str, str]]:
    """Words as they are compared, each with what is shown of it: as it was written, where that is one word there."""
    written = text.split()
    compared = [normalise(word) for word in written]
    whole = normalise(text).split()
    if [word for word in compared if word] == whole:
        return [(key, word) for key, word in zip(compared, written, strict=True) if key]
    return [(word, word) for word in whole]
