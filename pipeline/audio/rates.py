"""Computes the number of samples after resampling. The manifest plans with it, and the resampler returns it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def resampled_length(num_samples: int, orig_rate: int, new_rate: int) -> int:
    """Return the number of samples at `new_rate` Hz that `num_samples` at `orig_rate` Hz become."""
    return int(resampled_lengths(np.asarray([num_samples]), orig_rate, new_rate)[0])


def resampled_lengths(num_samples: NDArray[np.int64], orig_rate: int, new_rate: int) -> NDArray[np.int64]:
    """Compute `resampled_length` of many recordings at once.

    torchaudio rounds the quotient to float32 before it rounds up, so beyond 2^24 samples the length is off by a few
    samples. The output of the convolution limits the length (`torchaudio.functional._apply_sinc_resample_kernel`).
    This function does the same, to agree with torchaudio.
    """
    if orig_rate == new_rate:
        return num_samples
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    rounded = np.ceil((new * num_samples / orig).astype(np.float32)).astype(np.int64)
    return np.minimum(rounded, (num_samples // orig + 1) * new)
