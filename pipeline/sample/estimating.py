"""Estimates the error rates of a run from a labelled sample, overall and by group, and ranks what to label next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.sample.estimate import Labelled, interval, rate, weighted
from pipeline.sample.frame import Frame, GroupValue

ESTIMATES = pa.schema(
    [
        ("group", pa.string()),
        ("value", pa.string()),
        ("utterances", pa.int64()),
        ("labelled", pa.int64()),
        ("labelled_s", pa.float64()),
        ("wer", pa.float64()),
        ("wer_low", pa.float64()),
        ("wer_high", pa.float64()),
    ]
)
"""A row for the whole corpus, with the group `overall`, and one for each value of each group."""
NEXT = pa.schema([("id", pa.string()), ("duration_s", pa.float64()), ("expected_errors", pa.float64())])
"""Utterances worth labelling, the most useful first."""
_MIN_WORDS = 50
"""Labelled words of a value from which on its own errors count."""


@dataclass(frozen=True)
class Estimate:
    """What a labelled sample says.

    Attributes:
        table: The rates, with schema `ESTIMATES`.
        next: What to label next, with schema `NEXT`.
        uncovered: Number of utterances of which the sample says nothing.
    """

    table: pa.Table
    next: pa.Table
    uncovered: int


def estimate(frame: Frame, sample: pa.Table, next_s: float) -> Estimate:
    """Estimate error rates.

    Args:
        frame: The utterances of the run now.
        sample: The sample, with columns id, stratum and drawn.
        next_s: Seconds of audio to list for the next labelling.
    """
    place = pc.index_in(frame.ids, value_set=sample["id"].combine_chunks())
    stratum = sample["stratum"].combine_chunks().take(place).fill_null(-1).to_numpy(zero_copy_only=False)
    drawn = sample["drawn"].combine_chunks().take(place).fill_null(False).to_numpy(zero_copy_only=False)
    labelled, covered = weighted(stratum.astype(np.int64), drawn, frame.errors, frame.reference_words, frame.labelled)
    everything = np.arange(len(frame))
    rows = [_row(frame, labelled, each) for each in (GroupValue("overall", None, everything), *frame.groups)]
    table = pa.Table.from_pylist(rows, schema=ESTIMATES)
    return Estimate(table, _next(frame, rows, next_s), int((~covered).sum()))


def _row(frame: Frame, labelled: Labelled, group: GroupValue) -> dict[str, object]:
    members = np.zeros(len(frame), dtype=bool)
    members[group.members] = True
    mine = members[frame.labelled]
    low, high = interval(labelled, mine) or (None, None)
    return {
        "group": group.group,
        "value": group.value,
        "utterances": len(group.members),
        "labelled": int(mine.sum()),
        "labelled_s": float(frame.duration_s[frame.labelled][mine].sum()),
        "wer": rate(labelled, mine),
        "wer_low": low,
        "wer_high": high,
    }


def _next(frame: Frame, rows: list[dict[str, object]], next_s: float) -> pa.Table:
    """Return the utterances without a reference in which most errors a second of audio are expected.

    The model's own doubt is multiplied by how far it was wrong about the labelled utterances of the same value of the
    first group, or of the whole corpus where too few words of the value are labelled.
    """
    doubt = frame.expected_errors
    expected = doubt * _calibration(frame, doubt, np.arange(len(frame)))
    first = rows[1]["group"] if len(rows) > 1 else None
    for each in frame.groups:
        if each.group == first and frame.reference_words[each.members].sum() >= _MIN_WORDS:
            expected[each.members] = doubt[each.members] * _calibration(frame, doubt, each.members)
    left = np.flatnonzero(~frame.labelled)
    worth = expected[left] / np.maximum(frame.duration_s[left], 0.1)
    order = left[np.lexsort((left, -worth))]
    within = np.cumsum(frame.duration_s[order]) <= next_s
    chosen = order[: max(int(within.sum()), 1)]
    columns = {
        "id": frame.ids.take(pa.array(chosen)),
        "duration_s": frame.duration_s[chosen],
        "expected_errors": expected[chosen],
    }
    return pa.table(columns, schema=NEXT)


def _calibration(frame: Frame, doubt: NDArray[np.float64], members: NDArray[np.int64]) -> float:
    """Return the errors of the labelled utterances for each error that was expected of them; at least a tenth."""
    known = members[frame.labelled[members]]
    expected = float(doubt[known].sum())
    return max(float(frame.errors[known].sum()) / expected, 0.1) if expected else 1.0
