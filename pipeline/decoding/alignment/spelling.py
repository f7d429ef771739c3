"""Spells a reference with the labels of a model, word by word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.records import Labels
from pipeline.scoring.normalisers import standard

STAR = "*"
"""How the star is written: the label for what the labels of the model cannot spell."""
_AROUND = ".,;:!?\"'()[]\u2026\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e"
"""Punctuation that may stand around a number."""
_NUMBER = re.compile(r"\d+(?:[.,:/\u2044]\d+)*")


@dataclass(frozen=True, slots=True)
class SpelledWord:
    """A word of a reference.

    Attributes:
        word: The word as the reference has it.
        labels: Its labels; empty if the word is only punctuation.
    """

    word: str
    labels: Sequence[int]


class Speller:
    """Spells references.

    Attributes:
        star: Index of the star, which follows the labels of the model.
    """

    def __init__(self, labels: Labels, numbers: Callable[[str], str | None] | None = None) -> None:
        """Look at the labels.

        Args:
            labels: The labels of the model.
            numbers: Writes a whole number as words, or returns `None`; without it, numbers become the star.
        """
        self.star = len(labels.names)
        self._numbers = numbers
        unspoken = {labels.blank, *labels.silent}
        found = [(name, at) for at, name in enumerate(labels.names) if at not in unspoken and name != labels.delimiter]
        # Of two labels that differ only in case, the one in lower case counts, because references are compared so.
        found.sort(key=lambda item: item[0] == item[0].lower())
        self._labels = {name.lower(): at for name, at in found}
        self._longest = max(map(len, self._labels), default=1)
        self._names = [name.lower() if labels.lower_case else name for name in labels.names]

    def __call__(self, reference: str) -> list[SpelledWord]:
        """Spell the words of a reference, which are separated by spaces."""
        return [SpelledWord(word, self._spell(word)) for word in reference.split()]

    def name(self, label: int) -> str:
        """Return a label as texts have it."""
        return STAR if label == self.star else self._names[label]

    def written(self, words: Sequence[SpelledWord]) -> str:
        """Return the words as they were spelled, separated by single spaces."""
        return " ".join("".join(map(self.name, word.labels)) for word in words if word.labels)

    def _spell(self, word: str) -> list[int]:
        labels: list[int] = []
        for part in self._parts(unicodedata.normalize("NFKC", word)):
            for label in [self.star] if part is None else self._letters(standard(part).replace(" ", "")):
                if label != self.star or labels[-1:] != [self.star]:  # one star for all that cannot be spelled
                    labels.append(label)
        return labels

    def _parts(self, word: str) -> Iterator[str | None]:
        """Yield the parts of a word, with its number in words; `None` for a number that cannot be spelled.

        A number with anything but punctuation around it is not spelled: 21st, $5, 1980s.
        """
        done = 0
        bare = word.strip(_AROUND)
        for match in _NUMBER.finditer(word):
            if not all(digit in self._labels for digit in match[0]):
                yield word[done : match.start()]
                yield self._numbers(bare) if self._numbers is not None and match[0] == bare else None
                done = match.end()
        yield word[done:]

    def _letters(self, text: str) -> Iterator[int]:
        """Yield the labels of a normalised text. A letter without a label takes that of the letter without accents."""
        at = 0
        while at < len(text):
            lengths = range(min(self._longest, len(text) - at), 0, -1)
            length = next((length for length in lengths if text[at : at + length] in self._labels), 0)
            if length:
                yield self._labels[text[at : at + length]]
            elif text[at] != "'":  # labels without an apostrophe leave it out
                plain = unicodedata.normalize("NFD", text[at])[0]
                yield self._labels.get(plain, self.star)
            at += length or 1
