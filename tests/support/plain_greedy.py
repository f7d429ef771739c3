"""The greedy decoder for one utterance at a time, with an object for each word. The shipped one must equal it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Labels, UtteranceEmission
from pipeline.records.transcripts import Transcript, Word


class PlainDecoder:
    """Decodes the best path of one utterance."""

    def __init__(self, labels: Labels, seconds_per_frame: float) -> None:
        self._names = np.asarray(labels.names, dtype=object)
        self._blank = labels.blank
        self._delimiter = labels.delimiter
        self._silent, self._lower_case = [*labels.silent], labels.lower_case
        self._seconds_per_frame = seconds_per_frame

    def __call__(self, emission: UtteranceEmission) -> Transcript:
        """Decode one utterance."""
        path, logprobs = emission.path.labels, emission.path.logprobs
        starts = np.flatnonzero((np.diff(path, prepend=-1) != 0) & (path != self._blank))
        # A label lasts as long as the path repeats it. A word ends with the last frame of its last label.
        leaves = np.flatnonzero(np.diff(path, append=-1))
        ends = leaves[np.searchsorted(leaves, starts)] + 1
        ctc_text = "".join(self._names[path[starts]])
        spoken = ~np.isin(path[starts], self._silent)
        starts, ends = starts[spoken], ends[spoken]
        labels = self._names[path[starts]]
        total = np.concatenate([[0.0], np.cumsum(logprobs, dtype=np.float64)])
        words = []
        spans = [*self._spans_of_words(labels)]
        for left, right in spans:
            first, last = int(starts[left]), int(ends[right - 1])
            words.append(
                Word(
                    word=self._cased("".join(labels[left:right])),
                    start_s=emission.start_s + first * self._seconds_per_frame,
                    end_s=emission.start_s + last * self._seconds_per_frame,
                    probability=float(np.exp((total[last] - total[first]) / (last - first))),
                )
            )
        return Transcript(
            text=self._cased(" ".join("".join(labels[left:right]) for left, right in spans)),
            ctc_text=ctc_text,
            avg_logprob=float(total[-1] / max(1, len(logprobs))),
            num_frames=len(logprobs),
            words=tuple(words),
        )

    def _cased(self, text: str) -> str:
        return text.lower() if self._lower_case else text

    def _spans_of_words(self, labels: NDArray[np.object_]) -> Iterator[tuple[int, int]]:
        """Yield the first and the last (exclusive) label of each word. Without a delimiter, each label is a word."""
        if not self._delimiter:
            yield from ((place, place + 1) for place in range(len(labels)))
            return
        bounds = [-1, *np.flatnonzero(labels == self._delimiter), len(labels)]
        for left, right in pairwise(bounds):
            if right - left > 1:
                yield left + 1, right
