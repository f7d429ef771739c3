"""How far a rate may lie from what was measured: intervals by resampling (Bisani and Ney, ICASSP 2004)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
MAX_UNITS = 500
"""More units than this are put together at random, into as many sums; their ends move by some 4 % of its width."""


def rate_intervals(
    errors: NDArray[np.int64], totals: NDArray[np.int64], seed: int = 0
) -> list[tuple[float, float] | None]:
    """Percentile intervals of the rates `errors.sum(0) / totals.sum(0)`, drawing units with replacement.

    Args:
        errors: `(units, rates)`: what each unit, a speaker or an utterance, adds above the line.
        totals: `(units, rates)`: and below it.
        seed: The same numbers give the same interval.

    Returns:
        Lower and upper end of each rate; `None` where resampling cannot tell: there is one unit only, or all units
        have the same rate, such as none of them an error.
    """
    units, rates = errors.shape
    if units < 2:
        return [None] * rates
    generator = np.random.default_rng(seed)
    values = np.concatenate([errors, totals], axis=1)
    if units > MAX_UNITS:
        blocks = generator.permutation(units) % MAX_UNITS
        values = np.stack([np.bincount(blocks, column, MAX_UNITS) for column in values.T], axis=1)
        units = MAX_UNITS
    drawn = generator.integers(units, size=(RESAMPLES, units))
    counts = np.stack([np.bincount(row, minlength=units) for row in drawn])
    sums = counts.astype(np.float64) @ values.astype(np.float64)
    above, below = sums[:, :rates], sums[:, rates:]
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    intervals: list[tuple[float, float] | None] = []
    for rate in range(rates):
        valid = below[:, rate] > 0
        drawn_rates = above[valid, rate] / below[valid, rate]
        if not valid.any() or drawn_rates.min() == drawn_rates.max():
            intervals.append(None)
            continue
        low, high = np.quantile(drawn_rates, tails)
        intervals.append((float(low), float(high)))
    return intervals
