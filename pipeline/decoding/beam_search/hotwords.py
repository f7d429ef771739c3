"""Language models that prefer hotwords: they wrap another language model and add to its scores.

The score of a text is that of the wrapped model times its weight, plus the weight of each hotword in the text. Nothing
else changes, so a hotword of weight 0 changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashlight.lib.text.decoder import LM


class WordBoost(LM):  # type: ignore[misc]
    """Prefers hotwords in a search with a lexicon, whose language model scores whole words."""

    def __init__(self, model: LM, lm_weight: float, weights: Mapping[int, float]) -> None:
        """Wrap a model. `weights` are those of the hotwords, by their index in the dictionary of words."""
        super().__init__()
        self._model, self._lm_weight, self._weights = model, lm_weight, weights

    def start(self, start_with_nothing: bool) -> Any:
        """Return the state before the first word."""
        return self._model.start(start_with_nothing)

    def score(self, state: Any, word: int) -> tuple[Any, float]:
        """Return the state after a word, and the word's score."""
        after, score = self._model.score(state, word)
        return after, self._lm_weight * score + self._weights.get(word, 0.0)

    def finish(self, state: Any) -> tuple[Any, float]:
        """Return the state after the last word, and the score of the end."""
        after, score = self._model.finish(state)
        return after, self._lm_weight * score


class LabelBoost(LM):  # type: ignore[misc]
    """Prefers hotwords in a search without a lexicon, whose language model scores labels.

    The letters of a hotword add shares of its weight, so that the search keeps the beginning of a hotword. The shares
    are taken back where the word goes on in another way.
    """

    def __init__(self, model: LM, lm_weight: float, weights: Mapping[tuple[int, ...], float], delimiter: int) -> None:
        """Wrap a model.

        Args:
            model: The model.
            lm_weight: Factor of its scores.
            weights: Weights of the hotwords by their spelling, indices of labels.
            delimiter: Index of the label between words.
        """
        super().__init__()
        self._model, self._lm_weight = model, lm_weight
        shares: dict[tuple[int, ...], float] = {(): 0.0}  # by the letters of a word so far
        for spelling, weight in weights.items():
            for length in range(1, len(spelling) + 1):
                share = weight * length / len(spelling)
                shares[spelling[:length]] = max(share, shares.get(spelling[:length], share))
        places = {begun: place for place, begun in enumerate(shares)}
        lost = len(places)  # no hotword begins with the letters
        # What follows the letters at a place: for each label the next place, and what the label adds.
        self._steps: list[dict[int, tuple[int, float]]] = [{} for _ in range(lost + 1)]
        self._others = [(lost, -share) for share in shares.values()] + [(lost, 0.0)]
        for begun, share in shares.items():
            self._steps[places[begun]][delimiter] = 0, weights.get(begun, 0.0) - share
            if begun:
                self._steps[places[begun[:-1]]][begun[-1]] = places[begun], share - shares[begun[:-1]]
        self._steps[lost][delimiter] = 0, 0.0
        self._delimiter = delimiter
        self._places: dict[Any, int] = {}  # of the states of this utterance

    def start(self, start_with_nothing: bool) -> Any:
        """Return the state before the first label."""
        state = self._model.start(start_with_nothing)
        self._places = {state: 0}
        return state

    def score(self, state: Any, label: int) -> tuple[Any, float]:
        """Return the state after a label, and the label's score."""
        after, score = self._model.score(state, label)
        place = self._places[state]
        self._places[after], more = self._steps[place].get(label, self._others[place])
        return after, self._lm_weight * score + more

    def finish(self, state: Any) -> tuple[Any, float]:
        """Return the state after the last label, and the score of the end, which ends a word too."""
        after, score = self._model.finish(state)
        return after, self._lm_weight * score + self._steps[self._places[state]][self._delimiter][1]
