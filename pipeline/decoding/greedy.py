"""Emissions to transcripts: greedy CTC, best path on the device, with word times and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pipeline.records import BestPath, Transcript, Word

if TYPE_CHECKING:
    from torch import Tensor

WORD_BOUNDARY = "|"


@dataclass
class Options:
    """`decoder.*` of the greedy decoder: there is nothing to set."""


def best_path(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The best label of every frame and its log-probability, each `(..., frames)`, of `(..., frames, labels)`."""
    import torch  # here, so that the configuration reads `Options` without waiting for torch

    with torch.inference_mode():
        logprobs, labels = torch.log_softmax(logits, dim=-1).max(dim=-1)
    return labels, logprobs


class GreedyDecoder:
    """The best label of every frame, repeats merged, blanks dropped (torchaudio's `GreedyCTCDecoder`)."""

    def __init__(self, labels: Sequence[str], blank: int, seconds_per_frame: float) -> None:
        """Labels in the order of the logits, the index of the blank, and the stride in seconds."""
        self.labels = np.asarray(labels, dtype=object)
        self.blank = blank
        self.seconds_per_frame = seconds_per_frame

    def __call__(self, paths: Sequence[BestPath], start_s: float) -> Transcript:
        """Decode one utterance.

        Args:
            paths: Its best path, in stretches that follow one another.
            start_s: Where the utterance begins in its file, in seconds.
        """
        path = np.concatenate([stretch.labels for stretch in paths])
        logprobs = np.concatenate([stretch.logprobs for stretch in paths])
        starts = np.flatnonzero((np.diff(path, prepend=-1) != 0) & (path != self.blank))
        characters = self.labels[path[starts]]
        # A label lasts until the path leaves it; the last frame of a word is that of its last label.
        leaves = np.flatnonzero(np.diff(path, append=-1))
        ends = leaves[np.searchsorted(leaves, starts)] + 1
        total = np.concatenate([[0.0], np.cumsum(logprobs, dtype=np.float64)])
        words = []
        bounds = [-1, *np.flatnonzero(characters == WORD_BOUNDARY), len(characters)]
        for left, right in pairwise(bounds):
            if right - left < 2:
                continue
            first, last = int(starts[left + 1]), int(ends[right - 1])
            words.append(
                Word(
                    word="".join(characters[left + 1 : right]),
                    start_s=start_s + first * self.seconds_per_frame,
                    end_s=start_s + last * self.seconds_per_frame,
                    probability=float(np.exp((total[last] - total[first]) / (last - first))),
                )
            )
        return Transcript(
            text=" ".join(word.word for word in words),
            ctc_text="".join(characters),
            avg_logprob=float(total[-1] / max(1, len(logprobs))),
            num_frames=len(logprobs),
            words=tuple(words),
        )
