"""Shows the progress of a run, and writes `logs/metrics.jsonl` with one line per batch.

A run has one or several workers: this process, or processes that it has started. A worker has a place from 0 on; a
worker that takes the place of another goes on with its figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from pipeline.runtime.clock import timestamp
from pipeline.runtime.metrics import BatchMetrics
from pipeline.runtime.terminal import counted

WIDE = 120
"""A terminal with at least this many columns has room for the full line beside a progress bar."""

PLAIN_EVERY_S = 30.0
"""Seconds between two lines of a run without a terminal."""
WRITING_BOUNDS = (0.25, 1.0)
"""Writing bounds a run that waited for the writer for more than this share of its time, and this many seconds."""


@dataclass
class _Worker:
    """The figures of one worker.

    Attributes:
        name: Name of the worker for people, such as `cuda:1`.
        began: Time at which its model was loaded for the first time (`time.monotonic`); `None` before that.
        computes: Whether the worker has loaded its model and has not ended.
        done_s, busy_s, idle_s: Seconds of audio that it has done, and seconds that its device worked and was idle.
    """

    name: str
    began: float | None = None
    computes: bool = False
    done_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0

    def line(self) -> str:
        """Return the speed of the worker, and the share of the time in which its device was idle."""
        if self.began is None:
            return f"{self.name} starting"
        real_time = self.done_s / max(time.monotonic() - self.began, 1e-9)
        idle = self.idle_s / max(self.busy_s + self.idle_s, 1e-9)
        ended = "" if self.computes else ", ended"
        return f"{self.name} {real_time:.1f} x real time, idle {100 * idle:.0f} %{ended}"


class _View(Progress):
    """The live view: the progress of the run, and below it a line for each of several workers."""

    workers: Sequence[_Worker] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for worker in self.workers:
            yield Text(f"  {worker.line()}", no_wrap=True, overflow="ellipsis")


class RunProgress:
    """Shows a live view on a terminal and plain lines elsewhere, both from the same numbers.

    Attributes:
        shards: Number of committed shards, and of all.
        done_s: Seconds of audio that this run has done.
        failures: Utterances that failed, in earlier runs too.
        waited_s, waited_for_writer_s: Seconds that the workers waited for their loaders and for their writers.
    """

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
        workers: Sequence[str] = ("",),
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
            workers: Name of each worker, by place. The name of a single worker is not shown.
        """
        self._console = console
        self._metrics_path = metrics
        self._metrics: TextIO | None = None
        self._total_s = total_s
        self._before_s = done_s
        self.shards = (done_shards, total_shards)
        self._workers = [_Worker(name) for name in workers]
        self._batches = 0
        self.done_s = 0.0
        self.failures = failures
        self.waited_s = 0.0
        self.waited_for_writer_s = 0.0
        self._started = time.monotonic()
        self._begun = False
        self._last_line = self._started
        self._live: _View | None = None
        if console.is_terminal:
            says = TextColumn("{task.fields[says]}")
            bar = () if console.width < WIDE else (BarColumn(bar_width=None), TaskProgressColumn())
            self._live = _View(*bar, says, console=console, refresh_per_second=4, expand=True)
            self._live.workers = self._workers if len(workers) > 1 else ()
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

    def begin(self, place: int = 0) -> None:
        """Note that a worker has loaded its model, and is about to ask for its first batch.

        The first call starts the clock of the run.
        """
        now = time.monotonic()
        if not self._begun:
            self._begun, self._started = True, now
        worker = self._workers[place]
        worker.began, worker.computes = worker.began or now, True

    def end(self, place: int, lost_s: float = 0.0, lost_failures: int = 0) -> None:
        """Note that a worker has ended.

        Args:
            place: Place of the worker.
            lost_s: Seconds of audio that it had counted as done, and that are computed again.
            lost_failures: Failures among them.
        """
        self._workers[place].computes = False
        self._workers[place].done_s -= lost_s
        self.done_s -= lost_s
        self.failures -= lost_failures
        self._show()

    def name(self, place: int) -> str:
        """Return the name of the worker at a place."""
        return self._workers[place].name

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
        """Share of the wall-clock time in which the model waited for the loader; the mean over the workers."""
        return self.waited_s / len(self._workers) / max(self.elapsed_s, 1e-9)

    @property
    def is_bound_by_writing(self) -> bool:
        """Whether writing takes so long that it decides how long the run takes."""
        share, seconds = WRITING_BOUNDS
        return self.waited_for_writer_s > max(share * self.elapsed_s, seconds)

    @property
    def workers_said(self) -> str:
        """The figures of several workers in one line; an empty string for a single worker."""
        return "; ".join(worker.line().removesuffix(", ended") for worker in self._workers) if self._several else ""

    @property
    def _several(self) -> bool:
        return len(self._workers) > 1

    def batch(self, metrics: BatchMetrics, covered_s: float, place: int = 0) -> None:
        """Count one batch and write its metrics.

        Args:
            metrics: The metrics of the batch. The batches of several workers are numbered here, as they come.
            covered_s: Seconds of audio in the manifest that the batch covers, including failed utterances.
            place: Place of the worker that computed the batch.
        """
        worker = self._workers[place]
        for counted_by in (self, worker):
            counted_by.done_s += covered_s
        worker.busy_s += metrics.forward_s
        worker.idle_s += metrics.idle_s
        self.failures += metrics.failed
        self.waited_s += metrics.load_s
        self._wait_for_writer(metrics.write_s)
        shown = asdict(metrics)
        if self._several:
            computing = sum(each.computes for each in self._workers)
            shown = {**asdict(replace(metrics, batch=self._batches)), "worker": place, "workers": max(1, computing)}
        self._batches += 1
        if self._metrics is not None:
            stamp = timestamp()
            rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in shown.items()}
            self._metrics.write(json.dumps({"time": stamp, **rounded}) + "\n")
            self._metrics.flush()
        self._show()

    def written(self, seconds: float) -> None:
        """Count the seconds that a worker waited for its writer after its last batch."""
        self._wait_for_writer(seconds)

    def _wait_for_writer(self, seconds: float) -> None:
        """Count seconds of one worker. While one of several waits, the others go on."""
        self.waited_for_writer_s += seconds / len(self._workers)

    def shard_committed(self) -> None:
        """Count one committed shard."""
        self.shards = (self.shards[0] + 1, self.shards[1])
        self._show()

    def line(self) -> str:
        """Return one line with the hours done, speed, remaining time, shards, failures and waiting time."""
        done = self._before_s + self.done_s
        left = max(0.0, self._total_s - done)
        eta = format_duration(left / self.real_time) if self.real_time > 0 else "?"
        if self._live is not None and self._console.width < WIDE:
            return (
                f"{format_hours(done)} of {format_hours(self._total_s)}, {self.real_time:.0f} x, {eta} left, "
                f"{self.shards[0]}/{self.shards[1]} shards, {self.failures} failed, "
                f"waiting {100 * self.waiting:.0f} %"
            )
        return (
            f"{format_hours(done)} of {format_hours(self._total_s)}, {self.real_time:.1f} x real time, {eta} left, "
            f"{self.shards[0]:,} of {counted(self.shards[1], 'shard')}, {counted(self.failures, 'failure')}, "
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
