"""Reads stored emissions of a sample of utterances, and computes the log-probabilities of both texts under them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.compare.comparison import Comparison
from pipeline.compare.likelihood import Speller
from pipeline.compare.matching import Match, TranscribedRun
from pipeline.compare.schemas import LOGPROBS
from pipeline.results.arrays import log_probabilities, read_arrays
from pipeline.storage.layouts import EMISSIONS
from pipeline.storage.tables import metadata_of

SAMPLE = 100
"""Utterances of the sample, besides those shown."""
MAX_CELLS = 30_000_000
"""Frames times letters that are computed. This takes about half a minute for both runs. One utterance may have a tenth,
which is a minute of speech."""
_LEAST_LETTERS = 50


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
    """Return the log-probabilities of the shown utterances, and of a sample of those whose words differ, by index.

    Long utterances are left out, and the sample is smaller if its utterances are long.
    """
    match = comparison.match
    differing = comparison.differing
    spread = np.linspace(0, len(differing) - 1, min(SAMPLE, len(differing))).astype(np.int64)
    indices = np.array(
        list(dict.fromkeys(np.concatenate([*comparison.shown.values(), differing[spread]]).tolist())), int
    )
    a, b = (
        run.rows(positions[indices], ["id", "text", "num_frames"])
        for run, positions in ((match.a, match.in_a), (match.b, match.in_b))
    )
    texts = list(zip(a["text"].to_pylist(), b["text"].to_pylist(), strict=True))
    frames = np.maximum(a["num_frames"].to_numpy(), b["num_frames"].to_numpy()).astype(np.int64)
    cells = frames * np.array([max(_LEAST_LETTERS, *map(len, pair)) for pair in texts], dtype=np.int64)
    short = np.flatnonzero(cells <= MAX_CELLS // 10)
    rows = np.sort(short[np.cumsum(cells[short]) <= MAX_CELLS])
    ids = [a["id"][row].as_py() for row in rows.tolist()]
    pairs = {id_: texts[row] for id_, row in zip(ids, rows.tolist(), strict=True)}
    in_a = _under(match.a, match.in_a[indices[rows]], pairs)
    in_b = _under(match.b, match.in_b[indices[rows]], pairs)
    nothing = (None, None)
    return {
        int(index): Logprobs(in_a.get(id_, nothing), in_b.get(id_, nothing))
        for id_, index in zip(ids, indices[rows], strict=True)
        if id_ in in_a or id_ in in_b
    }


def _under(
    run: TranscribedRun, positions: NDArray[np.int64], texts: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[float | None, float | None]]:
    """Return the log-probabilities of both texts under the emissions of a run, by id. Utterances without are left out.

    Args:
        run: The run.
        positions: Positions of the utterances in the run, in the order of `texts`.
        texts: Texts of both runs, by id.
    """
    files = run.files_of(positions)
    found: dict[str, tuple[float | None, float | None]] = {}
    for file in np.unique(files).tolist():
        wanted = sorted(id_ for id_, other in zip(texts, files.tolist(), strict=True) if other == file)
        for stored in run.directory.tables(run.shards[file], EMISSIONS.name):
            metadata = metadata_of(stored.schema())
            speller = Speller(metadata["labels"], metadata["blank"])
            for id_, emission in read_arrays(stored, EMISSIONS, wanted):
                text_a, text_b = speller.logprobs(log_probabilities(emission.astype(np.float32)), texts[id_])
                if text_a is not None or text_b is not None:
                    found[id_] = text_a, text_b
    return found


def table_of(match: Match, logprobs: Mapping[int, Logprobs]) -> pa.Table:
    """Return the log-probabilities as a table with schema `LOGPROBS`."""
    ids = match.a.rows(match.in_a[[*logprobs]], ["id"])["id"]
    values = [[*each.in_a, *each.in_b] for each in logprobs.values()]
    columns = [pa.array([row[at] for row in values], pa.float64()) for at in range(len(LOGPROBS) - 1)]
    return pa.Table.from_arrays([ids, *columns], schema=LOGPROBS)
