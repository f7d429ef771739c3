"""Finds the best path of a reference with torchaudio, and without it where torchaudio would need too much memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchaudio.functional import forced_align

from pipeline.decoding.alignment.viterbi import best_states

MAX_BYTES = 1 << 27
"""torchaudio takes a byte for each frame and state; above 128 MB, which five minutes may need, it is not called."""


def find_states(scores: NDArray[np.float32], labels: NDArray[np.int64], blank: int) -> NDArray[np.int64]:
    """Return the state of each frame, as `pipeline.decoding.alignment.viterbi.best_states` does.

    torchaudio is several times as fast for utterances of seconds.
    """
    if len(scores) * (2 * len(labels) + 1) > MAX_BYTES:
        return best_states(scores, labels, blank)
    (path,), _ = forced_align(torch.from_numpy(scores)[None], torch.from_numpy(labels)[None], blank=blank)
    return states_of(path.numpy().astype(np.int64), blank)


def states_of(path: NDArray[np.int64], blank: int) -> NDArray[np.int64]:
    """Return the state of each frame of a path `(frames,)` of labels."""
    spoken = path != blank
    begins = spoken & (path != np.concatenate([[blank], path[:-1]]))
    return np.asarray(2 * np.cumsum(begins) - spoken)
