"""Aligns a transcript with its reference, word by word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Literal

from rapidfuzz.distance import Levenshtein

from pipeline.scoring.normalisers import standard

MAX_WORDS = 400
"""Longer texts are not aligned, because the time grows with the product of their lengths."""

Operation = Literal["equal", "substitution", "deletion", "insertion"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of aligned words of reference and transcript. A missing word is empty."""

    operation: Operation
    reference: str
    text: str


def side_by_side(reference: str, text: str) -> list[Pair] | None:
    """Align the words of two texts. They are normalised to compare them, but returned as they were written.

    Returns:
        The pairs, or `None` if a text has more than `MAX_WORDS` words.
    """
    if max(reference.count(" "), text.count(" ")) >= MAX_WORDS:
        return None
    expected, found = _words(reference, _normalised), _words(text, _normalised)
    pairs: list[Pair] = []
    left, right = [key for key, _ in expected], [key for key, _ in found]
    for step in Levenshtein.opcodes(left, right):
        ours, theirs = range(step.src_start, step.src_end), range(step.dest_start, step.dest_end)
        for one, other in zip_longest(ours, theirs):
            operation = _operation(step.tag, one, other)
            shown = ("" if one is None else expected[one][1], "" if other is None else found[other][1])
            pairs.append(Pair(operation, *shown))
    return pairs


# A table of utterances has the same words again and again.
_normalised = lru_cache(maxsize=50_000)(standard)


@dataclass(frozen=True, slots=True)
class Triple:
    """A word of the reference and what two transcripts have in its place. A missing word is empty.

    Attributes:
        reference: The word; empty where a transcript has a word too many.
        a, b: Words of the transcripts.
        wrong_a, wrong_b: Whether they are wrong.
    """

    reference: str
    a: str
    b: str
    wrong_a: bool
    wrong_b: bool


def three_way(reference: str, a: str, b: str) -> list[Triple] | None:
    """Align two transcripts with their reference, word by word.

    Returns:
        The words, or `None` if a text has more than `MAX_WORDS` words.
    """
    of_a, of_b = side_by_side(reference, a), side_by_side(reference, b)
    if of_a is None or of_b is None:
        return None
    triples: list[Triple] = []
    for one, other in zip(_by_reference(of_a), _by_reference(of_b), strict=True):
        *added_a, last_a = one
        *added_b, last_b = other
        for left, right in zip_longest(added_a, added_b):
            triples.append(Triple("", left.text if left else "", right.text if right else "", bool(left), bool(right)))
        if last_a is not None and last_b is not None:
            wrong = (last_a.operation != "equal", last_b.operation != "equal")
            triples.append(Triple(last_a.reference, last_a.text, last_b.text, *wrong))
    return triples


def _by_reference(pairs: Sequence[Pair]) -> Iterator[list[Pair | None]]:
    """Yield the pairs of each word of the reference: insertions before the word, then the word.

    The insertions after the last word come last, followed by `None`.
    """
    begun: list[Pair | None] = []
    for pair in pairs:
        begun.append(pair)
        if pair.operation != "insertion":
            yield begun
            begun = []
    yield [*begun, None]


def _operation(tag: str, one: int | None, other: int | None) -> Operation:
    if tag == "equal":
        return "equal"
    return "insertion" if one is None else "deletion" if other is None else "substitution"


def _words(text: str, normalise: Callable[[str], str]) -> Sequence[tuple[str, str]]:
    """Return the normalised words, each with the word as written.

    A word that normalises to several, such as `twenty-one`, is shown as these. So is the whole text if it normalises to
    other words than its single words do.
    """
    found: list[tuple[str, str]] = []
    for written in text.split():
        keys = normalise(written).split()
        found += [(key, written if len(keys) == 1 else key) for key in keys]
    whole = normalise(text).split()
    return found if [key for key, _ in found] == whole else [(word, word) for word in whole]
