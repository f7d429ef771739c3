"""Computes the log-probability of a text under an emission: the sum over all CTC paths that decode to the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DELIMITERS = ("|", " ", "\N{LOWER ONE EIGHTH BLOCK}")  # the last one is of SentencePiece


class Speller:
    """Spells texts with the labels of a model."""

    def __init__(self, labels: Sequence[str], blank: int) -> None:
        """Look at the labels of a model, in the order of an emission's columns."""
        self._blank = blank
        self._index = {label: place for place, label in enumerate(labels) if place != blank}
        self._delimiter = next((self._index[each] for each in _DELIMITERS if each in self._index), None)
        # With a label of several letters, a text would have several spellings. Names such as <unk> are no letters.
        letters = [label for label in self._index if not (label[:1] in "<[" and label[-1:] in ">]")]
        self._letters = all(len(label) == 1 for label in letters)

    def spell(self, text: str) -> list[list[int]] | None:
        """Return the label sequences that are decoded to a text.

        The delimiter may stand before the first and after the last word. Sequences with two delimiters between words
        are left out. Without a delimiter, every label is a word.

        Returns:
            The sequences, or `None` if the labels cannot spell the text, in its own case, in upper or in lower case.
        """
        for written in (text, text.upper(), text.lower()):
            spelled = self._as_written(written.split())
            if spelled is not None:
                return spelled
        return None

    def _as_written(self, words: Sequence[str]) -> list[list[int]] | None:
        if self._delimiter is None:
            known = all(word in self._index for word in words)
            return [[self._index[word] for word in words]] if known else None
        if not self._letters or not {letter for word in words for letter in word} <= self._index.keys():
            return None
        spelled: list[int] = []
        for word in words:
            spelled += [self._delimiter, *(self._index[letter] for letter in word)]
        if not spelled:
            return [[], [self._delimiter]]
        return [[*spelled[first:], *last] for first in (0, 1) for last in ([], [self._delimiter])]

    def logprobs(self, emission: NDArray[np.floating], texts: Sequence[str]) -> list[float | None]:
        """Return the log-probability of each text, in nats; `None` if it cannot be spelled.

        Args:
            emission: `(frames, labels)` log-probabilities.
            texts: The texts.
        """
        spelled = [self.spell(text) for text in texts]
        sequences = [sequence for each in spelled if each for sequence in each]
        found = iter(forward(emission, sequences, self._blank).tolist())
        return [None if each is None else float(np.logaddexp.reduce([next(found) for _ in each])) for each in spelled]


def forward(logprobs: NDArray[np.floating], sequences: Sequence[Sequence[int]], blank: int) -> NDArray[np.float64]:
    """Return the log-probability of each label sequence: the forward algorithm of CTC (Graves et al., ICML 2006).

    Args:
        logprobs: `(frames, labels)` log-probabilities.
        sequences: Label sequences without blanks.
        blank: Index of the blank label.

    Returns:
        `(sequences,)` log-probabilities; minus infinity if there are too few frames.
    """
    if not sequences:
        return np.empty(0)
    lengths = np.asarray([2 * len(sequence) + 1 for sequence in sequences])
    states = np.full((len(sequences), int(lengths.max())), blank)  # blanks between the labels, and as padding
    for row, sequence in enumerate(sequences):
        states[row, 1 : lengths[row] : 2] = sequence
    skips = np.full(states.shape, -np.inf)  # 0 where a path may go from one label to another without a blank
    skips[:, 2:][(states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])] = 0.0
    # A path has as yet no frame: it is before its first state, from where the first two states can be reached.
    alpha = np.full((len(sequences), states.shape[1] + 2), -np.inf)
    for number, frame in enumerate(np.asarray(logprobs, dtype=np.float64)):
        if number == 0:
            alpha[:, 2:4] = frame[states[:, :2]]
            continue
        stay_or_step = np.logaddexp(alpha[:, 2:], alpha[:, 1:-1])
        alpha[:, 2:] = np.logaddexp(stay_or_step, alpha[:, :-2] + skips) + frame[states]
    if not len(logprobs):
        return np.where(lengths == 1, 0.0, -np.inf)
    rows = np.arange(len(sequences))
    before_last = np.where(lengths > 1, alpha[rows, lengths], -np.inf)
    return np.asarray(np.logaddexp(alpha[rows, lengths + 1], before_last))
