"""Prints estimated error rates in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted
from pipeline.sample.estimating import Estimate
from pipeline.sample.frame import Frame
from pipeline.scoring.bootstrap import RESAMPLES
from pipeline.scoring.terminal import group_lines, rate_table


def pictures(estimate: Estimate, sample: pa.Table, frame: Frame, width: int) -> Iterator[Table | Text]:
    """Yield what is printed of an estimate.

    Args:
        estimate: The estimate.
        sample: The sample, with columns id and drawn.
        frame: The utterances of the run.
        width: Width of the terminal in characters.
    """
    rows = estimate.table.to_pylist()
    header = ["estimated by", "utterances", "labelled", "audio", "WER %", "95 %"]
    lines = group_lines(rows, lambda row: (str(row["group"]), row["value"]), _cells, _rate, "highest")
    yield rate_table(header, lines, width)
    yield Text(
        f"95 %: bootstrap within strata, {RESAMPLES} samples; none where the labelled utterances are alike", "dim"
    )
    drawn = sample.filter(sample["drawn"])["id"].combine_chunks()
    labelled = frame.ids.filter(pa.array(frame.labelled))
    missing = len(drawn) - int(np.sum(pc.is_in(drawn, value_set=labelled).to_numpy(zero_copy_only=False)))
    if missing:
        yield Text(f"{counted(missing, 'drawn utterance')} of {len(drawn):,} not labelled; the others stand for them")
    if estimate.uncovered:
        number = counted(estimate.uncovered, "utterance")
        yield Text(f"the sample says nothing of {number}: their stratum has no label, or they are newer")


def _rate(row: Mapping[str, Any]) -> float:
    return -1.0 if row["wer"] is None else float(row["wer"])


def _cells(row: Mapping[str, Any]) -> list[str]:
    interval = "" if row["wer_low"] is None else f"{100 * row['wer_low']:.1f} to {100 * row['wer_high']:.1f}"
    rate = "" if row["wer"] is None else f"{100 * row['wer']:.2f}"
    return [f"{row['utterances']:,}", f"{row['labelled']:,}", format_hours(row["labelled_s"]), rate, interval]
