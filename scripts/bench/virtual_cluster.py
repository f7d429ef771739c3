"""A cluster in virtual time: the real scheduler, the real store, and workers that compute nothing and fail at random.

Events happen in the order of their times, and no time passes between them. A worker asks the driver for a shard,
computes it batch by batch at its own speed, and commits it. It asks for the next shard when it begins one, as `execute`
does. The driver answers one message after another. Workers, nodes of eight workers and the driver fail at random times,
which a seed determines. When the driver fails, everything ends, and a new driver reads the commit records and goes on.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from virtual_setting import NEVER, Outcome, Setting
from virtual_store import Store, quiet_progress

from pipeline.executors.processes.scheduler import Scheduler
from pipeline.inference.job import Job
from pipeline.inference.monitor import Monitor
from pipeline.runtime.errors import RunError
from pipeline.runtime.metrics import BatchMetrics
from pipeline.runtime.progress import RunProgress

NODE = 8
"""Workers of a node."""


@dataclass
class _Worker:
    """A worker.

    Attributes:
        place: Its place.
        speed: Seconds of audio that it computes in a second.
        taken: Shards that it has and has not begun to compute.
        open_s: Seconds of audio that it has computed in each shard that it has not committed.
        computing: Whether its device works on a shard.
        free: Time at which its device became free, or began the batch that it computes.
        dismissed: Whether it was told that no shard is left.
        alive: Whether it has neither died nor ended.
    """

    place: int
    speed: float
    taken: list[int] = field(default_factory=list)
    open_s: dict[int, float] = field(default_factory=dict)
    computing: bool = False
    free: float = 0.0
    dismissed: bool = False
    alive: bool = True


class Cluster:
    """Runs all shards of a store."""

    def __init__(self, setting: Setting, store: Store) -> None:
        self._setting, self._store = setting, store
        self._random = np.random.default_rng(setting.seed)
        spread = 1 + setting.spread * self._random.standard_normal(setting.workers)
        self._speeds = setting.speed * np.clip(spread, 0.5, 1.5)
        self._now = self._driver_free = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._workers: dict[int, _Worker] = {}
        self._number = self._killed = 0  # of the present driver, and of the last one that was killed
        self._back = [0.0] * -(-setting.workers // NODE)  # time at which each node is there again
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Run until every shard is committed."""
        outcome = self._outcome
        outcome.audio_s = float(np.nansum(self._store.manifest.duration_s))
        outcome.ideal_s = outcome.audio_s / float(self._speeds.sum())
        for node in range(len(self._back)):
            self._plan(self._setting.node_h, lambda node=node: self._lose_node(node))
        job = self._store.job()
        while job.pending:  # again, as long as the driver has died or ended with an error
            self._drive(job)
            began = time.perf_counter()
            job = self._store.job()
            if job.pending:
                outcome.resume_s += time.perf_counter() - began
                self._now += time.perf_counter() - began + self._setting.driver_gone_s
        outcome.elapsed_s = self._now
        return outcome

    def _drive(self, job: Job) -> None:
        """Be one driver, until it dies or all workers have ended."""
        names = [str(place) for place in range(len(self._speeds))]
        progress = quiet_progress(job, names)
        self._number += 1
        self._driver_free = self._now
        self._plan(self._setting.driver_h, lambda number=self._number: self._kill_driver(number))
        with progress:
            self._clocked(lambda: self._schedule(job, names, progress))
            try:
                self._clocked(self._fill)
                while self._workers:
                    when, _, happen = heapq.heappop(self._events)
                    self._now = max(self._now, when)
                    happen()  # what belongs to an earlier driver does nothing
                if self._killed != self._number:
                    self._scheduler.require_all()
            except RunError:
                self._outcome.errors += 1

    def _schedule(self, job: Job, names: list[str], progress: RunProgress) -> None:
        self._scheduler = Scheduler(job, names, Monitor(progress, None), lambda said: None)

    def _clocked(self, work: Callable[[], object]) -> None:
        began = time.process_time()
        work()
        self._outcome.scheduling_s += time.process_time() - began

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    def _plan(self, mean_h: float, happen: Callable[[], None]) -> None:
        """Let a failure happen at a random time."""
        if mean_h < NEVER:
            self._at(self._now + 3600 * self._random.exponential(mean_h), happen)

    def _tell(self, cost_s: float, work: Callable[[], object]) -> float:
        """Let the driver take a message, and return the time at which it is done. Before that it takes others."""
        self._driver_free = max(self._now, self._driver_free) + cost_s
        self._outcome.driver_s += cost_s
        self._clocked(work)
        return self._driver_free

    # Workers.

    def _fill(self) -> None:
        for place in self._scheduler.places_to_fill():
            worker = self._workers[place] = _Worker(place, float(self._speeds[place]))
            there = max(self._now, self._back[place // NODE]) + self._setting.start_s
            self._at(there, lambda worker=worker: self._begin(worker))
            self._plan(self._setting.worker_h, lambda worker=worker: self._die([worker]))

    def _begin(self, worker: _Worker) -> None:
        if worker.alive:
            worker.free = self._now
            self._scheduler.begin(worker.place)
            self._ask(worker)

    def _ask(self, worker: _Worker) -> None:
        given: list[int | None] = []
        when = self._tell(self._setting.answer_s, lambda: given.append(self._scheduler.give(worker.place)))
        self._at(when, lambda: self._hear(worker, given[0]))

    def _hear(self, worker: _Worker, shard: int | None) -> None:
        if not worker.alive:
            return
        if shard is None:
            worker.dismissed = True
            self._end(worker)
        else:
            worker.taken.append(shard)
            self._compute(worker)

    def _compute(self, worker: _Worker) -> None:
        """Begin the next shard, if the device is free and there is one."""
        if not worker.alive or worker.computing or not worker.taken:
            return
        shard = worker.taken.pop(0)
        worker.computing, worker.open_s[shard] = True, 0.0
        self._batch(worker, shard, self._store_seconds(shard))
        self._ask(worker)

    def _store_seconds(self, shard: int) -> float:
        rows = self._store.manifest.rows_of_shard(shard)
        return float(np.nansum(self._store.manifest.duration_s[rows.start : rows.stop]))

    def _batch(self, worker: _Worker, shard: int, left_s: float) -> None:
        covered_s = min(left_s, self._setting.batch_s)
        idle_s, forward_s = self._now - worker.free, covered_s / worker.speed
        metrics = BatchMetrics(0, shard, 1, 0, covered_s, covered_s, idle_s, forward_s, 0.0, idle_s)
        worker.free = self._now

        def done() -> None:
            if not worker.alive:
                return
            worker.free = self._now
            worker.open_s[shard] += covered_s
            self._outcome.busy_s += forward_s
            self._tell(self._setting.message_s, lambda: self._scheduler.batch(worker.place, metrics, covered_s, ()))
            if left_s > covered_s:
                self._batch(worker, shard, left_s - covered_s)
                return
            self._at(self._now + self._setting.commit_s, lambda: self._commit(worker, shard))
            worker.computing = False
            self._compute(worker)

        self._at(self._now + forward_s, done)

    def _commit(self, worker: _Worker, shard: int) -> None:
        if not worker.alive:
            return
        record = self._store.commit(shard)
        del worker.open_s[shard]
        self._outcome.shards[shard] = self._outcome.shards.get(shard, 0) + 1
        self._tell(0.0, lambda: self._scheduler.committed(worker.place, record))
        self._end(worker)

    def _end(self, worker: _Worker) -> None:
        """End a worker that has nothing left to do."""
        if worker.dismissed and not worker.open_s and not worker.taken:
            worker.alive = False
            del self._workers[worker.place]
            self._scheduler.end(worker.place)

    # Failures.

    def _die(self, workers: list[_Worker]) -> None:
        for worker in workers:
            if worker.alive:
                self._drop(worker)
                self._tell(0.0, lambda worker=worker: self._scheduler.die(worker.place, "was killed by SIGKILL"))
        self._clocked(self._fill)

    def _drop(self, worker: _Worker) -> None:
        worker.alive = False
        self._workers.pop(worker.place, None)
        self._outcome.deaths += 1
        begun_s = self._now - worker.free if worker.computing else 0.0  # of the batch that it computes
        self._outcome.busy_s += begun_s
        self._outcome.lost_s += sum(worker.open_s.values()) + begun_s * worker.speed

    def _lose_node(self, node: int) -> None:
        self._outcome.nodes += 1
        self._back[node] = self._now + self._setting.node_gone_s
        self._die([each for each in [*self._workers.values()] if each.place // NODE == node])
        self._plan(self._setting.node_h, lambda: self._lose_node(node))

    def _kill_driver(self, number: int) -> None:
        if number == self._number:
            self._killed = number
            self._outcome.drivers += 1
            for worker in [*self._workers.values()]:
                self._drop(worker)
