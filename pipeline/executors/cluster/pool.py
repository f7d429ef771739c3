"""The actors of a run, seen from the run: creates them, listens to them, and replaces those that die.

An actor that Ray has not placed yet has no shard, so it holds up nobody. The requests of such actors are the demand
that an autoscaler sees. There are never more of them than shards that wait.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RuntimeEnvSetupError

from pipeline.executors.cluster.actor import Actor, Ended, Order
from pipeline.executors.cluster.sizes import Size
from pipeline.executors.cluster.task import ClusterTask, sample_of, versions
from pipeline.executors.processes import messages
from pipeline.executors.processes.pool import STOP_S
from pipeline.executors.processes.scheduler import Scheduler
from pipeline.inference.job import Job
from pipeline.inference.monitor import Monitor
from pipeline.runtime import failpoints
from pipeline.runtime.errors import RunError
from pipeline.runtime.signals import Stopped, allowing_stop, deferring_stop

LOG = logging.getLogger("pipeline")

LOOK_S = 0.5
"""Seconds after which a signal is noticed."""
WAIT_S = 20.0
"""Seconds after which the run says that no actor has been placed."""
_ENVIRONMENT = (failpoints.VARIABLE, "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""Variables of the environment that the workers get from the run."""


@dataclass
class _Worker:
    """An actor and its worker process.

    Attributes:
        place: Its place.
        actor: Handle of the actor.
        heard: The call that returns its next messages.
        inbox: Messages that have not been taken, because an earlier one has ended the run.
        placed: Whether Ray has placed the actor on a node.
        finished: Whether the worker has said that it is done.
    """

    place: int
    actor: Any
    heard: Any
    inbox: deque[messages.Message | Ended] = field(default_factory=deque)
    placed: bool = False
    finished: bool = False


class Pool:
    """Runs the pending shards of a job in actors."""

    def __init__(
        self, job: Job, size: Size, names: Sequence[str], monitor: Monitor, say: Callable[[str], None]
    ) -> None:
        """Create no actor yet.

        Args:
            job: The job. This process holds the lock of its directory, and is connected to Ray.
            size: What the actors ask for.
            names: Name of each place, for people.
            monitor: Counts what the workers do.
            say: Prints and logs a line.
        """
        self._job = job
        self._size = size
        self._names = names
        self._say = say
        self._scheduler = Scheduler(job, names, monitor, say)
        self._workers: list[_Worker] = []
        self._said_to_wait = math.inf
        self._class: Any = ray.remote(Actor).options(
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,  # `hear` waits while others are called
        )

    def run(self) -> list[int]:
        """Run the shards.

        Returns:
            Shards whose earlier results were kept; see `execute`.

        Raises:
            UserError, RunError, OSError: As `execute` in a worker. Or the job cannot be sent, a node does not see the
                files of the run or has other versions, or too many workers have died.
            Stopped: A signal has arrived.
        """
        job = replace(self._job, cores=self._size.cpus)
        try:
            with deferring_stop():
                order = Order(
                    "cuda" if self._size.gpus else "cpu",
                    os.getcwd(),
                    versions(),
                    {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                    self._job.directory.root.name,
                )
                given = order, ray.put(ClusterTask(job, self._job.directory.held_locks, sample_of(job)).encode())
                self._said_to_wait = time.monotonic() + WAIT_S
                self._fill_places(given)
                while self._workers:
                    self._listen()
                    with allowing_stop():
                        self._say_that_it_waits()
                    self._dismiss_surplus()
                    self._fill_places(given)
            self._scheduler.require_all()
        except BaseException as error:
            with deferring_stop():
                self._stop(math.inf if isinstance(error, Stopped) else STOP_S)
            raise
        return sorted(self._scheduler.kept)

    def _fill_places(self, given: tuple[Any, Any]) -> None:
        for place in self._scheduler.places_to_fill():
            actor = self._class.remote(*given)
            self._workers.append(_Worker(place, actor, actor.hear.remote()))

    def _listen(self, stopping: bool = False) -> None:
        """Take what workers say. Return at the latest when it is time to look for a signal."""
        for each in list(self._workers):
            self._empty(each, stopping)
        if not self._workers:
            return
        by_call = {each.heard: each for each in self._workers}
        # Not interrupted by a signal: Ray would print the exception and lose it.
        for call in (
            ray.wait([*by_call], num_returns=len(by_call), timeout=0)[0] or ray.wait([*by_call], timeout=LOOK_S)[0]
        ):
            self._hear(by_call[call], stopping)

    def _hear(self, each: _Worker, stopping: bool) -> None:
        try:
            each.inbox.extend(ray.get(each.heard))
        except RuntimeEnvSetupError as error:
            self._remove(each, "was not started", stopping=True)
            raise RunError(
                f"executor=ray: a node cannot get the code of the run ({str(error).splitlines()[0]})"
            ) from None
        except RayError as error:
            failed = isinstance(error, RayActorError) and error.actor_init_failed
            self._remove(each, "was lost " + _loss(error), stopping or failed)
            if failed and not stopping:
                LOG.error("%s: %s", self._names[each.place], error)
                raise RunError(
                    f"executor=ray: a node cannot start a worker ({str(error).splitlines()[-1]}); install the same "
                    "packages on every node"
                ) from None
            return
        each.placed = True
        each.heard = each.actor.hear.remote()
        self._empty(each, stopping)

    def _empty(self, each: _Worker, stopping: bool) -> None:
        while each.inbox:
            message = each.inbox.popleft()
            if isinstance(message, Ended):
                self._remove(each, message.exit_said, stopping)
            else:
                self._take(each, message, stopping)

    def _remove(self, each: _Worker, exit_said: str, stopping: bool) -> None:
        self._workers.remove(each)
        ray.kill(each.actor)
        if each.finished or stopping:
            self._scheduler.end(each.place)
        else:
            self._scheduler.die(each.place, exit_said)

    def _take(self, each: _Worker, message: messages.Message, stopping: bool) -> None:
        match message:
            case messages.Wants():
                each.actor.answer.remote(None if stopping else self._scheduler.give(each.place))
            case messages.MayWrite():
                each.actor.answer.remote(messages.GO)
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

    def _dismiss_surplus(self) -> None:
        """Give up actors that wait for room while fewer shards wait."""
        unplaced = [each for each in self._workers if not each.placed]
        for each in unplaced[self._scheduler.waiting :]:
            each.finished = True
            self._remove(each, "", stopping=False)

    def _say_that_it_waits(self) -> None:
        if any(each.placed for each in self._workers):
            self._said_to_wait = math.inf
        elif time.monotonic() > self._said_to_wait:
            self._said_to_wait = math.inf
            self._say(
                f"no node of the cluster has room for a worker yet, which takes {self._size}; the run waits for one"
            )

    def _stop(self, patience_s: float) -> None:
        """Ask all workers for a clean stop, and wait until they have ended. Kill those that are at work for longer."""
        deadline = time.monotonic() + patience_s
        for each in list(self._workers):
            if each.placed:
                each.actor.stop.remote()
            else:
                self._remove(each, "", stopping=True)
        while self._workers:
            # A further error often has the same cause as the one that is raised.
            with suppress(RunError, OSError):
                self._listen(stopping=True)
            for each in list(self._workers):
                if time.monotonic() > deadline:
                    self._remove(each, "", stopping=True)


def _loss(error: RayError) -> str:
    """Say in words why an actor is lost."""
    if isinstance(error, ActorUnavailableError):
        return "with its connection"
    if "its node has died" in str(error):
        return "with its node"
    return "with its actor"
