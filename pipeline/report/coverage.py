"""Reads what the page shows of the stage `vad`: totals, and the recordings with most speech that became no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.texts import masked
from pipeline.scoring.coverage.accounting import COLLAR_S, SECONDS
from pipeline.scoring.coverage.stored import lost, read_coverage, total
from pipeline.storage.run_directory import RunDirectory

MAX_RECORDINGS = 10
_NAME_LENGTH = 200
_SHOWN = (
    "duration_s",
    "speech_s",
    "speech_without_text_s",
    "speech_failed_s",
    "speech_left_out_s",
    "text_without_speech_s",
)


@dataclass(frozen=True)
class Recording:
    """A row of the page: the path with the channel, and the seconds of each column of `_SHOWN`."""

    name: str
    seconds: Sequence[float]


@dataclass(frozen=True)
class Section:
    """The section `Speech and text` of the page.

    Attributes:
        total: The sum of each column of seconds over all recordings.
        collar_s: Tolerance in seconds.
        recordings, unsearched: Number of recordings, and of those that could not be searched.
        worst: A title, and the worst recordings of that kind, for each kind that there is.
    """

    total: Mapping[str, float]
    collar_s: float
    recordings: int
    unsearched: int
    worst: Sequence[tuple[str, Sequence[Recording]]]


def read_section(directory: RunDirectory) -> Section | None:
    """Read `coverage.parquet`; return `None` if there is none, or if the run has changed since."""
    table = read_coverage(directory)
    if table is None:
        return None
    kinds = [
        ("Most speech that did not become text", _worst(table, lost(table))),
        ("Most text without speech", _worst(table, table["text_without_speech_s"])),
    ]
    return Section(
        total={name: total(table, name) for name in SECONDS},
        collar_s=COLLAR_S,
        recordings=len(table),
        unsearched=len(table) - table["error"].null_count,
        worst=[(title, rows) for title, rows in kinds if rows],
    )


def _worst(table: pa.Table, by: pa.ChunkedArray) -> list[Recording]:
    """Return the recordings with the highest values above 0."""
    chosen = table.append_column("by", by).filter(pc.fill_null(pc.greater(by, 0.0), False))
    rows = chosen.sort_by([("by", "descending"), ("path", "ascending")]).slice(0, MAX_RECORDINGS).to_pylist()
    return [
        Recording(
            masked(row["path"] if row["channel"] is None else f"{row['path']}, channel {row['channel']}", _NAME_LENGTH),
            [row[name] for name in _SHOWN],
        )
        for row in rows
    ]
