"""Chooses the utterances that the page shows: the worst, the typical and the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["worst", "typical", "best", "sample", "suspect"]


@dataclass(frozen=True)
class Choice:
    """The chosen utterances.

    Attributes:
        positions: Positions in the population by kind. The worst of all comes first, as does the best of all.
        by: Column that ranks the utterances; `position` if there is none.
    """

    positions: dict[Kind, NDArray[np.int64]]
    by: Literal["wer", "avg_logprob", "position", "worst_llr"]


def choose(wer: NDArray[np.float64], avg_logprob: NDArray[np.float64], count: int) -> Choice:
    """Choose up to `count` utterances of each kind. No utterance is chosen twice.

    Utterances are ranked by WER and then by `avg_logprob`, if all have a WER or enough have one to fill each kind.
    Otherwise they are ranked by `avg_logprob`. Without both, a sample is spread evenly over the run. Where WER
    ranks, an utterance without an error is never among the worst.

    Args:
        wer: `(utterances,)`; NaN if there is no value.
        avg_logprob: `(utterances,)`; NaN if there is no value.
        count: Number of utterances of each kind.
    """
    known = np.flatnonzero(~np.isnan(wer))
    if len(known) and (len(known) >= 3 * count or len(known) == len(wer)):
        # The worst first; the sort is stable, so the same tables give the same page.
        order = known[np.lexsort((np.nan_to_num(avg_logprob[known], nan=-np.inf), -wer[known]))]
        return Choice(_kinds(order, count, int((wer[known] > 0).sum())), "wer")
    if not np.isnan(avg_logprob).all():
        return Choice(_kinds(np.argsort(np.nan_to_num(avg_logprob, nan=-np.inf), kind="stable"), count), "avg_logprob")
    spread = np.unique(np.linspace(0, len(wer) - 1, min(3 * count, len(wer))).round().astype(np.int64))
    return Choice({"sample": spread} if len(spread) else {}, "position")


def _kinds(order: NDArray[np.int64], count: int, wrong: int | None = None) -> dict[Kind, NDArray[np.int64]]:
    """Take both ends and the middle of a ranking `order`, which starts with the worst.

    Only the first `wrong` can be among the worst; `None` allows all.
    """
    total = len(order)
    if total <= min(count, 2):
        return {"sample": order} if total else {}
    worst = min(count, -(-total // 3), total if wrong is None else wrong)
    best = min(count, -(-(total - worst) // 2))
    typical = min(count, total - worst - best)
    middle = min(max(worst, (total - typical) // 2), total - best - typical)
    kinds: dict[Kind, NDArray[np.int64]] = {
        "worst": order[:worst],
        "typical": order[middle : middle + typical],
        "best": order[total - best :][::-1],
    }
    return {kind: positions for kind, positions in kinds.items() if len(positions)}
