"""Summarises `logs/metrics.jsonl` in time bins: the speed of a run, and how its time was spent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.metrics import PAUSE_S
from pipeline.storage.metrics import Line, read_metrics
from pipeline.storage.run_directory import RunDirectory

BINS = 240
"""Maximum of bins. When a run needs more, neighbouring bins are merged."""
_FIRST_BIN_S = 0.05
_FIELDS = ("valid_s", "forward_s", "load_s", "write_s", "idle_s")


@dataclass(frozen=True)
class Timing:
    """How a run spent its time. Pauses between sessions are left out.

    Where several workers compute at the same time, a second of each of them counts as its part of a second.

    Attributes:
        width_s: Seconds per bin.
        audio_s: `(bins,)` seconds of audio that were processed.
        model_s, load_s, write_s, other_s: `(bins,)` seconds in which the model worked, waited for recordings, waited
            for the writer, and was idle for other reasons.
        sessions: `(sessions,)` seconds at which each session started; the first is 0.
        first, last: Times at which the first and the last batch ended.
    """

    width_s: float
    audio_s: NDArray[np.float64]
    model_s: NDArray[np.float64]
    load_s: NDArray[np.float64]
    write_s: NDArray[np.float64]
    other_s: NDArray[np.float64]
    sessions: tuple[float, ...]
    first: datetime
    last: datetime

    @property
    def wall_s(self) -> float:
        """Working time in seconds."""
        return float(self.model_s.sum() + self.load_s.sum() + self.write_s.sum() + self.other_s.sum())

    @property
    def real_time(self) -> float | None:
        """Seconds of audio per second of work; `None` if no work was measured."""
        return float(self.audio_s.sum()) / self.wall_s if self.wall_s > 0 else None


@dataclass(frozen=True)
class _Batch:
    time: datetime
    source: int
    index: int
    numbers: tuple[float, ...]
    workers: int


def read_timing(directory: RunDirectory, chosen: Callable[[datetime], bool] = lambda time: True) -> Timing | None:
    """Read the metrics of a run in bounded memory. Return `None` if there is no file or no batch.

    Incomplete lines, as after a crash, are skipped. A new session starts where the batch index does not increase, in a
    run with parts in one of them.

    Args:
        directory: The run.
        chosen: Whether to read a batch that ended at this time.
    """
    bins, width = np.zeros((BINS, 5)), _FIRST_BIN_S
    position, sessions = 0.0, [0.0]
    first = last = None
    indices: dict[int, int] = {}
    for batch in filter(None, map(_parsed, read_metrics(directory))):
        if not chosen(batch.time):
            continue
        if batch.index <= indices.get(batch.source, -1):
            sessions.append(position)
        indices[batch.source] = batch.index
        valid_s, *spent = _spent(batch)
        position += sum(spent)
        while position >= width * BINS:
            bins = np.concatenate([bins.reshape(BINS // 2, 2, 5).sum(1), np.zeros((BINS // 2, 5))])
            width *= 2
        _spread(bins, width, position - sum(spent), position, np.array([valid_s, *spent]))
        first, last = first or batch, batch
    if first is None or last is None:
        return None
    audio_s, model_s, load_s, write_s, other_s = bins[: max(1, math.ceil(position / width))].T
    return Timing(width, audio_s, model_s, load_s, write_s, other_s, tuple(sessions), first.time, last.time)


def _parsed(line: Line) -> _Batch | None:
    try:
        numbers = tuple(float(line.row[name]) for name in _FIELDS)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            return None
        return _Batch(line.time, line.source, int(line.row["batch"]), numbers, line.workers)
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _spent(batch: _Batch) -> tuple[float, ...]:
    """Return seconds of audio, and the seconds of model, loader, writer and the rest.

    The idle time of the device is split by the waiting times for loader and writer. Waiting while the device works
    costs nothing.
    """
    valid_s, forward_s, load_s, write_s, idle_s = batch.numbers
    idle_s = min(idle_s, PAUSE_S)
    share = min(1.0, idle_s / (load_s + write_s)) if load_s + write_s > 0 else 0.0
    other_s = idle_s - share * (load_s + write_s)
    spent = min(forward_s, PAUSE_S), share * load_s, share * write_s, other_s
    return valid_s, *(seconds / batch.workers for seconds in spent)


def _spread(bins: NDArray[np.float64], width: float, start: float, stop: float, amounts: NDArray[np.float64]) -> None:
    """Spread the amounts of a batch evenly over the bins that the batch covers."""
    low, high = int(start / width), min(int(stop / width), len(bins) - 1)
    if low >= high or stop <= start:
        bins[high] += amounts
        return
    edges = np.clip(np.arange(low, high + 2) * width, start, stop)
    bins[low : high + 1] += np.diff(edges)[:, None] / (stop - start) * amounts
