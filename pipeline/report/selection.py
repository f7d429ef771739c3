"""Which utterances are shown: the worst, the typical and the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["worst", "typical", "best", "sample"]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and by what.

    Attributes:
        positions: Of each kind, the most telling first: the worst of the worst, the best of the best.
        by: What says which is worse.
    """

    positions: dict[Kind, NDArray[np.int64]]
    by: Literal["wer", "avg_logprob", "position"]


def choose(wer: NDArray[np.float64], avg_logprob: NDArray[np.float64], count: int) -> Choice:
    """Choose `count` utterances of each kind, none twice; fewer where there are fewer.

    They are ranked by WER, where at least so many have one that every kind can be filled (or all have), and among
    equal ones by `avg_logprob`; else by `avg_logprob` alone. Without either, the sample is spread evenly.

    Args:
        wer: `(utterances,)`, NaN where there is none.
        avg_logprob: `(utterances,)`, likewise.
        count: Of each kind.
    """
    known = np.flatnonzero(~np.isnan(wer))
    if len(known) and (len(known) >= 3 * count or len(known) == len(wer)):
        # The worst first; the sort is stable, so the same tables give the same page.
        order = known[np.lexsort((np.nan_to_num(avg_logprob[known], nan=-np.inf), -wer[known]))]
        return Choice(_kinds(order, count), "wer")
    if not np.isnan(avg_logprob).all():
        return Choice(_kinds(np.argsort(np.nan_to_num(avg_logprob, nan=-np.inf), kind="stable"), count), "avg_logprob")
    spread = np.unique(np.linspace(0, len(wer) - 1, min(3 * count, len(wer))).round().astype(np.int64))
    return Choice({"sample": spread} if len(spread) else {}, "position")


def _kinds(order: NDArray[np.int64], count: int) -> dict[Kind, NDArray[np.int64]]:
    """Cut a ranking, the worst first, into its two ends and its middle."""
    total = len(order)
    if total <= min(count, 2):
        return {"sample": order} if total else {}
    worst = min(count, -(-total // 3))
    best = min(count, -(-(total - worst) // 2))
    typical = min(count, total - worst - best)
    middle = min(max(worst, (total - typical) // 2), total - best - typical)
    kinds: dict[Kind, NDArray[np.int64]] = {
        "worst": order[:worst],
        "typical": order[middle : middle + typical],
        "best": order[total - best :][::-1],
    }
    return {kind: positions for kind, positions in kinds.items() if len(positions)}
