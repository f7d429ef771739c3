"""The worker processes of a run, seen from the run: starts them, gives them shards, and replaces those that die."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from pipeline.executors.processes import messages, worker
from pipeline.inference.job import Job
from pipeline.inference.monitor import Monitor
from pipeline.runtime.errors import RunError
from pipeline.runtime.signals import Stopped, allowing_stop, deferring_stop
from pipeline.runtime.terminal import counted
from pipeline.storage.names import LOG as LOG_FILE

LOG = logging.getLogger("pipeline")

DEATHS_AT_PLACE = 3
"""Workers that may die at a place before the place is left empty. A GPU that has failed kills every worker on it; then
the workers on other GPUs do the rest. One that dies now and then, as when memory runs short, does not stop a night."""
DEATHS_WITH_SHARD = 3
"""Workers that may die while they have the same shard before the run leaves it out. As far as there are other places,
each of them is at another place, so the shard is the likely cause."""
LOOK_S = 0.5
"""Seconds between two looks at silent workers. The death of a worker may go unnoticed for this long."""
STOP_S = 60.0
"""Seconds that workers have for a clean stop after an error of the run. Then they are killed. A stop by a signal has no
such limit: the person can send the signal again."""


@dataclass
class _Worker:
    """A worker process.

    Attributes:
        place: Its place.
        process: The process.
        connection: The connection to it; closed when the process has closed its end.
        shards: Shards that it has taken and not committed: seconds of audio and failures that it has counted in each.
        dismissed: Whether it was told that no shard is left.
        finished: Whether it has said that it is done.
    """

    place: int
    process: subprocess.Popen[bytes]
    connection: Connection
    shards: dict[int, tuple[float, int]] = field(default_factory=dict)
    dismissed: bool = False
    finished: bool = False

    def exit_said(self) -> str:
        """How the process ended."""
        code = self.process.returncode
        if code >= 0:
            return f"ended with code {code}"
        hint = ", as the system does if memory runs out" if code == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"


class Pool:
    """Runs the pending shards of a job in worker processes, the longest first, so that all end at the same time."""

    def __init__(
        self, job: Job, devices: Sequence[str], names: Sequence[str], monitor: Monitor, say: Callable[[str], None]
    ) -> None:
        """Start no process yet.

        Args:
            job: The job. This process holds the lock of its directory.
            devices: Device of each place.
            names: Name of each place, for people.
            monitor: Counts what the workers do.
            say: Prints and logs a line.
        """
        self._job = job
        self._devices = devices
        self._names = names
        self._monitor = monitor
        self._say = say
        self._queue = deque(sorted(job.pending, key=job.seconds_of, reverse=True))
        self._workers: list[_Worker] = []
        self._deaths = [0] * len(devices)
        self._died_at: defaultdict[int, list[int]] = defaultdict(list)  # places of the deaths with each shard
        self._left_out: list[int] = []
        self._last_exit = ""
        self._kept: list[int] = []
        self._task = -1

    def run(self) -> list[int]:
        """Run the shards.

        Returns:
            Shards whose earlier results were kept; see `execute`.

        Raises:
            UserError, RunError, OSError: As `execute` in a worker. Or the job cannot be sent, a worker cannot be
                started, or too many have died.
            Stopped: A signal has arrived.
        """
        lock = self._job.directory.held_lock
        assert lock is not None, "the caller holds the lock"
        job = replace(self._job, sharing=len(self._devices))
        self._task = messages.Task(job, lock).store()
        try:
            with deferring_stop():
                self._fill_places(lock.descriptor)
                while self._workers:
                    with allowing_stop():
                        self._wait()
                    for each in list(self._workers):
                        self._look_at(each)
                    self._fill_places(lock.descriptor)
            self._require_all()
        except BaseException as error:
            with deferring_stop():
                self._stop(math.inf if isinstance(error, Stopped) else STOP_S)
            raise
        finally:
            os.close(self._task)
        return sorted(self._kept)

    def _fill_places(self, lock: int) -> None:
        """Start workers while there are more shards in the queue than workers that may still take one."""
        takers = sum(not each.dismissed for each in self._workers)
        taken = {each.place for each in self._workers}
        free = [n for n in range(len(self._deaths)) if n not in taken and any(self._suits(n, s) for s in self._queue)]
        for place in free[: max(0, len(self._queue) - takers)]:
            self._workers.append(self._start(place, lock))
        if self._queue and not self._workers:
            raise RunError(
                f"executor.workers: {counted(sum(self._deaths), 'worker')} died, and the last one {self._last_exit}; "
                f"{self._job.directory.locate(LOG_FILE)} may say why; what was committed stays, and once this is "
                "mended the same command continues"
            )

    def _suits(self, place: int, shard: int) -> bool:
        """Whether a worker at a place may take a shard: preferably where no worker has died with the shard."""
        usable = [place for place, deaths in enumerate(self._deaths) if deaths < DEATHS_AT_PLACE]
        others = [place for place in usable if place not in self._died_at[shard]]
        return place in (others or usable)

    def _require_all(self) -> None:
        """Check that no shard was left out."""
        if self._left_out:
            raise RunError(
                f"{_listed(self._left_out)}: left out, because {DEATHS_WITH_SHARD} workers died with it, and the last "
                f"one {self._last_exit}; {self._job.directory.locate(LOG_FILE)} may say why; if memory ran out, set a "
                "smaller batch.max_seconds=, executor.workers= or loader.workers=; the other shards are committed, and "
                "once this is mended the same command continues"
            )

    def _start(self, place: int, lock: int) -> _Worker:
        ours, theirs = Pipe()
        with theirs, open(self._job.directory.local_log(), "ab") as log:
            path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
            try:
                process = subprocess.Popen(
                    worker.command(theirs.fileno(), self._task, self._devices[place]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno(), self._task, lock],
                    env={**os.environ, "PYTHONPATH": path},
                )
            except OSError as error:
                ours.close()
                raise RunError(
                    f"executor.workers={len(self._devices)}: a worker process could not be started "
                    f"({error.strerror or error}); it needs a process (ulimit -u) and open files (ulimit -n)"
                ) from None
        return _Worker(place, process, ours)

    def _wait(self) -> None:
        """Wait until a worker has said something or, at the latest, until it is time to look at all of them."""
        wait([each.connection for each in self._workers if not each.connection.closed], LOOK_S)

    def _look_at(self, each: _Worker, stopping: bool = False) -> None:
        """Take what a worker has said. If it has ended, remove it.

        Args:
            each: The worker.
            stopping: The run is ending: the worker gets no further shard, and its shards go to nobody.
        """
        ended = each.process.poll() is not None
        while not each.connection.closed:
            try:
                if not each.connection.poll():
                    break
                message: messages.Message = each.connection.recv()
            except (EOFError, OSError):
                each.connection.close()
                with suppress(subprocess.TimeoutExpired):
                    ended = each.process.wait(LOOK_S) is not None
            else:
                self._take(each, message, stopping)
        if ended:
            each.connection.close()
            self._workers.remove(each)
            if each.finished or stopping:
                self._monitor.end(each.place)
            else:
                self._note_death(each)

    def _take(self, each: _Worker, message: messages.Message, stopping: bool) -> None:
        match message:
            case messages.Wants():
                self._give(each, stopping)
            case messages.Begun():
                self._monitor.begin(each.place)
            case messages.BatchDone(metrics, covered_s, failures):
                if metrics.shard in each.shards:
                    done_s, failed = each.shards[metrics.shard]
                    each.shards[metrics.shard] = done_s + covered_s, failed + len(failures)
                self._monitor.batch(metrics, covered_s, failures, each.place)
            case messages.Committed(record):
                each.shards.pop(record.shard, None)
                self._monitor.committed(record)
            case messages.Written(seconds):
                self._monitor.written(seconds)
            case messages.Logged(level, text):
                LOG.log(level, "%s: %s", self._names[each.place], text)
            case messages.Finished(kept):
                each.finished = True
                self._kept += kept
            case messages.Failed(error):
                each.finished = True
                if not stopping:
                    raise error
                LOG.error("%s: %s", self._names[each.place], error)

    def _give(self, each: _Worker, stopping: bool) -> None:
        """Give the next shard that suits a worker to it, or tell it that none is left."""
        suiting = () if stopping else (shard for shard in self._queue if self._suits(each.place, shard))
        shard = next(iter(suiting), None)
        if shard is None:
            each.dismissed = True
        else:
            self._queue.remove(shard)
            each.shards[shard] = 0.0, 0
        with suppress(OSError):  # the worker has died, which the next look finds
            each.connection.send(shard)

    def _note_death(self, each: _Worker) -> None:
        """Put the shards of a worker that has died back into the queue, except those that killed too many workers."""
        for shard in each.shards:
            self._job.directory.remove_staging(shard)
        # It may have committed a shard and been killed before it said so. For a shard that is computed again because of
        # its failures, that cannot be told: the record may be the old one.
        for record in self._job.committed(shard for shard in each.shards if shard not in self._job.attempts).values():
            del each.shards[record.shard]
            self._monitor.committed(record)
        counted_here = each.shards.values()
        self._monitor.end(each.place, sum(done_s for done_s, _ in counted_here), sum(n for _, n in counted_here))
        self._deaths[each.place] += 1
        self._last_exit = each.exit_said()
        lost = list(each.shards)
        for shard in lost:
            self._died_at[shard].append(each.place)
        left_out = [shard for shard in lost if len(self._died_at[shard]) >= DEATHS_WITH_SHARD]
        again = [shard for shard in lost if shard not in left_out]
        self._left_out += left_out
        self._queue.extendleft(reversed(again))
        self._say(
            f"{self._names[each.place]}: the process {self._last_exit}"
            + (f"; computed again: {_listed(again)}" if again else "")
            + (f"; left out, as {DEATHS_WITH_SHARD} workers died with it: {_listed(left_out)}" if left_out else "")
            + ("; no further one is started in its place" if self._deaths[each.place] == DEATHS_AT_PLACE else "")
        )

    def _stop(self, patience_s: float) -> None:
        """Ask all workers for a clean stop, and wait until they have ended. Kill those that are at work for longer."""
        deadline = time.monotonic() + patience_s
        for each in self._workers:
            each.process.send_signal(worker.STOP)
        while self._workers:
            self._wait()
            for each in list(self._workers):
                if time.monotonic() > deadline:
                    each.process.kill()
                # The error that has stopped the run is raised. A further one, such as a disk that is full, often has
                # the same cause.
                with suppress(RunError, OSError):
                    self._look_at(each, stopping=True)


def _listed(shards: Sequence[int]) -> str:
    return f"shard{'s' * (len(shards) != 1)} {', '.join(map(str, sorted(shards)))}"
