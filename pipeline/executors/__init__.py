"""Who executes which shards of a job.

An executor is a module of this package with a dataclass `Options` (its keys are `executor.*` of the configuration) and
a class `Executor(options)` that fits the protocol below. It imports torch inside `run` only, because the configuration
reads `Options`. The unit of work is a shard: the commit record makes a shard
done, so shards may be executed anywhere and in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

if TYPE_CHECKING:
    from pipeline.inference.job import Job


class Executor(Protocol):
    """Decides which process executes which shards."""

    def run(self, job: Job, console: Console, say: Callable[[str], None]) -> str:
        """Execute every pending shard of a job with `pipeline.inference.execute.execute`.

        Args:
            job: What is to be done.
            console: For the live view.
            say: Tells the person and the log one line.

        Returns:
            The speed in words, for the end of the run.

        Raises:
            UserError: The weights cannot be used.
            RunError: More failures than allowed.
            Stopped: A signal asked for it.
        """
        ...
