"""Aligns the emission of an utterance with its reference.

The labels that spell nothing, which are the blank, the delimiter between words and silent labels, count as one: its
probability is their sum. So it does not matter where a model writes delimiters, and a model without them is aligned in
the same way.

The star stands for what the labels cannot spell. In torchaudio's tutorial its log-probability is 0, which is better
than any label, so that a star takes the frames of its neighbours, and a reference with stars seems to be better than
the transcript. Here a star is as good as the best label of the frame, less `STAR_COST`. So it costs a reference nothing
to speak of, and yet its neighbours and the silence around it keep their frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.alignment.spelling import SpelledWord, Speller
from pipeline.records import Labels

STAR_COST = 0.01
_LOWEST = -1000.0
"""Scores below this are this one, so that all are finite."""

Reason = Literal["no_reference", "nothing_spelled", "too_few_frames"]
FindStates = Callable[[NDArray[np.float32], NDArray[np.int64], int], NDArray[np.int64]]
"""Finds the best path; see `pipeline.decoding.alignment.viterbi.best_states`."""


class AlignedWord(NamedTuple):
    """A word of a reference.

    Attributes:
        word: The word as the reference has it.
        start_s, end_s: Times in the file; `None` if the word has no labels.
        probability: Exponential of the mean log-probability over the word's frames; `None` likewise.
        llr: The word's share of the log-likelihood ratio; `None` likewise.
    """

    word: str
    start_s: float | None
    end_s: float | None
    probability: float | None
    llr: float | None


class AlignedCharacter(NamedTuple):
    """A label of a reference. The attributes are as those of a word; `*` is the star."""

    character: str
    start_s: float
    end_s: float
    probability: float


class Alignment(NamedTuple):
    """The alignment of an utterance with its reference.

    Attributes:
        spelled: The reference as it was spelled.
        words, characters: Its words and its labels.
        reference_logprob, transcript_logprob: Log-probability of the best path of the reference, and of all paths.
        llr_per_s: Their difference for each second of the utterance; 0 if nothing fits better than the reference.
        worst_llr: The lowest share of a word.
    """

    spelled: str
    words: list[AlignedWord]
    characters: list[AlignedCharacter]
    reference_logprob: float
    transcript_logprob: float
    llr_per_s: float
    worst_llr: float


class Aligner:
    """Aligns utterances."""

    def __init__(self, labels: Labels, seconds_per_frame: float, speller: Speller, find_states: FindStates) -> None:
        """Create the aligner.

        Args:
            labels: The labels, in the order of the logits.
            seconds_per_frame: Seconds from one frame to the next.
            speller: Spells references with these labels.
            find_states: Finds the best path.
        """
        self._blank = labels.blank
        delimiter = [at for at, name in enumerate(labels.names) if labels.delimiter and name == labels.delimiter]
        self._unspoken = sorted({labels.blank, *labels.silent, *delimiter})
        self._seconds_per_frame = seconds_per_frame
        self._speller = speller
        self._find_states = find_states

    def __call__(self, logprobs: NDArray[np.float32], reference: str | None, start_s: float) -> Alignment | Reason:
        """Align an utterance.

        Args:
            logprobs: `(frames, labels)` log-probabilities.
            reference: The reference.
            start_s: Where the utterance begins in its file, in seconds.

        Returns:
            The alignment, or the reason why there is none.
        """
        if reference is None:
            return "no_reference"
        words = self._speller(reference)
        labels = np.asarray([label for word in words for label in word.labels], np.int64)
        if not len(labels):
            return "nothing_spelled"
        if len(logprobs) < len(labels) + np.count_nonzero(labels[1:] == labels[:-1]):
            return "too_few_frames"
        scores, best = self._scores(logprobs)
        states = self._find_states(scores, labels, self._blank)
        spoken = states % 2 == 1
        ratios = scores[np.arange(len(states)), np.where(spoken, labels[(states - 1) // 2], self._blank)]
        ratio_sums = np.concatenate([[0.0], np.cumsum(ratios, dtype=np.float64)])
        best_sums = np.concatenate([[0.0], np.cumsum(best, dtype=np.float64)])
        numbers = np.arange(len(labels))
        begins, ends = (np.searchsorted(states, 2 * numbers + 1, side) for side in ("left", "right"))
        times = _Times(start_s, self._seconds_per_frame, ratio_sums + best_sums)
        aligned = _words(words, begins, ends, times, ratio_sums)
        return Alignment(
            spelled=self._speller.written(words),
            words=aligned,
            characters=[
                AlignedCharacter(self._speller.name(label), *times(begin, end))
                for label, begin, end in zip(labels.tolist(), begins.tolist(), ends.tolist(), strict=True)
            ],
            reference_logprob=float(best_sums[-1] + ratio_sums[-1]),
            transcript_logprob=float(best_sums[-1]),
            llr_per_s=float(ratio_sums[-1] / (len(states) * self._seconds_per_frame)),
            worst_llr=min(word.llr for word in aligned if word.llr is not None),
        )

    def _scores(self, logprobs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return log-probabilities less the best one of the frame, with the star as last column, and the best ones.

        The labels that spell nothing are in the column of the blank.
        """
        scores = np.full((len(logprobs), logprobs.shape[1] + 1), _LOWEST, np.float32)
        scores[:, :-1] = logprobs
        scores[:, self._unspoken] = _LOWEST
        scores[:, self._blank] = np.logaddexp.reduce(logprobs[:, self._unspoken], axis=1)
        best = scores[:, :-1].max(axis=1)
        scores[:, -1] = best - STAR_COST
        return np.maximum(scores - best[:, None], _LOWEST), best


class _Times(NamedTuple):
    """Turns frames into the times and the probability of what is in them."""

    start_s: float
    seconds_per_frame: float
    sums: NDArray[np.float64]

    def __call__(self, first: int, last: int) -> tuple[float, float, float]:
        mean = (self.sums[last] - self.sums[first]) / (last - first)
        times = (self.start_s + first * self.seconds_per_frame, self.start_s + last * self.seconds_per_frame)
        return *times, float(np.exp(mean))


def _words(
    words: Sequence[SpelledWord],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    times: _Times,
    ratios: NDArray[np.float64],
) -> list[AlignedWord]:
    """Return the words with their times.

    The frames between two words belong half to either, so that the shares of all words are the whole ratio.

    Args:
        words: The words.
        begins: First frame of each label.
        ends: The frame after the last one of each label.
        times: Turns frames into times.
        ratios: `(frames + 1,)` log-likelihood ratio of the frames before each frame.
    """
    lengths = [len(word.labels) for word in words if word.labels]
    firsts = np.cumsum([0, *lengths[:-1]])
    first, last = begins[firsts], ends[firsts + np.asarray(lengths) - 1]
    bounds = [0, *((last[:-1] + first[1:]) // 2).tolist(), len(ratios) - 1]
    found = iter(zip(first.tolist(), last.tolist(), np.diff(ratios[bounds]).tolist(), strict=True))
    aligned = []
    for word in words:
        if word.labels:
            begin, end, llr = next(found)
            aligned.append(AlignedWord(word.word, *times(begin, end), llr))
        else:
            aligned.append(AlignedWord(word.word, None, None, None, None))
    return aligned
