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


Counts = NDArray[np.int32] | NDArray[np.int64]
Numbers = Counts | NDArray[np.float64]


def rate_intervals(errors: Numbers, totals: Counts, seed: int = 0) -> list[tuple[float, float] | None]:
    """Return percentile intervals of the rates `errors.sum(0) / totals.sum(0)`. Units are drawn with replacement.

    Args:
        errors: `(units, rates)` errors of each unit, which is a speaker or an utterance. Differences of errors give
            the interval of a difference of rates with the same total: a paired bootstrap.
        totals: `(units, rates)` reference words or characters of each unit.
        seed: Seed of the draws. The same input and seed give the same intervals.

    Returns:
        Lower and upper end of each interval. `None` if there is only one unit, or if all units have the same rate.
    """
    return _intervals(_drawn(errors, totals, seed))


def speaker_intervals(
    errors: Numbers, totals: Counts, speakers: NDArray[np.int64] | None
) -> list[tuple[float, float] | None]:
    """Return the intervals of `rate_intervals` over speakers; over utterances if there are fewer than two speakers.

    Args:
        errors: `(utterances, rates)` errors, or differences of errors, of each utterance.
        totals: `(utterances, rates)` reference words or characters of each utterance.
        speakers: `(utterances,)` number of each utterance's speaker; `None` if speakers are unknown.

    Returns:
        Lower and upper end of each interval; `None` also if there are two to `MIN_SPEAKERS - 1` speakers.
    """
    return rate_intervals(*_units(errors, totals, speakers))


Sample = tuple[Numbers, Counts, NDArray[np.int64] | None]
"""Errors, totals and speakers, as the arguments of `speaker_intervals`."""


def change_intervals(before: Sample, after: Sample) -> list[tuple[float, float] | None]:
    """Return the intervals of the rates after minus the rates before. Both are resampled on their own.

    Returns:
        Lower and upper end of each interval; `None` if one side cannot be resampled.
    """
    drawn = [_drawn(*_units(*sample), seed) for seed, sample in enumerate((before, after))]
    return _intervals(drawn[1] - drawn[0])


def _units(errors: Numbers, totals: Counts, speakers: NDArray[np.int64] | None) -> tuple[Numbers, Counts]:
    """Return errors and totals of each unit to resample. There is no unit if there are too few speakers."""
    if speakers is None:
        return errors, totals
    distinct, unit = np.unique(speakers, return_inverse=True)
    if len(distinct) < 2:
        return errors, totals
    if len(distinct) < MIN_SPEAKERS:
        return errors[:0], totals[:0]
    above, below = (
        np.stack([np.bincount(unit, column, len(distinct)) for column in values.T], axis=1)
        for values in (errors, totals)
    )
    return above, below.astype(np.int64)


def _drawn(errors: Numbers, totals: Counts, seed: int) -> NDArray[np.float64]:
    """Draw rates, `(RESAMPLES, rates)`. A rate is NaN if its total is 0; all are if there are fewer than two units."""
    units, rates = errors.shape
    if units < 2:
        return np.full((RESAMPLES, rates), np.nan)
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
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _intervals(drawn: NDArray[np.float64]) -> list[tuple[float, float] | None]:
    """Return the interval of each column of drawn rates; `None` if all its values are the same, or NaN."""
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    intervals: list[tuple[float, float] | None] = []
    for column in drawn.T:
        valid = column[~np.isnan(column)]
        if not len(valid) or valid.min() == valid.max():
            intervals.append(None)
            continue
        low, high = np.quantile(valid, tails)
        intervals.append((float(low), float(high)))
    return intervals
