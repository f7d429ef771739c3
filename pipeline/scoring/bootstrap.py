"""Bootstrap confidence intervals of error rates (Bisani and Ney, ICASSP 2004)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
MAX_UNITS = 500
"""If there are more units, they are added up at random to this many sums. The ends of an interval then move by about
4 % of its width."""
MIN_SPEAKERS = 5
"""With fewer speakers there is no interval: with 3 equal speakers, one interval in three would miss the true rate."""


def rate_intervals(
    errors: NDArray[np.int64], totals: NDArray[np.int64], seed: int = 0
) -> list[tuple[float, float] | None]:
    """Return percentile intervals of the rates `errors.sum(0) / totals.sum(0)`. Units are drawn with replacement.

    Args:
        errors: `(units, rates)` errors of each unit, which is a speaker or an utterance. Differences of errors give
            the interval of a difference of rates with the same total: a paired bootstrap.
        totals: `(units, rates)` reference words or characters of each unit.
        seed: Seed of the draws. The same input and seed give the same intervals.

    Returns:
        Lower and upper end of each interval. `None` if there is only one unit, or if all units have the same rate.
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


def speaker_intervals(
    errors: NDArray[np.int64], totals: NDArray[np.int64], speakers: NDArray[np.int64] | None
) -> list[tuple[float, float] | None]:
    """Return the intervals of `rate_intervals` over speakers; over utterances if there are fewer than two speakers.

    Args:
        errors: `(utterances, rates)` errors, or differences of errors, of each utterance.
        totals: `(utterances, rates)` reference words or characters of each utterance.
        speakers: `(utterances,)` number of each utterance's speaker; `None` if speakers are unknown.

    Returns:
        Lower and upper end of each interval; `None` also if there are two to `MIN_SPEAKERS - 1` speakers.
    """
    if speakers is not None:
        distinct, unit = np.unique(speakers, return_inverse=True)
        if 1 < len(distinct) < MIN_SPEAKERS:
            return [None] * errors.shape[1]
        if len(distinct) > 1:
            errors, totals = (_summed(values, unit, len(distinct)) for values in (errors, totals))
    return rate_intervals(errors, totals)


def _summed(values: NDArray[np.int64], unit: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.stack([np.bincount(unit, column, count) for column in values.T], axis=1).astype(np.int64)
