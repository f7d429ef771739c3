"""Estimates an error rate from a stratified sample: a ratio estimator with the weights of the design."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.scoring.bootstrap import CONFIDENCE, RESAMPLES


@dataclass(frozen=True)
class Labelled:
    """The utterances with a reference.

    Attributes:
        errors, words: `(labelled,)` word errors and reference words.
        stratum: `(labelled,)` stratum, from 0; -1 for an utterance that stands for itself alone.
        weight: `(labelled,)` utterances that each stands for.
        left: `(strata,)` part of each stratum that is not labelled.
    """

    errors: NDArray[np.int64]
    words: NDArray[np.int64]
    stratum: NDArray[np.int64]
    weight: NDArray[np.float64]
    left: NDArray[np.float64]


def weighted(
    stratum: NDArray[np.int64],
    drawn: NDArray[np.bool_],
    errors: NDArray[np.int64],
    words: NDArray[np.int64],
    labelled: NDArray[np.bool_],
) -> tuple[Labelled, NDArray[np.bool_]]:
    """Return the labelled utterances with their weights, and whom they stand for.

    Drawn utterances stand for all of their stratum that are not labelled. Those of them that are not labelled yet count
    as missing at random. An utterance that was labelled without being drawn stands for itself.

    Args:
        stratum: `(utterances,)` stratum; -1 for an utterance that was in no stratum.
        drawn: `(utterances,)` whether it is in the sample.
        errors: `(utterances,)` word errors; of any value where an utterance is not labelled.
        words: `(utterances,)` reference words; as `errors`.
        labelled: `(utterances,)` whether it has a reference.

    Returns:
        The labelled utterances, and whether an estimate speaks of each utterance, `(utterances,)`.
    """
    strata = int(stratum.max(initial=-1)) + 1
    sampled = labelled & drawn & (stratum >= 0)
    alone = labelled & ~sampled
    found = np.bincount(stratum[sampled], minlength=strata)
    stood_for = np.bincount(stratum[(stratum >= 0) & ~alone], minlength=strata)
    factor = stood_for / np.maximum(found, 1)
    rows = np.flatnonzero(labelled)
    of = np.where(sampled[rows], stratum[rows], -1)
    weight = np.where(of >= 0, factor[of] if strata else 1.0, 1.0)
    left = 1.0 - found / np.maximum(stood_for, 1)
    covered = alone | ((stratum >= 0) & (found[stratum] > 0 if strata else False))
    return Labelled(errors[rows], words[rows], of, weight, left), covered


def rate(labelled: Labelled, members: NDArray[np.bool_]) -> float | None:
    """Return the error rate of a group; `None` without reference words.

    Args:
        labelled: The labelled utterances.
        members: `(labelled,)` whether the utterance is in the group.
    """
    weight = labelled.weight * members
    words = float(weight @ labelled.words)
    return float(weight @ labelled.errors) / words if words else None


def interval(labelled: Labelled, members: NDArray[np.bool_], seed: int = 0) -> tuple[float, float] | None:
    """Return the bootstrap interval of `rate`, with the arguments of `rate`.

    Each stratum with m drawn utterances is resampled on its own: m - 1 draws with replacement, whose weights are scaled
    so that they have the variance of a draw without replacement (Rao and Wu, Journal of the American Statistical
    Association 83, 1988). Utterances that stand for themselves do not vary. Those that are the only ones of their
    stratum are resampled together.

    Returns:
        Lower and upper end; `None` if nothing varies.
    """
    generator = np.random.default_rng(seed)
    weight = labelled.weight * members
    values = np.stack([weight * labelled.errors, weight * labelled.words], axis=1)
    sizes = np.bincount(labelled.stratum[labelled.stratum >= 0], minlength=len(labelled.left))
    inside = np.flatnonzero(labelled.stratum >= 0)
    lonely = inside[sizes[labelled.stratum[inside]] == 1]
    units = [np.flatnonzero(labelled.stratum == index) for index in np.flatnonzero(sizes > 1)]
    sums = np.tile(values.sum(axis=0), (RESAMPLES, 1))
    for rows in [*units, *([lonely] if len(lonely) > 1 else [])]:
        m = len(rows)
        drawn = generator.multinomial(m - 1, np.full(m, 1 / m), size=RESAMPLES)
        scale = np.sqrt(labelled.left[labelled.stratum[rows]])
        sums += (drawn * m / (m - 1) - 1) @ (scale[:, None] * values[rows])
    errors, words = sums.T
    rates = errors[words > 0] / words[words > 0]
    if not len(rates) or rates.min() == rates.max():
        return None
    low, high = np.quantile(rates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
