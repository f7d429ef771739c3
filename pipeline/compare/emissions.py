"""Reads stored emissions of a sample of utterances, and computes the log-probabilities of both texts under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.compare.comparison import Comparison
from pipeline.compare.likelihood import Speller, fits
from pipeline.compare.matching import Match, Transcribed
from pipeline.compare.schemas import LOGPROBS
from pipeline.results.arrays import log_probabilities, read_arrays
from pipeline.storage.layouts import EMISSIONS
from pipeline.storage.tables import metadata_of

SAMPLE = 100
"""Utterances of the sample, besides those shown."""


@dataclass(frozen=True)
class Logprobs:
    """Log-probabilities in nats; `None` if the run has no emission, or its labels cannot spell the text.

    Attributes:
        in_a: Of the texts of both runs under the emission of the first run.
        in_b: Of the texts of both runs under the emission of the second run.
    """

    in_a: tuple[float | None, float | None]
    in_b: tuple[float | None, float | None]


def read_logprobs(comparison: Comparison) -> dict[int, Logprobs]:
    """Return the log-probabilities of the shown utterances, and of a sample of those whose words differ, by index."""
    differing = comparison.differing
    spread = np.linspace(0, len(differing) - 1, min(SAMPLE, len(differing))).astype(np.int64)
    indices = np.unique(np.concatenate([differing[spread], *comparison.shown.values()])).astype(np.int64)
    match = comparison.match
    if not len(indices):
        return {}
    a, b = (
        run.rows(positions[indices], ["id", "text", "num_frames"])
        for run, positions in ((match.a, match.in_a), (match.b, match.in_b))
    )
    texts = list(zip(a["text"].to_pylist(), b["text"].to_pylist(), strict=True))
    in_a = _under(match.a, match.in_a[indices], a, texts)
    in_b = _under(match.b, match.in_b[indices], b, texts)
    nothing = (None, None)
    return {
        int(index): Logprobs(in_a.get(row, nothing), in_b.get(row, nothing))
        for row, index in enumerate(indices)
        if row in in_a or row in in_b
    }


def _under(
    run: Transcribed, positions: NDArray[np.int64], rows: pa.Table, texts: Sequence[tuple[str, str]]
) -> dict[int, tuple[float | None, float | None]]:
    """Return the log-probabilities of both texts under the emissions of a run, by row. Rows without are left out."""
    files = np.searchsorted(run.starts, positions, "right") - 1
    ids, frames = rows["id"].to_pylist(), rows["num_frames"].to_pylist()
    found: dict[int, tuple[float | None, float | None]] = {}
    for file in np.unique(files).tolist():
        record = run.records[file]
        wanted = {
            ids[row]: row
            for row in np.flatnonzero(files == file).tolist()
            if fits(frames[row], min(map(len, texts[row])))
        }
        if EMISSIONS.name not in record.files or not wanted:
            continue
        stored = run.directory.table(EMISSIONS.name, record.shard)
        metadata = metadata_of(stored.schema())
        speller = Speller(metadata["labels"], metadata["blank"])
        for id_, emission in read_arrays(stored, EMISSIONS, sorted(wanted)):
            text_a, text_b = speller.logprobs(log_probabilities(emission.astype(np.float32)), texts[wanted[id_]])
            if text_a is not None or text_b is not None:
                found[wanted[id_]] = text_a, text_b
    return found


def table_of(match: Match, logprobs: Mapping[int, Logprobs]) -> pa.Table:
    """Return the log-probabilities as a table with schema `LOGPROBS`."""
    ids = match.a.ids.take(pa.array(match.in_a[list(logprobs)])).cast(pa.string())
    values = [[*each.in_a, *each.in_b] for each in logprobs.values()]
    columns = [pa.array([row[at] for row in values], pa.float64()) for at in range(len(LOGPROBS) - 1)]
    return pa.Table.from_arrays([ids, *columns], schema=LOGPROBS)
