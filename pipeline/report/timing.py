"""`logs/metrics.jsonl` as a few hundred bins: how fast a run was over time, and what the time went into."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.progress import PAUSE_S
from pipeline.storage.run_directory import METRICS, RunDirectory

BINS = 240
"""At most so many; when the run outgrows them, neighbours are added up."""
_FIRST_BIN_S = 0.05
_FIELDS = ("valid_s", "forward_s", "load_s", "write_s", "idle_s")


@dataclass(frozen=True)
class Timing:
    """What a run's time went into; pauses between sessions are left out.

    Attributes:
        width_s: Seconds of a bin.
        audio_s: `(bins,)` seconds of audio done in each.
        model_s, load_s, write_s, other_s: `(bins,)` seconds in which the model worked, waited for recordings, waited
            for the writer, and had nothing to do for other reasons.
        sessions: `(sessions,)` seconds at which each began; the first at 0.
        first, last: When the first and the last batch ended.
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
        """Seconds of work."""
        return float(self.model_s.sum() + self.load_s.sum() + self.write_s.sum() + self.other_s.sum())

    @property
    def real_time(self) -> float | None:
        """Seconds of audio per second of work; `None` where none was measured."""
        return float(self.audio_s.sum()) / self.wall_s if self.wall_s > 0 else None


@dataclass(frozen=True)
class _Batch:
    time: datetime
    index: int
    numbers: tuple[float, ...]


def read_timing(directory: RunDirectory) -> Timing | None:
    """Read the metrics of a run, of any length, in bounded memory; `None` where it is missing or holds no batch.

    A line that a crash cut short is passed over. A session begins where the number of the batch does not grow.
    """
    bins, width = np.zeros((BINS, 5)), _FIRST_BIN_S
    position, sessions = 0.0, [0.0]
    first = last = None
    try:
        with directory.open(METRICS) as source, io.TextIOWrapper(source, "utf-8", "replace") as handle:
            for batch in filter(None, map(_parsed, handle)):
                if last is not None and batch.index <= last.index:
                    sessions.append(position)
                valid_s, *spent = _spent(batch.numbers)
                position += sum(spent)
                while position >= width * BINS:
                    bins = np.concatenate([bins.reshape(BINS // 2, 2, 5).sum(1), np.zeros((BINS // 2, 5))])
                    width *= 2
                _spread(bins, width, position - sum(spent), position, np.array([valid_s, *spent]))
                first, last = first or batch, batch
    except OSError:
        return None
    if first is None or last is None:
        return None
    audio_s, model_s, load_s, write_s, other_s = bins[: max(1, math.ceil(position / width))].T
    return Timing(width, audio_s, model_s, load_s, write_s, other_s, tuple(sessions), first.time, last.time)


def _parsed(line: str) -> _Batch | None:
    try:
        row = json.loads(line)
        numbers = tuple(float(row[name]) for name in _FIELDS)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            return None
        return _Batch(datetime.fromisoformat(row["time"]), int(row["batch"]), numbers)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _spent(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """Seconds of audio, then of model, loader, writer, and the rest.

    What the device idles is what it waits for; loading and writing beside its work cost nothing.
    """
    valid_s, forward_s, load_s, write_s, idle_s = numbers
    idle_s = min(idle_s, PAUSE_S)
    share = min(1.0, idle_s / (load_s + write_s)) if load_s + write_s > 0 else 0.0
    return valid_s, min(forward_s, PAUSE_S), share * load_s, share * write_s, idle_s - share * (load_s + write_s)


def _spread(bins: NDArray[np.float64], width: float, start: float, stop: float, amounts: NDArray[np.float64]) -> None:
    """Add a batch to the bins that it covers, evenly."""
    low, high = int(start / width), min(int(stop / width), len(bins) - 1)
    if low >= high or stop <= start:
        bins[high] += amounts
        return
    edges = np.clip(np.arange(low, high + 2) * width, start, stop)
    bins[low : high + 1] += np.diff(edges)[:, None] / (stop - start) * amounts
