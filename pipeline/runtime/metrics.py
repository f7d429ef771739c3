"""The lines of `logs/metrics.jsonl`, one for each batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAUSE_S = 300.0
"""Readers of the metrics take a longer gap between batches, in seconds, as a stop between two runs."""


@dataclass(frozen=True)
class BatchMetrics:
    """One line of `logs/metrics.jsonl`, which also has the field `time` (UTC, ISO 8601).

    Where several workers compute at the same time, it has the field `worker`, the place of the worker, and the field
    `workers`, the number of workers that were computing when the batch ended. A second of a worker is then the
    `workers`-th part of a second of the run.

    Attributes:
        batch: Index of the batch in this run.
        shard: The shard.
        size: Chunks in the batch. An utterance that is not cut is one chunk.
        failed: Utterances that failed.
        padded_s: Seconds of audio that the model processed, including padding.
        valid_s: Seconds of audio without padding.
        load_s: Seconds that the model waited for the loader.
        forward_s: Seconds that the device worked on the batch.
        write_s: Seconds that the run waited for the writer.
        idle_s: Seconds that the device was idle before the batch, for whatever reason.
    """

    batch: int
    shard: int
    size: int
    failed: int
    padded_s: float
    valid_s: float
    load_s: float
    forward_s: float
    write_s: float
    idle_s: float


def computing_workers(line: Mapping[str, Any]) -> int:
    """Return the number of workers that were computing when the batch of a line ended, at least 1.

    Raises:
        ValueError, TypeError: The field is no number.
    """
    return max(1, int(line.get("workers", 1)))
