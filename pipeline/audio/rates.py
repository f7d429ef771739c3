"""How many samples a change of sample rate gives: planned by the manifest, met by the resampler."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def resampled_length(num_samples: int, orig_rate: int, new_rate: int) -> int:
    """Samples that `resampling.resample` returns for `num_samples` at `orig_rate` Hz."""
    return int(resampled_lengths(np.asarray([num_samples]), orig_rate, new_rate)[0])


def resampled_lengths(num_samples: NDArray[np.int64], orig_rate: int, new_rate: int) -> NDArray[np.int64]:
    """`resampled_length` of many.

    torchaudio rounds the quotient to float32 before its ceil, so beyond 2^24 samples the length is off by a
    few; the convolution then bounds it (`torchaudio.functional._apply_sinc_resample_kernel`).
    """
    if orig_rate == new_rate:
        return num_samples
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    rounded = np.ceil((new * num_samples / orig).astype(np.float32)).astype(np.int64)
    return np.minimum(rounded, (num_samples // orig + 1) * new)
