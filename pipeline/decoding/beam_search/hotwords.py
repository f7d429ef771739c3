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
        self._model, self._lm_weight, self._weights, self._delimiter = model, lm_weight, weights, delimiter
        self._shares: dict[tuple[int, ...], float] = {(): 0.0}
        for spelling, weight in weights.items():
            for length in range(1, len(spelling) + 1):
                share = weight * length / len(spelling)
                self._shares[spelling[:length]] = max(share, self._shares.get(spelling[:length], share))
        self._begun: dict[Any, tuple[int, ...] | None] = {}

    def start(self, start_with_nothing: bool) -> Any:
        """Return the state before the first label."""
        state = self._model.start(start_with_nothing)
        self._begun = {state: ()}  # the letters of each state's word, or `None` if no hotword begins with them
        return state

    def score(self, state: Any, label: int) -> tuple[Any, float]:
        """Return the state after a label, and the label's score."""
        after, score = self._model.score(state, label)
        begun = self._begun[state]
        if label == self._delimiter:
            self._begun[after] = ()
            return after, self._lm_weight * score + self._ended(begun)
        goes_on = None if begun is None or (*begun, label) not in self._shares else (*begun, label)
        self._begun[after] = goes_on
        return after, self._lm_weight * score + self._share(goes_on) - self._share(begun)

    def finish(self, state: Any) -> tuple[Any, float]:
        """Return the state after the last label, and the score of the end."""
        after, score = self._model.finish(state)
        return after, self._lm_weight * score + self._ended(self._begun[state])

    def _share(self, begun: tuple[int, ...] | None) -> float:
        return 0.0 if begun is None else self._shares[begun]

    def _ended(self, begun: tuple[int, ...] | None) -> float:
        """What the end of a word adds: the whole weight of a hotword in place of its shares."""
        return 0.0 if begun is None else self._weights.get(begun, 0.0) - self._shares[begun]
