"""Emissions to transcripts: greedy CTC, batched on the device, with word times and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.records import Transcript, Word

WORD_BOUNDARY = "|"


class GreedyDecoder:
    """The best label of every frame, repeats merged, blanks dropped (torchaudio's `GreedyCTCDecoder`)."""

    def __init__(self, labels: Sequence[str], blank: int, seconds_per_frame: float) -> None:
        """Labels in the order of the logits, the index of the blank, and the stride in seconds."""
        self.labels = np.asarray(labels, dtype=object)
        self.blank = blank
        self.seconds_per_frame = seconds_per_frame

    @torch.inference_mode()
    def __call__(self, logits: Tensor, num_frames: Sequence[int], start_s: Sequence[float]) -> list[Transcript]:
        """Decode a padded batch.

        Args:
            logits: `(batch, frames, labels)` float32, on any device.
            num_frames: Valid frames of each utterance.
            start_s: Where each utterance begins in its file, in seconds.
        """
        logprobs, best = torch.log_softmax(logits, dim=-1).max(dim=-1)
        previous = torch.nn.functional.pad(best[:, :-1], (1, 0), value=-1)
        emitted = (best != previous) & (best != self.blank)
        host = (tensor.cpu().numpy() for tensor in (logprobs, best, emitted))
        return [
            self._transcript(logprob[:frames], path[:frames], np.flatnonzero(new[:frames]), offset)
            for logprob, path, new, frames, offset in zip(*host, num_frames, start_s, strict=True)
        ]

    def _transcript(
        self,
        logprobs: NDArray[np.float32],
        path: NDArray[np.int64],
        starts: NDArray[np.int64],
        offset_s: float,
    ) -> Transcript:
        """Assemble one utterance.

        Args:
            logprobs: `(frames,)` log-probability of the best label.
            path: `(frames,)` the best label.
            starts: Frames at which a label is emitted.
            offset_s: Added to every time.
        """
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
                    start_s=offset_s + first * self.seconds_per_frame,
                    end_s=offset_s + last * self.seconds_per_frame,
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
