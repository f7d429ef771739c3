"""The beam search of flashlight-text, over windows of an utterance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Labels

WINDOW_FRAMES = 1500
"""The longest stretch that is searched at once. With 50 hypotheses, flashlight-text keeps 67 kB for each
frame, which makes 100 MB."""
_NEVER = -1e9
"""The log-probability of what must not happen."""


@dataclass(frozen=True, slots=True)
class Found:
    """A hypothesis.

    Attributes:
        labels: `(frames,)` the label of each frame.
        logprobs: `(frames,)` the log-probabilities of these labels.
        score: What the search ranks hypotheses by: the log-probability of all paths with these words, and what the
            language model, the words and the hotwords add.
        words: The words as the lexicon writes them; empty if no word of the lexicon has a spelling of its own.
    """

    labels: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    score: float
    words: tuple[str, ...] = ()


class Search:
    """Finds the best hypotheses of an emission."""

    def __init__(
        self,
        decoder: Any,
        keeps: Sequence[Any],
        labels: Labels,
        nbest: int,
        written: Sequence[str] | None = None,
        whole_words: bool = False,
    ) -> None:
        """Create a search.

        Args:
            decoder: A decoder of flashlight-text.
            keeps: Objects that the decoder uses. They must live as long as it does.
            labels: Labels of the model.
            nbest: Number of hypotheses to find.
            written: The words of the lexicon by their index, if they are not written as they are spelled.
            whole_words: Whether the decoder knows only whole words, each of which ends with the delimiter.
        """
        self._decoder, self._keeps, self._labels, self._nbest = decoder, keeps, labels, nbest
        self._written, self._whole_words = written, whole_words
        self._delimiter = delimiter_of(labels)
        self._boundary = labels.blank if self._delimiter is None else self._delimiter

    def __call__(self, logits: NDArray[np.float32]) -> list[Found]:
        """Return the best hypotheses of an utterance, the best one first. No two have the same text.

        Args:
            logits: `(frames, labels)`.
        """
        found = [Found(np.zeros(0, np.int64), np.zeros(0, np.float32), 0.0)]
        for window in _windows(_log_softmax(logits), self._boundary, self._labels.blank):
            pairs = itertools.product(found, self._search(window))
            found = sorted(itertools.starmap(_joined, pairs), key=lambda each: -each.score)[: self._nbest]
        return found

    def _search(self, logprobs: NDArray[np.float32]) -> list[Found]:
        """Return the best hypotheses of a window, `(frames, labels)`."""
        frames = len(logprobs)
        if self._whole_words:
            # The recording may end with a word that no delimiter follows. So one more frame is a delimiter or a blank.
            end = np.full((1, logprobs.shape[1]), _NEVER, np.float32)
            end[0, [self._boundary, self._labels.blank]] = 0.0
            logprobs = np.concatenate([logprobs, end])
        found: dict[tuple[Any, ...], Found] = {}
        for result in self._decoder.decode(logprobs.ctypes.data, *logprobs.shape):
            # The first and the last token stand for the silence around the recording.
            path = np.asarray(result.tokens[1 : frames + 1], np.int64)
            words = () if self._written is None else tuple(self._written[word] for word in result.words if word >= 0)
            each = Found(path, logprobs[np.arange(frames), path], result.score, words)
            found.setdefault((words, self._words(path)), each)
            if len(found) == self._nbest:
                break
        return [*found.values()]

    def _words(self, path: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
        """Return the labels of each word of a path."""
        runs = [label for label, _ in itertools.groupby(path.tolist())]
        said = [label for label in runs if label != self._labels.blank and label not in self._labels.silent]
        words = itertools.groupby(said, lambda label: label == self._delimiter)
        return tuple(tuple(letters) for between, letters in words if not between)


def delimiter_of(labels: Labels) -> int | None:
    """Return the index of the label between words; `None` if every label is a word."""
    return labels.names.index(labels.delimiter) if labels.delimiter in labels.names else None


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `(frames, labels)` log-probabilities, contiguous, as flashlight-text reads them."""
    shifted = logits.astype(np.float32) - logits.max(axis=1, keepdims=True)
    return np.ascontiguousarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float32)


def _windows(logprobs: NDArray[np.float32], boundary: int, blank: int) -> Iterator[NDArray[np.float32]]:
    """Cut the log-probabilities into windows, each of which ends after a word.

    That is a frame whose best label is the boundary. If there is none, the window ends after its longest silence.

    Args:
        logprobs: `(frames, labels)`.
        boundary: The label between words, or the blank where every label is a word.
        blank: The blank.
    """
    best = logprobs.argmax(axis=1)
    first = 0
    while first < len(logprobs):
        last = first + WINDOW_FRAMES
        if last < len(logprobs):
            ends = np.flatnonzero((best[first : last - 1] == boundary) & (best[first + 1 : last] != boundary))
            last = first + (int(ends[-1]) + 1 if len(ends) else _end_of_silence(best[first:last] == blank))
        yield logprobs[first:last]
        first = last


def _end_of_silence(silent: NDArray[np.bool_]) -> int:
    """Return the frame after the longest run of silent frames, `(frames,)`; the number of frames if none is silent."""
    changes = np.flatnonzero(np.diff(silent, prepend=False, append=False))
    begins, ends = changes[::2], changes[1::2]
    return int(ends[np.argmax(ends - begins)]) if len(ends) else len(silent)


def _joined(left: Found, right: Found) -> Found:
    return Found(
        np.concatenate([left.labels, right.labels]),
        np.concatenate([left.logprobs, right.logprobs]),
        left.score + right.score,
        left.words + right.words,
    )
