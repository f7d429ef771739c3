"""Executors run the shards of a job.

An executor is a module of this package. The module has a dataclass `Options` and a class `Executor(options)` that
implements the protocol below. The fields of `Options` are the keys `executor.*` of the configuration. The configuration
imports the module to read them, so the module imports torch inside `run` only. Shards can run in any process and in any
order, because each shard has its own commit record.

An executor has three parts to work with. `pipeline.inference.execute.execute` computes shards with one model. It takes
them from an iterable when it needs them, so several processes can share a queue. It tells a `Listener` what it does.
A `Monitor` (`pipeline.inference.monitor`) follows the whole run. It is the `Listener` of a single process; several
processes pass their calls on to it.

An executor can also hand the command itself over to jobs of a cluster, before a device is known. Its module then has a
function `submission(config, directory, say)`, which returns a `Submission`, or `None` if this command submits nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from pipeline.inference.job import Job
    from pipeline.models.device import Devices


MOST_WORKERS = 1024


def check_workers(workers: int | None) -> None:
    """Refuse a value of `executor.workers` that cannot be.

    Raises:
        UserError: The value is neither null nor from 1 to 1024.
    """
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"executor.workers={workers}: must be a whole number from 1 to {MOST_WORKERS}, or null")


class Executor(Protocol):
    """Decides which process runs which shards."""

    def devices(self, name: str) -> Devices:
        """Return the devices that the setting `device` stands for. They may be on other machines.

        Raises:
            UserError: There is no such device, or the machines that have the devices cannot be reached.
        """
        ...

    def run(self, job: Job, console: Console, say: Callable[[str], None]) -> str:
        """Run each pending shard of a job with `pipeline.inference.execute.execute`.

        Args:
            job: The job.
            console: Console of the live view.
            say: Prints and logs a line.

        Returns:
            The speed in words, for the end of the run.

        Raises:
            UserError: The weights cannot be used.
            RunError: More than `max_failures` utterances failed.
            Stopped: A signal has arrived.
        """
        ...

    def close(self) -> None:
        """Release what `devices` and `run` have opened. Called once, also after an error."""
        ...


class Submission(Protocol):
    """Hands a run over to jobs of a cluster, which repeat its command for parts of the shards."""

    def check(self) -> None:
        """Fetch the weights, and check that jobs can be submitted now, before the recordings are listed.

        Raises:
            UserError: Something is missing here, or jobs of this run are waiting or running, or as `ModelSource.fetch`.
        """
        ...

    def plan(self, num_shards: int) -> None:
        """Take the number of shards of the manifest. The lock is still held, so nothing may start yet."""
        ...

    def submit(self) -> int:
        """Submit the jobs, and say where to look. The lock has been released.

        Returns:
            The exit code of the command.

        Raises:
            UserError: As `check`, or the cluster refuses the jobs.
            RunError: Jobs that this command waits for have failed.
        """
        ...
