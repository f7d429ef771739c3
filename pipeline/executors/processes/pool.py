"""The worker processes of a run, seen from the run: starts them, listens to them, and replaces those that die."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from pipeline.executors.processes import messages, worker
from pipeline.executors.processes.scheduler import Scheduler
from pipeline.inference.job import Job
from pipeline.inference.monitor import Monitor
from pipeline.runtime.errors import RunError
from pipeline.runtime.progress import format_duration
from pipeline.runtime.signals import Stopped, allowing_stop, deferring_stop

LOG = logging.getLogger("pipeline")

LOOK_S = 0.5
"""Seconds between two looks at silent workers. The death of a worker may go unnoticed for this long."""
SILENT_S = 900.0
"""Seconds after which a worker that says nothing is named. It may hang, which nobody can tell from a batch that takes
long, so it is not killed. A batch takes seconds, and loading a recording `loader.timeout_s` at most."""
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
        finished: Whether it has said that it is done.
        heard: Time at which it last said something (`time.monotonic`), or was named because it does not.
    """

    place: int
    process: subprocess.Popen[bytes]
    connection: Connection
    finished: bool = False
    heard: float = field(default_factory=time.monotonic)


class Pool:
    """Runs the pending shards of a job in worker processes."""

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
        self._say = say
        self._scheduler = Scheduler(job, names, monitor, say)
        self._workers: list[_Worker] = []
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
        job = replace(self._job, sharing=len(self._devices))
        self._task = messages.Task.store(messages.Task(job, self._job.directory.held_locks).encode())
        try:
            with deferring_stop():
                self._fill_places()
                while self._workers:
                    with allowing_stop():
                        self._wait()
                    for each in list(self._workers):
                        self._look_at(each)
                    self._fill_places()
            self._scheduler.require_all()
        except BaseException as error:
            with deferring_stop():
                self._stop(math.inf if isinstance(error, Stopped) else STOP_S)
            raise
        finally:
            os.close(self._task)
        return sorted(self._scheduler.kept)

    def _fill_places(self) -> None:
        for place in self._scheduler.places_to_fill():
            self._workers.append(self._start(place))

    def _start(self, place: int) -> _Worker:
        ours, theirs = Pipe()
        locks = [each for lock in self._job.directory.held_locks for each in lock.descriptors]
        with theirs, open(self._job.directory.local_log(), "ab") as log:
            path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
            try:
                process = subprocess.Popen(
                    worker.command(theirs.fileno(), self._task, self._devices[place]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno(), self._task, *locks],
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
                each.heard = time.monotonic()
                self._take(each, message, stopping)
        if time.monotonic() - each.heard > SILENT_S:
            self._name_silent(each)
        if ended:
            each.connection.close()
            self._workers.remove(each)
            if each.finished or stopping:
                self._scheduler.end(each.place)
            else:
                self._scheduler.die(each.place, worker.exit_said(each.process.returncode))

    def _name_silent(self, each: _Worker) -> None:
        each.heard = time.monotonic()
        self._say(
            f"{self._names[each.place]}: has said nothing for {format_duration(SILENT_S)}; if it hangs, "
            f"kill -KILL {each.process.pid} gives its shards to other workers"
        )

    def _take(self, each: _Worker, message: messages.Message, stopping: bool) -> None:
        match message:
            case messages.Wants():
                shard = None if stopping else self._scheduler.give(each.place)
                with suppress(OSError):  # the worker has died, which the next look finds
                    each.connection.send(shard)
            case messages.Finished(kept):
                each.finished = True
                self._scheduler.kept += kept
            case messages.Failed(error):
                each.finished = True
                if not stopping:
                    raise error
                LOG.error("%s: %s", self._names[each.place], error)
            case _:
                messages.note(message, self._scheduler, each.place, self._names[each.place])

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
