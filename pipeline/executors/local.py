"""`executor=local`: run the shards on this machine, in this process or in several worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import RunProgress, format_duration
from pipeline.runtime.terminal import counted
from pipeline.storage.names import METRICS

if TYPE_CHECKING:
    from pipeline.inference.job import Job

_MOST = 1024


@dataclass
class Options:
    """`executor.*` of `executor=local`.

    Attributes:
        workers: Number of processes that compute; `None` for one on each device.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        """Refuse a number that cannot be.

        Raises:
            UserError: The number is not from 1 to 1024.
        """
        if self.workers is not None and not 1 <= self.workers <= _MOST:
            raise UserError(f"executor.workers={self.workers}: must be a whole number from 1 to {_MOST}, or null")


class Executor:
    """Runs the shards in this process; with several workers, in processes that take the shards from one queue."""

    def __init__(self, options: Options) -> None:
        """Create the executor."""
        self._workers = options.workers

    def run(self, job: Job, console: Console, say: Callable[[str], None]) -> str:
        """Run each pending shard; see `pipeline.executors.Executor.run`."""
        # Imported here, because the configuration reads `Options` without waiting for torch.
        import torch

        from pipeline.executors.processes.pool import Pool
        from pipeline.inference.execute import execute
        from pipeline.inference.monitor import Monitor

        devices = self._devices(job)
        names = _names(devices)
        progress = RunProgress(
            console,
            job.directory.local_log(METRICS),
            total_s=job.audio_s,
            done_s=job.done_s,
            total_shards=job.manifest.num_shards,
            done_shards=job.manifest.num_shards - len(job.pending),
            failures=job.failures_before,
            workers=names,
        )
        with progress:
            monitor = Monitor(progress, job.max_failures, job.textfile)
            if len(devices) == 1:
                kept = execute(job, job.pending, torch.device(devices[0]), monitor)
            else:
                kept = Pool(job, devices, names, monitor, say).run()
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

    def _devices(self, job: Job) -> list[str]:
        """Return the device of each worker. Workers take the devices in turn; more workers than shards have no use."""
        wanted = len(job.devices) if self._workers is None else self._workers
        return [job.devices[place % len(job.devices)] for place in range(min(wanted, len(job.pending)))]


def _names(devices: Sequence[str]) -> list[str]:
    """Return the name of each worker, for people: that of its device if no other worker has the device."""
    if len(set(devices)) == len(devices):
        return list(devices)
    return [f"worker {place} on {device}" for place, device in enumerate(devices)]
