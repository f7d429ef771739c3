"""Greedy CTC decoding: take the best label of each frame, merge repeats and drop blanks.

The label sequence equals that of `GreedyCTCDecoder` in torchaudio's tutorial "Speech Recognition with Wav2Vec2":
https://docs.pytorch.org/audio/stable/tutorials/speech_recognition_pipeline_tutorial.html

All utterances are decoded at once, in arrays over the frames, the labels and the words of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Labels, UtteranceEmission
from pipeline.records.transcripts import Texts, Transcripts, offsets_of


@dataclass
class Options:
    """`decoder.*` of `decoder=greedy`, which has no options."""


class Decoder:
    """Decodes the best paths of emissions."""

    wants_logits: ClassVar[bool] = False

    def __init__(self, options: Options, labels: Labels, seconds_per_frame: float) -> None:
        """Create the decoder. `labels` are in the order of the logits; `seconds_per_frame` is the stride in seconds."""
        self._blank = labels.blank
        # Without a delimiter, each label is a word.
        self._delimits = np.asarray([bool(name) and name == labels.delimiter for name in labels.names])
        self._silent = np.isin(np.arange(len(labels.names)), [*labels.silent])
        self._lower_case = labels.lower_case
        self._every_label_is_a_word = not labels.delimiter
        self._space = len(labels.names)
        self._spelling = _Spelling([*labels.names, " "])
        self._seconds_per_frame = seconds_per_frame

    def __call__(self, emissions: Sequence[UtteranceEmission]) -> Transcripts:
        """Decode utterances."""
        num_frames = np.asarray([len(each.path.labels) for each in emissions])
        frames = offsets_of(num_frames)
        labels, starts, ends = _runs(np.concatenate([each.path.labels for each in emissions]), frames, self._blank)
        ctc_text = self._spelling(labels, np.searchsorted(starts, frames))
        spoken = ~self._silent[labels]
        labels, starts, ends = labels[spoken], starts[spoken], ends[spoken]
        runs = np.searchsorted(starts, frames)  # the first run of each utterance
        letter, begins, finishes = self._words(labels, runs)
        first, last = starts[begins], ends[finishes]
        words = np.searchsorted(begins, runs)  # the first word of each utterance
        owner = np.repeat(np.arange(len(emissions)), np.diff(words))  # the utterance of each word

        # Sums over the frames of all utterances would round differently in another batch. So each utterance has its own
        # sums. They begin with 0, so that an utterance has one more sum than it has frames.
        sums = np.zeros(len(emissions) + frames[-1])
        places = frames + np.arange(len(frames))
        for emission, (left, right) in zip(emissions, pairwise(places.tolist()), strict=True):
            np.cumsum(emission.path.logprobs, dtype=np.float64, out=sums[left + 1 : right])
        start_s = np.asarray([each.start_s for each in emissions])[owner]
        before = frames[owner]

        letters = offsets_of(letter)  # the number of letters before each run
        spelled = labels[letter]
        word_letters = np.append(letters[begins], len(spelled))
        follows = np.diff(owner, prepend=-1) == 0  # whether another word of the utterance comes before
        text = self._spelling(
            np.insert(spelled, word_letters[:-1][follows], self._space), letters[runs] + offsets_of(follows)[words]
        )
        return Transcripts(
            text=self._cased(text),
            ctc_text=ctc_text,
            avg_logprob=sums[places[1:] - 1] / np.maximum(1, num_frames),
            num_frames=num_frames.astype(np.int32),
            word_offsets=words.astype(np.int32),
            words=self._cased(self._spelling(spelled, word_letters)),
            start_s=start_s + (first - before) * self._seconds_per_frame,
            end_s=start_s + (last - before) * self._seconds_per_frame,
            probability=np.exp((sums[last + owner] - sums[first + owner]) / (last - first)),
        )

    def _cased(self, texts: Texts) -> Texts:
        """The texts in the case that they are to have. A letter's lower case may depend on its place in the word."""
        return Texts.of(text.lower() for text in texts.to_list()) if self._lower_case else texts

    def _words(
        self, labels: NDArray[np.int64], runs: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Find the words in the runs of all utterances.

        Args:
            labels: `(runs,)` the label of each run.
            runs: `(utterances + 1,)` the first run of each utterance.

        Returns:
            `(runs,)` whether a run is a part of a word, and `(words,)` the first and the last run of each word.
        """
        letter = ~self._delimits[labels]
        apart = np.full(len(labels) + 1, self._every_label_is_a_word)  # whether no word has both this run and the last
        apart[runs] = True
        apart[1:] |= ~letter
        apart[:-1] |= ~letter
        return letter, np.flatnonzero(letter & apart[:-1]), np.flatnonzero(letter & apart[1:])


def _runs(
    path: NDArray[np.int64], frames: NDArray[np.int32], blank: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find the stretches of equal labels without the blanks; none goes from one utterance on into the next.

    Args:
        path: `(frames,)` the labels of the frames of all utterances.
        frames: `(utterances + 1,)` the first frame of each utterance.
        blank: The label to leave out.

    Returns:
        The label, the first frame and the last frame (exclusive) of each stretch, each `(runs,)`.
    """
    new = np.empty(len(path) + 1, bool)
    new[1:-1] = path[1:] != path[:-1]
    new[frames] = True
    bounds = np.flatnonzero(new)
    labels = path[bounds[:-1]]
    kept = labels != blank
    return labels[kept], bounds[:-1][kept], bounds[1:][kept]


class _Spelling:
    """Spells sequences of labels as texts."""

    def __init__(self, names: Sequence[str]) -> None:
        """Keep the UTF-8 of each label, as the row of a table that is as wide as the longest."""
        encoded = [np.frombuffer(name.encode(), np.uint8) for name in names]
        self._lengths = np.asarray([len(each) for each in encoded])
        self._used = np.arange(self._lengths.max()) < self._lengths[:, None]
        self._table = np.zeros(self._used.shape, np.uint8)
        self._table[self._used] = np.concatenate(encoded)

    def __call__(self, labels: NDArray[np.int64], bounds: NDArray[np.integer]) -> Texts:
        """Spell texts.

        Args:
            labels: `(labels,)` the labels of all texts.
            bounds: `(texts + 1,)` the first label of each text.
        """
        return Texts(self._table[labels][self._used[labels]], offsets_of(self._lengths[labels])[bounds])
