"""Divides utterances into strata and draws some of each.

The allocation is the optimal one for a fixed cost (Cochran, Sampling Techniques, 5.5): a stratum gets utterances in
proportion to its size, to the spread of its errors, and to one over the root of the cost of an utterance, which is its
duration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sample.frame import Frame

LEAST = 2
"""Utterances drawn of each stratum, because the spread of a stratum needs two."""
_PER_STRATUM = 4
"""A division is made if each stratum then has this many utterances in the sample on average."""
_DIVISIONS = ((3, 2), (3, 1), (2, 1), (1, 1))
"""Parts by certainty, and parts of each by duration. The first division that the size of the sample allows is taken."""


@dataclass(frozen=True)
class Design:
    """A drawn sample.

    Attributes:
        stratum: `(population,)` number of each utterance's stratum, from 0.
        drawn: `(population,)` whether the utterance is in the sample.
        parts: Parts of each group by certainty, and parts of each of these by duration.
    """

    stratum: NDArray[np.int64]
    drawn: NDArray[np.bool_]
    parts: tuple[int, int]

    @property
    def strata(self) -> int:
        """Number of strata."""
        return int(self.stratum.max(initial=-1)) + 1


def fits(values: int, utterances: float) -> bool:
    """Whether a sample of this size is large enough for strata by a group with so many values."""
    return values == 1 or values * _PER_STRATUM <= utterances


def draw(frame: Frame, population: NDArray[np.int64], group: NDArray[np.int64], seconds: float, seed: int) -> Design:
    """Draw a stratified sample without replacement.

    Args:
        frame: The utterances of a run.
        population: Indices of the utterances to draw from, at least one.
        group: `(population,)` number of each utterance's group.
        seconds: Audio to draw.
        seed: Seed of the draw. The same input and seed draw the same utterances.
    """
    duration_s = frame.duration_s[population]
    expected = seconds / max(float(duration_s.mean()), 1e-9)
    groups = len(np.unique(group))
    by_certainty, by_duration = next(
        (parts for parts in _DIVISIONS if groups * parts[0] * parts[1] * _PER_STRATUM <= expected), _DIVISIONS[-1]
    )
    stratum = _split(_split(group, frame.certainty[population], by_certainty), duration_s, by_duration)
    _, stratum, sizes = np.unique(stratum, return_inverse=True, return_counts=True)
    cost = np.maximum(np.bincount(stratum, duration_s) / sizes, 1e-9)
    spread = np.sqrt(np.bincount(stratum, frame.expected_errors[population]) / sizes)
    numbers = _allocated(sizes, spread / np.sqrt(cost), cost, seconds)
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(stratum), dtype=bool)
    for index, number in enumerate(numbers):
        drawn[generator.choice(np.flatnonzero(stratum == index), number, replace=False)] = True
    return Design(stratum.astype(np.int64), drawn, (by_certainty, by_duration))


def _split(cell: NDArray[np.int64], values: NDArray[np.float64], parts: int) -> NDArray[np.int64]:
    """Divide each cell into parts of equal size by a value."""
    order = np.lexsort((values, cell))
    sorted_cells = cell[order]
    first = np.searchsorted(sorted_cells, sorted_cells, side="left")
    size = np.searchsorted(sorted_cells, sorted_cells, side="right") - first
    part = np.empty(len(cell), dtype=np.int64)
    part[order] = (np.arange(len(cell)) - first) * parts // size
    return cell * parts + part


def _allocated(
    sizes: NDArray[np.int64], weight: NDArray[np.float64], cost: NDArray[np.float64], seconds: float
) -> NDArray[np.int64]:
    """Return how many utterances to draw of each stratum, so that they last about `seconds`."""
    least = np.minimum(LEAST, sizes)

    def numbers(scale: float) -> NDArray[np.int64]:
        return np.clip(np.rint(scale * sizes * weight).astype(np.int64), least, sizes)

    low, high = 0.0, 1.0 / float((weight + 1e-12).min())
    for _ in range(60):
        middle = (low + high) / 2
        if float((numbers(middle) * cost).sum()) > seconds:
            high = middle
        else:
            low = middle
    return numbers(low)
