"""Decides which worker computes which shard, and what happens to the shards of a worker that dies.

A worker is a process with a model. It has a place, a number from 0 on; another worker may follow at the same place. How
workers are started, and how they talk to the run, is the business of the executors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.inference.job import Job
from pipeline.inference.monitor import Monitor
from pipeline.records import Failure
from pipeline.runtime.errors import RunError
from pipeline.runtime.metrics import BatchMetrics
from pipeline.runtime.terminal import counted
from pipeline.storage.commits import CommitRecord

DEATHS_AT_PLACE = 3
"""Workers that may die at a place, without a commit between their deaths, before the place is left empty. A GPU that
has failed kills every worker on it; then the workers on other GPUs do the rest. A worker that dies now and then, as
when memory runs short, closes no place, however long the run takes."""
DEATHS_WITH_SHARD = 3
"""Workers that may die while they have the same shard before the run leaves it out. As far as there are other places,
each of them is at another place, so the shard is the likely cause."""


@dataclass
class _Worker:
    """A worker.

    Attributes:
        shards: Shards that it has taken and not committed: seconds of audio and failures that it has counted in each.
        dismissed: Whether it was told that no shard is left.
    """

    shards: dict[int, tuple[float, int]] = field(default_factory=dict)
    dismissed: bool = False


class Scheduler:
    """Gives the pending shards of a job to workers, the longest first, so that all workers end at the same time.

    Attributes:
        kept: Shards whose earlier results were kept; see `execute`.
    """

    def __init__(self, job: Job, names: Sequence[str], monitor: Monitor, say: Callable[[str], None]) -> None:
        """Create a scheduler without workers.

        Args:
            job: The job. This process holds the lock of its directory.
            names: Name of each place, for people.
            monitor: Counts what the workers do.
            say: Prints and logs a line.
        """
        self._job = job
        self._names = names
        self._monitor = monitor
        self._say = say
        self._queue = deque(sorted(job.pending, key=job.seconds_of, reverse=True))
        self._workers: dict[int, _Worker] = {}
        self._usable = {*range(len(names))}  # places where workers may still be started
        self._deaths = [0] * len(names)  # at each place, since a worker there has committed a shard
        self._num_deaths = 0
        self._died_at: dict[int, list[int]] = {}  # places of the deaths with each shard
        self._left_out: list[int] = []
        self._last_exit = ""
        self.kept: list[int] = []

    @property
    def waiting(self) -> int:
        """Number of shards that no worker has taken."""
        return len(self._queue)

    def places_to_fill(self) -> list[int]:
        """Return the places where a worker has to be started, and count these workers as started.

        There are some while more shards wait than workers that may still take one.

        Raises:
            RunError: Shards wait, but too many workers have died.
        """
        takers = sum(not each.dismissed for each in self._workers.values())
        empty = sorted(self._usable - self._workers.keys()) if len(self._queue) > takers else []
        free = [place for place in empty if any(self._suits(place, shard) for shard in self._queue)]
        filled = free[: len(self._queue) - takers]
        self._workers.update((place, _Worker()) for place in filled)
        if self._queue and not self._workers:
            raise RunError(
                f"executor.workers: {counted(self._num_deaths, 'worker')} died, and the last one {self._last_exit}; "
                f"{self._job.directory.local_log()} may say why; what was committed stays, and once this is "
                "mended the same command continues"
            )
        return filled

    def give(self, place: int) -> int | None:
        """Return the next shard for the worker at a place. If there is none, the worker is dismissed."""
        worker = self._workers[place]
        shard = next((shard for shard in self._queue if self._suits(place, shard)), None)
        if shard is None:
            worker.dismissed = True
        else:
            self._queue.remove(shard)
            worker.shards[shard] = 0.0, 0
            self._monitor.take(place, shard)
        return shard

    def begin(self, place: int) -> None:
        """Note that the worker at a place has loaded its model."""
        self._monitor.begin(place)

    def batch(self, place: int, metrics: BatchMetrics, covered_s: float, failures: Sequence[Failure]) -> None:
        """Count a batch of the worker at a place; see `Listener.batch`."""
        shards = self._workers[place].shards
        if metrics.shard in shards:
            done_s, failed = shards[metrics.shard]
            shards[metrics.shard] = done_s + covered_s, failed + len(failures)
        self._monitor.batch(metrics, covered_s, failures, place)

    def committed(self, place: int, record: CommitRecord) -> None:
        """Note that the worker at a place has committed a shard."""
        self._workers[place].shards.pop(record.shard, None)
        self._deaths[place] = 0
        self._monitor.committed(record)

    def written(self, seconds: float) -> None:
        """Count seconds of writing; see `Listener.written`."""
        self._monitor.written(seconds)

    def end(self, place: int) -> None:
        """Note that the worker at a place has ended in good order, or because the run ends."""
        del self._workers[place]
        self._monitor.end(place)

    def die(self, place: int, exit_said: str) -> None:
        """Put the shards of a worker that has died back into the queue, except those that killed too many workers.

        Args:
            place: Place of the worker.
            exit_said: How it died, such as `was killed by SIGKILL`.
        """
        shards = self._workers.pop(place).shards
        for shard in shards:
            self._job.directory.remove_staging(shard)
        # It may have committed a shard and been killed before it said so. For a shard that is computed again because of
        # its failures, that cannot be told: the record may be the old one.
        for record in self._job.committed(shard for shard in shards if shard not in self._job.attempts).values():
            del shards[record.shard]
            self._monitor.committed(record)
        self._monitor.end(place, sum(done_s for done_s, _ in shards.values()), sum(n for _, n in shards.values()))
        self._num_deaths += 1
        self._deaths[place] += 1
        if self._deaths[place] == DEATHS_AT_PLACE:
            self._usable.remove(place)
        self._last_exit = exit_said
        for shard in shards:
            self._died_at.setdefault(shard, []).append(place)
        left_out = [shard for shard in shards if len(self._died_at[shard]) >= DEATHS_WITH_SHARD]
        again = [shard for shard in shards if shard not in left_out]
        self._left_out += left_out
        self._queue.extendleft(reversed(again))
        self._say(
            f"{self._names[place]}: the process {exit_said}"
            + (f"; computed again: {_listed(again)}" if again else "")
            + (f"; left out, as {DEATHS_WITH_SHARD} workers died with it: {_listed(left_out)}" if left_out else "")
            + ("; no further one is started in its place" if place not in self._usable else "")
        )

    def require_all(self) -> None:
        """Check that no shard was left out.

        Raises:
            RunError: A shard was left out.
        """
        if self._left_out:
            raise RunError(
                f"{_listed(self._left_out)}: left out, because {DEATHS_WITH_SHARD} workers died with it, and the last "
                f"one {self._last_exit}; {self._job.directory.local_log()} may say why; if memory ran out, set a "
                "smaller batch.max_seconds=, executor.workers= or loader.workers=; the other shards are committed, and "
                "once this is mended the same command continues"
            )

    def _suits(self, place: int, shard: int) -> bool:
        """Whether a worker at a place may take a shard: preferably where no worker has died with the shard."""
        usable, died_at = self._usable, self._died_at.get(shard, ())
        return place in usable and (place not in died_at or usable <= {*died_at})


def _listed(shards: Sequence[int]) -> str:
    return f"shard{'s' * (len(shards) != 1)} {', '.join(map(str, sorted(shards)))}"
