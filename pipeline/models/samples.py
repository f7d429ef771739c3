"""Samples of 16-bit recordings in two bytes instead of four, on their way from the loading process to the device.

A decoder gives such samples as float32: an integer divided by 2^15, which is exact. So they become integers again, and
the same floats later, without the change of a bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SCALE = 2.0**15


def in_int16(samples: NDArray[np.float32]) -> NDArray[np.int16] | None:
    """Return finite samples as 16-bit integers; `None` if that would change one, as in MP3 or after resampling."""
    scaled = samples * np.float32(SCALE)
    with np.errstate(invalid="ignore"):  # a sample that does not fit gives any integer, which differs from it
        integers = scaled.astype(np.int16)
    return integers if np.array_equal(integers, scaled) else None


def in_float32(samples: Tensor) -> Tensor:
    """Return samples of either type as float32 in [-1, 1], on the device where they are."""
    return samples if samples.is_floating_point() else samples * (1 / SCALE)
