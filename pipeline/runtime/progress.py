"""Shows the progress of a run, and writes `logs/metrics.jsonl` with one line per batch."""

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

from pipeline.runtime.terminal import counted

WIDE = 120
"""A terminal with at least this many columns has room for the full line beside a progress bar."""

PLAIN_EVERY_S = 30.0
"""Seconds between two lines of a run without a terminal."""
WRITING_BOUNDS = (0.25, 1.0)
"""Writing bounds a run that waited for the writer for more than this share of its time, and this many seconds."""
PAUSE_S = 300.0
"""Readers of the metrics take a longer gap between batches, in seconds, as a stop between two runs."""


@dataclass(frozen=True)
class BatchMetrics:
    """One line of `logs/metrics.jsonl`, which also has the field `time` (UTC, ISO 8601).

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


class RunProgress:
    """Shows a live view on a terminal and plain lines elsewhere, both from the same numbers."""

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
        """Set up the view; entering the context starts it.

        Args:
            console: Where to show the progress.
            metrics: The metrics file.
            total_s: Seconds of audio in the manifest.
            done_s: Seconds of audio that earlier runs have done.
            total_shards: Shards in the manifest.
            done_shards: Shards that earlier runs have committed.
            failures: Failures in those shards.
        """
        self._console = console
        self._metrics_path = metrics
        self._metrics: TextIO | None = None
        self._total_s = total_s
        self._before_s = done_s
        self._shards = (done_shards, total_shards)
        self.done_s = 0.0
        self.failures = failures
        self.waited_s = 0.0
        self.waited_for_writer_s = 0.0
        self._started = time.monotonic()
        self._begun = False
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
        """Show the final state and close the metrics file."""
        if self._live is not None:
            self._show()
            self._live.stop()
        else:
            self._console.print(self.line(), highlight=False)
        if self._metrics is not None:
            self._metrics.close()

    def begin(self) -> None:
        """Start the clock: a model is loaded, and the first batch is about to be asked for. Later calls do nothing."""
        if not self._begun:
            self._begun, self._started = True, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the context was entered."""
        return time.monotonic() - self._started

    @property
    def real_time(self) -> float:
        """Seconds of audio done per second of wall clock."""
        return self.done_s / max(self.elapsed_s, 1e-9)

    @property
    def waiting(self) -> float:
        """Share of the wall-clock time in which the model waited for the loader."""
        return self.waited_s / max(self.elapsed_s, 1e-9)

    @property
    def is_bound_by_writing(self) -> bool:
        """Whether writing takes so long that it decides how long the run takes."""
        share, seconds = WRITING_BOUNDS
        return self.waited_for_writer_s > max(share * self.elapsed_s, seconds)

    def batch(self, metrics: BatchMetrics, covered_s: float) -> None:
        """Count one batch and write its metrics.

        Args:
            metrics: The metrics of the batch.
            covered_s: Seconds of audio in the manifest that the batch covers, including failed utterances.
        """
        self.done_s += covered_s
        self.failures += metrics.failed
        self.waited_s += metrics.load_s
        self.waited_for_writer_s += metrics.write_s
        if self._metrics is not None:
            stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
            rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(metrics).items()}
            self._metrics.write(json.dumps({"time": stamp, **rounded}) + "\n")
            self._metrics.flush()
        self._show()

    def written(self, seconds: float) -> None:
        """Count the seconds that the run waited for the writer after the last batch."""
        self.waited_for_writer_s += seconds

    def shard_committed(self) -> None:
        """Count one committed shard."""
        self._shards = (self._shards[0] + 1, self._shards[1])
        self._show()

    def line(self) -> str:
        """Return one line with the hours done, speed, remaining time, shards, failures and waiting time."""
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
            f"{self._shards[0]:,} of {counted(self._shards[1], 'shard')}, {counted(self.failures, 'failure')}, "
            f"waiting for the loader {100 * self.waiting:.0f} %"
        )

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._task, completed=self._before_s + self.done_s, says=self.line())
        elif self._metrics is not None and time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(self.line(), highlight=False)


def format_hours(seconds: float) -> str:
    """Format seconds of audio as hours; as minutes or seconds if less than an hour or a minute."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def format_duration(seconds: float) -> str:
    """Format seconds as `2 h 05 min`, `3 min 20 s` or `4.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
