"""What a person sees while a run goes on, and `logs/metrics.jsonl`, one line a batch.

Fields of a metrics line: `time` (UTC, ISO 8601), `batch` (index in this run), `shard`, `size` (chunks in the batch:
utterances, where they are not cut), `failed` (utterances that failed), `padded_s` (seconds of audio the model ran
over, padding included), `valid_s` (seconds of audio without padding), `load_s` (seconds the model waited for the
loader), `forward_s` (seconds of the device's work on it), `write_s` (seconds waited for the writer), `idle_s` (seconds
the device had nothing to do before it, whatever it waited for).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

WIDE = 120
"""Columns of a terminal from which the whole line has room beside a bar."""

PLAIN_EVERY_S = 30.0
"""Between two lines of a run that has no terminal."""
PAUSE_S = 300.0
"""A gap between batches beyond this is a stop, not work: for those who read the metrics."""


@dataclass(frozen=True)
class BatchMetrics:
    """One line of `logs/metrics.jsonl`; the fields are described at the top of this module."""

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


class RunProgress:
    """The live view on a terminal, plain lines elsewhere; both from the same numbers."""

    def __init__(
        self,
        console: Console,
        metrics: Path,
        *,
        total_s: float,
        done_s: float,
        total_shards: int,
        done_shards: int,
        failures: int = 0,
    ) -> None:
        """Begin at `done_s` of `total_s` seconds of audio, `done_shards` of `total_shards` shards, `failures`."""
        self._console = console
        self._metrics_path = metrics
        self._metrics: TextIO | None = None
        self._total_s = total_s
        self._before_s = done_s
        self._shards = (done_shards, total_shards)
        self.done_s = 0.0
        self.failures = failures
        self.waited_s = 0.0
        self._started = time.monotonic()
        self._last_line = self._started
        self._live: Progress | None = None
        if console.is_terminal:
            says = TextColumn("{task.fields[says]}")
            bar = () if console.width < WIDE else (BarColumn(bar_width=None), TaskProgressColumn())
            self._live = Progress(*bar, says, console=console, refresh_per_second=4, expand=True)
            self._task = self._live.add_task("infer", total=max(total_s, 1e-9), says="starting")
            self._live.update(self._task, completed=done_s)

    def __enter__(self) -> RunProgress:
        """Open the metrics file and start the view."""
        self._metrics_path.parent.mkdir(parents=True, exist_ok=True)
        self._metrics = open(self._metrics_path, "a", encoding="utf-8")
        self._started = time.monotonic()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say where it ended."""
        if self._live is not None:
            self._show()
            self._live.stop()
        else:
            self._console.print(self.line(), highlight=False)
        if self._metrics is not None:
            self._metrics.close()

    def begin(self) -> None:
        """Start the clock: the model is loaded, and the first batch is about to be asked for."""
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first batch was asked for."""
        return time.monotonic() - self._started

    @property
    def real_time(self) -> float:
        """Seconds of audio done per second of wall clock."""
        return self.done_s / max(self.elapsed_s, 1e-9)

    @property
    def waiting(self) -> float:
        """Share of the wall clock in which the model waited for the loader."""
        return self.waited_s / max(self.elapsed_s, 1e-9)

    def batch(self, metrics: BatchMetrics, covered_s: float) -> None:
        """Count one batch, which accounts for `covered_s` seconds of the manifest, failed ones included."""
        self.done_s += covered_s
        self.failures += metrics.failed
        self.waited_s += metrics.load_s
        if self._metrics is not None:
            stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
            rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(metrics).items()}
            self._metrics.write(json.dumps({"time": stamp, **rounded}) + "\n")
            self._metrics.flush()
        self._show()

    def shard_committed(self) -> None:
        """Count one committed shard."""
        self._shards = (self._shards[0] + 1, self._shards[1])
        self._show()

    def line(self) -> str:
        """Hours, speed, estimated end, shards, failures and waiting, in one line."""
        done = self._before_s + self.done_s
        left = max(0.0, self._total_s - done)
        eta = format_duration(left / self.real_time) if self.real_time > 0 else "?"
        if self._live is not None and self._console.width < WIDE:
            return (
                f"{format_hours(done)} of {format_hours(self._total_s)}, {self.real_time:.0f} x, {eta} left, "
                f"{self._shards[0]}/{self._shards[1]} shards, {self.failures} failed, "
                f"waiting {100 * self.waiting:.0f} %"
            )
        return (
            f"{format_hours(done)} of {format_hours(self._total_s)}, {self.real_time:.1f} x real time, {eta} left, "
            f"{self._shards[0]} of {self._shards[1]} shards, {self.failures} failures, "
            f"waiting for the loader {100 * self.waiting:.0f} %"
        )

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._task, completed=self._before_s + self.done_s, says=self.line())
        elif self._metrics is not None and time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(self.line(), highlight=False)


def format_hours(seconds: float) -> str:
    """Seconds of audio as hours, or as minutes or seconds where hours would be 0.0."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: `2 h 05 min`, `3 min 20 s`, `4.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
