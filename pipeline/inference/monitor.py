"""Follows the execution of shards: counts batches, failures and commits, and logs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console

from pipeline.inference.job import Job
from pipeline.inference.textfile import RunTextfile
from pipeline.records import Failure
from pipeline.runtime.errors import RunError
from pipeline.runtime.metrics import BatchMetrics
from pipeline.runtime.progress import RunProgress, format_duration
from pipeline.runtime.terminal import counted
from pipeline.storage.commits import CommitRecord
from pipeline.storage.names import METRICS

LOG = logging.getLogger("pipeline")


class Listener(Protocol):
    """What `execute` calls while it works. In another process than the run's, it passes the calls on to the run."""

    def begin(self) -> None:
        """Called when the model is loaded, and the first batch is about to be asked for."""
        ...

    def batch(self, metrics: BatchMetrics, covered_s: float, failures: Sequence[Failure]) -> None:
        """Called for each batch.

        Args:
            metrics: The metrics of the batch.
            covered_s: Seconds of audio in the manifest that the batch covers, including failed utterances.
            failures: The utterances that failed in the batch.

        Raises:
            RunError: More than `max_failures` utterances of the run have failed.
        """
        ...

    def committed(self, record: CommitRecord) -> None:
        """Called for each commit, from a thread of its own."""
        ...

    def written(self, seconds: float) -> None:
        """Called at the end, with the seconds that writing took after the last batch."""
        ...


class Monitor:
    """Follows a whole run, which has one or several workers. The `Listener` of a single worker."""

    def __init__(self, progress: RunProgress, max_failures: int | None, textfile: RunTextfile | None = None) -> None:
        """Create the monitor.

        Args:
            progress: Shows the progress. It knows the failures of earlier runs.
            max_failures: Number of failures above which the run stops; `None` for no limit.
            textfile: The figures for Prometheus; `None` for none.
        """
        self._progress = progress
        self._max_failures = max_failures
        self._textfile = textfile or RunTextfile()
        self._textfile.shards(*progress.shards)

    def begin(self, place: int = 0) -> None:
        """Note that the worker at a place begins; see `Listener.begin`."""
        self._progress.begin(place)

    def take(self, place: int, shard: int) -> None:
        """Note that one of several workers has taken a shard."""
        self._textfile.take(self._progress.name(place), shard)

    def batch(self, metrics: BatchMetrics, covered_s: float, failures: Sequence[Failure], place: int = 0) -> None:
        """Count a batch of the worker at a place; see `Listener.batch`."""
        self._progress.batch(metrics, covered_s, place)
        self.take(place, metrics.shard)
        self._textfile.batch(self._progress.name(place), covered_s, metrics.forward_s, metrics.idle_s)
        total, limit = self._progress.failures, self._max_failures
        if failures and limit is not None and total > limit:
            last = failures[-1]
            raise RunError(
                f"{counted(total, 'failure')}, more than max_failures={limit}; "
                f"the last one is {last.id!r}: {last.error}, {last.message}"
            )

    def committed(self, record: CommitRecord) -> None:
        """Count and log a commit."""
        self._progress.shard_committed()
        self._textfile.shards(*self._progress.shards)
        self._textfile.committed(record.shard, record.utterances, record.failures)
        LOG.info("committed shard %d: %d utterances, %d failures", record.shard, record.utterances, record.num_failures)

    def written(self, seconds: float) -> None:
        """Count seconds of writing; see `Listener.written`."""
        self._progress.written(seconds)

    def end(self, place: int, lost_s: float = 0.0, lost_failures: int = 0) -> None:
        """Note that one of several workers has ended.

        Args:
            place: Place of the worker.
            lost_s: Seconds of audio that are computed again, because the worker had not committed them.
            lost_failures: Failures among them.
        """
        self._progress.end(place, lost_s, lost_failures)
        self._textfile.leave(self._progress.name(place))


def follow(
    job: Job,
    names: Sequence[str],
    console: Console,
    say: Callable[[str], None],
    execute: Callable[[Monitor], Sequence[int]],
) -> str:
    """Show and log the execution of a job, and say at its end what a person should know of it.

    Args:
        job: The job.
        names: Name of each worker, for people.
        console: Console of the live view.
        say: Prints and logs a line.
        execute: Executes the pending shards of the job, tells the monitor, and returns the shards whose earlier results
            were kept.

    Returns:
        The speed in words.
    """
    progress = RunProgress(
        console,
        job.directory.local_log(METRICS),
        total_s=job.audio_s,
        done_s=job.done_s,
        total_shards=job.num_shards,
        done_shards=job.num_shards - len(job.pending),
        failures=job.failures_before,
        workers=names,
    )
    with progress:
        kept = execute(Monitor(progress, job.max_failures, job.textfile))
    if progress.workers_said:
        say(progress.workers_said)
    if kept:
        say(
            f"{counted(len(kept), 'shard')} kept unchanged ({', '.join(map(str, kept[:10]))}), because "
            "an utterance that had a result would have failed now"
        )
    if progress.is_bound_by_writing and job.tables.faster_setting is not None:
        say(
            f"writing held this run up: it waited {format_duration(progress.waited_for_writer_s)} of "
            f"{format_duration(progress.elapsed_s)} for the writer; {job.tables.faster_setting} "
            "(with another run_dir=) takes a quarter of the time to write"
        )
    return f", {progress.real_time:.1f} x real time, in {format_duration(progress.elapsed_s)}"
