"""Reads the metrics of a run: those of its only process, or those of its parts in the order of time."""

from __future__ import annotations

import heapq
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pipeline.runtime.metrics import PAUSE_S, computing_workers
from pipeline.storage.names import METRICS
from pipeline.storage.stored_run import StoredRun


class Line(NamedTuple):
    """A line of metrics.

    Attributes:
        time: Time at which the batch ended.
        source: Number of the file. The batches of a file are numbered from 0 each time its process starts.
        workers: Number of workers of all parts that were computing then.
        row: The fields; see `BatchMetrics`.
    """

    time: datetime
    source: int
    workers: int
    row: dict[str, Any]


def read_metrics(directory: StoredRun) -> Iterator[Line]:
    """Yield the lines of metrics in the order of time, in bounded memory. A line that a crash has cut is skipped."""
    computing: dict[int, tuple[datetime, int]] = {}
    sources = [_lines(directory, name, source) for source, name in enumerate(directory.files_of_parts(METRICS))]
    for line in heapq.merge(*sources, key=lambda line: line.time):
        computing[line.source] = line.time, line.workers
        now = (workers for time, workers in computing.values() if (line.time - time).total_seconds() <= PAUSE_S)
        yield line._replace(workers=sum(now))


def _lines(directory: StoredRun, name: str, source: int) -> Iterator[Line]:
    try:
        with directory.open(name) as file, io.TextIOWrapper(file, "utf-8", "replace") as handle:
            for text in handle:
                try:
                    row = json.loads(text)
                    time = datetime.fromisoformat(row["time"]).astimezone(UTC)
                    line = Line(time, source, computing_workers(row), row)
                except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                    continue
                yield line
    except OSError:
        return
