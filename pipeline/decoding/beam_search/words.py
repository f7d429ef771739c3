"""Words and how the labels of a model spell them: lexicons, lists of hotwords, the words of a language model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.records import Labels
from pipeline.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class Entry:
    """A word of a lexicon.

    Attributes:
        word: The word as the file has it.
        spelling: Indices of its labels, without the delimiter.
        given: Whether the file says how the word is spelled.
    """

    word: str
    spelling: tuple[int, ...]
    given: bool = False


class Speller:
    """Spells words with the labels of a model."""

    def __init__(self, labels: Labels) -> None:
        """Letters are the labels that are part of a text: neither the blank, nor the delimiter, nor a silent one."""
        self._indices = {
            name: index
            for index, name in enumerate(labels.names)
            if name and index != labels.blank and name != labels.delimiter and index not in labels.silent
        }
        longest_first = sorted(self._indices, key=len, reverse=True)
        self._letters = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __call__(self, word: str) -> tuple[int, ...]:
        """Return the labels of a word, in the case that the labels have; an empty tuple if they cannot spell it."""
        for form in (word, word.upper(), word.lower()):
            letters = self._letters.findall(form)
            if "".join(letters) == form:
                return self.of_labels(letters)
        return ()

    def of_labels(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the indices of labels, upper or lower case; an empty tuple if one of them is no letter."""
        found = []
        for name in names:
            index = next(
                (self._indices[form] for form in (name, name.upper(), name.lower()) if form in self._indices), -1
            )
            if index < 0:
                return ()
            found.append(index)
        return tuple(found)


def read_lines(key: str, path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without blanks around them.

    Raises:
        UserError: The file cannot be read, or is not UTF-8. The message begins with `decoder.<key>`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"decoder.{key}={path}: {reason}; give a text file with one word a line") from None
    return [line.strip() for line in lines if line.strip()]


def read_lexicon(path: Path, labels: Labels) -> list[Entry]:
    """Read a lexicon: a word a line, or a word and the labels that spell it.

    Raises:
        UserError: The file has no words, or a word that the labels cannot spell.
    """
    speller, entries = Speller(labels), []
    for line in read_lines("lexicon", path):
        word, *spelling = line.split()
        if spelling and spelling[-1] == labels.delimiter:
            spelling = spelling[:-1]  # lexicons of flashlight end each spelling with the delimiter
        found = speller.of_labels(spelling) if spelling else speller(word)
        if not found:
            raise UserError(
                f"decoder.lexicon={path}: the labels of the model cannot spell {line!r}; "
                f"they are {' '.join(labels.names)}; remove the word, or write it with these letters"
            )
        entries.append(Entry(word, found, given=bool(spelling)))
    if not entries:
        raise UserError(f"decoder.lexicon={path}: has no words; write one word a line")
    return entries


def read_hotwords(path: Path, weight: float, labels: Labels, lexicon: Iterable[Entry]) -> dict[Entry, float]:
    """Read words and their weights: a word a line, with its own weight or without.

    Args:
        path: The file.
        weight: Weight of a word without one.
        labels: Labels of the model.
        lexicon: Words that are spelled as the lexicon says.

    Raises:
        UserError: A line is neither, or the labels cannot spell the word.
    """
    speller, found = Speller(labels), {}
    known = {entry.word: entry for entry in lexicon}
    for line in read_lines("hotwords", path):
        word, *rest = line.split()
        try:
            (own,) = [float(each) for each in rest] or [weight]
        except ValueError:
            own = math.nan
        if not math.isfinite(own):
            raise UserError(
                f"decoder.hotwords={path}: {line!r} is neither a word nor a word and its weight, as each line must be"
            )
        entry = known.get(word) or Entry(word, speller(word))
        if not entry.spelling:
            raise UserError(
                f"decoder.hotwords={path}: the labels of the model cannot spell {word!r}; "
                f"they are {' '.join(labels.names)}; remove the word, or write it with these letters"
            )
        found[entry] = own
    if not found:
        raise UserError(f"decoder.hotwords={path}: has no words; write one word a line")
    return found
