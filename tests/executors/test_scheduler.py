"""The scheduler alone, with workers that take shards, commit them and die in any order."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.executors.processes.scheduler import DEATHS_AT_PLACE, DEATHS_WITH_SHARD, Scheduler
from pipeline.inference.monitor import Monitor
from pipeline.records import Failure
from pipeline.runtime.errors import RunError
from pipeline.runtime.metrics import BatchMetrics
from pipeline.runtime.progress import RunProgress
from pipeline.storage.commits import CommitRecord

FAILURE = Failure("a", "/a.wav", "load", "truncated", "too short")


class Corpus:
    """A job and its directory, as far as a scheduler knows them. Shard 0 is the longest."""

    def __init__(self, num_shards: int) -> None:
        self.directory = self
        self.pending = tuple(range(num_shards))
        self.attempts: dict[int, dict[str, int]] = {}
        self.records: dict[int, CommitRecord] = {}
        self.looked_for: list[int] = []

    def seconds_of(self, shard: int) -> float:
        return float(len(self.pending) - shard)

    def committed(self, shards: Iterable[int]) -> dict[int, CommitRecord]:
        asked = [*shards]
        self.looked_for += asked
        return {shard: self.records[shard] for shard in asked if shard in self.records}

    def remove_staging(self, shard: int) -> None:
        assert shard in self.pending

    def local_log(self) -> Path:
        return Path("/run/logs/run.log")

    def commit(self, shard: int) -> CommitRecord:
        assert shard not in self.records, "committed before"
        self.records[shard] = CommitRecord(shard, "f", {}, 1, 1.0, {})
        return self.records[shard]


class Nothing(RunProgress):
    """Counts and shows nothing, and writes no file."""

    def __init__(self, workers: int, shards: int) -> None:
        names = [str(place) for place in range(workers)]
        super().__init__(
            Console(file=io.StringIO()), Path("/none"), total_s=1, done_s=0, total_shards=shards, done_shards=0,
            workers=names,
        )  # fmt: skip


def scheduler_of(
    corpus: Any, places: int, progress: RunProgress | None = None, said: Callable[[str], None] = lambda text: None
) -> Scheduler:
    monitor = Monitor(progress or Nothing(places, len(corpus.pending)), None)
    return Scheduler(corpus, [f"gpu {place}" for place in range(places)], monitor, said)


def batch(shard: int) -> BatchMetrics:
    return BatchMetrics(0, shard, 1, 1, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0)


class Disturbed:
    """Workers that do what a random number says."""

    def __init__(self, seed: int, places: int, num_shards: int, deadly: float, poison: set[int]) -> None:
        self.random = random.Random(seed)
        self.corpus = Corpus(num_shards)
        self.progress = Nothing(places, num_shards)
        self.scheduler = scheduler_of(self.corpus, places, self.progress)
        self.deadly, self.poison = deadly, poison
        self.alive: dict[int, set[int]] = {}
        self.dismissed: set[int] = set()
        self.killed_with: Counter[int] = Counter()
        self.in_a_row = [0] * places

    def run(self) -> str:
        """Let the workers work until all have ended; return the error of the run, if there is one."""
        for _ in range(10_000):
            try:
                for place in self.scheduler.places_to_fill():
                    assert place not in self.alive
                    assert self.in_a_row[place] < DEATHS_AT_PLACE
                    self.alive[place] = set()
            except RunError as error:
                assert min(self.in_a_row) == DEATHS_AT_PLACE
                return str(error)
            if not self.alive:
                try:
                    self.scheduler.require_all()
                except RunError as error:
                    return str(error)
                return ""
            self.step(self.random.choice(sorted(self.alive)))
        raise AssertionError("the run does not end")

    def step(self, place: int) -> None:
        shards = self.alive[place]
        if self.random.random() < self.deadly or (shards & self.poison and self.random.random() < 0.5):
            return self.die(place)
        if place not in self.dismissed and len(shards) < 2:
            return self.take(place)
        if not shards:
            return self.end(place)
        shard = self.random.choice(sorted(shards))
        if shard in self.poison:
            return self.die(place)
        self.scheduler.batch(place, batch(shard), 1.0, [FAILURE])
        record = self.corpus.commit(shard)
        if self.random.random() < self.deadly:  # before it could say so
            shards.remove(shard)
            return self.die(place)
        shards.remove(shard)
        self.in_a_row[place] = 0
        return self.scheduler.committed(place, record)

    def take(self, place: int) -> None:
        shard = self.scheduler.give(place)
        if shard is None:
            self.dismissed.add(place)
            return
        assert shard not in self.corpus.records
        assert self.killed_with[shard] < DEATHS_WITH_SHARD
        assert not any(shard in others for others in self.alive.values()), "two workers have it"
        self.alive[place].add(shard)

    def die(self, place: int) -> None:
        shards = self.alive.pop(place)
        self.dismissed.discard(place)
        self.killed_with.update(shards)
        self.in_a_row[place] += 1
        self.scheduler.die(place, "was killed")

    def end(self, place: int) -> None:
        del self.alive[place]
        self.dismissed.discard(place)
        self.scheduler.end(place)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    places=st.integers(1, 5),
    num_shards=st.integers(1, 12),
    deadly=st.sampled_from([0.0, 0.02, 0.2, 0.6]),
    poison=st.sets(st.integers(0, 11), max_size=2),
)
def test_whatever_dies_each_shard_is_committed_once_or_named(
    seed: int, places: int, num_shards: int, deadly: float, poison: set[int]
) -> None:
    run = Disturbed(seed, places, num_shards, deadly, poison & {*range(num_shards)})
    error = run.run()
    left = {*run.corpus.pending} - {*run.corpus.records}
    gone = {shard for shard, deaths in run.killed_with.items() if deaths >= DEATHS_WITH_SHARD}
    if "left out" in error:
        assert left == gone - {*run.corpus.records}
        named = error.partition(":")[0].removeprefix("shards ").removeprefix("shard ")
        assert named == ", ".join(map(str, sorted(left)))
    elif error:
        assert left  # too many workers had died
        assert "workers died" in error or "worker died" in error
    else:
        assert not left
    assert run.progress.failures == len(run.corpus.records)  # each counted once, also those that were computed twice
    if not deadly and not poison:
        assert not error


def fill(scheduler: Scheduler) -> Iterator[int]:
    for place in scheduler.places_to_fill():
        scheduler.begin(place)
        yield place


def test_workers_that_commit_between_their_deaths_are_replaced_for_as_long_as_the_run_lasts() -> None:
    corpus, said = Corpus(20), list[str]()
    scheduler = scheduler_of(corpus, 1, said=said.append)
    for _ in range(4 * DEATHS_AT_PLACE):
        assert [*fill(scheduler)] == [0]
        shard = scheduler.give(0)
        assert shard is not None
        scheduler.committed(0, corpus.commit(shard))
        scheduler.die(0, "was killed")
    assert not any("no further one" in line for line in said)
    for _ in range(DEATHS_AT_PLACE - 1):  # after the last commit there was one death
        assert [*fill(scheduler)] == [0]
        scheduler.die(0, "was killed")
    assert [line for line in said if "no further one" in line] == said[-1:]
    with pytest.raises(RunError, match=f"{5 * DEATHS_AT_PLACE - 1} workers died"):
        scheduler.places_to_fill()


def test_the_longest_shards_go_first_and_those_of_the_dead_go_before_them_to_another_place() -> None:
    corpus = Corpus(6)
    scheduler = scheduler_of(corpus, 2)
    assert [*fill(scheduler)] == [0, 1]
    assert [scheduler.give(0), scheduler.give(0), scheduler.give(1)] == [0, 1, 2]
    scheduler.die(0, "was killed")
    assert [*fill(scheduler)] == [0]
    assert scheduler.give(0) == 3  # not again those with which a worker died here
    assert [scheduler.give(1), scheduler.give(1)] == [0, 1]


def test_a_death_looks_for_the_records_of_its_own_shards_only() -> None:
    corpus = Corpus(100)
    scheduler = scheduler_of(corpus, 2)
    assert [*fill(scheduler)] == [0, 1]
    assert [scheduler.give(0), scheduler.give(1), scheduler.give(1)] == [0, 1, 2]
    scheduler.die(1, "was killed")
    assert corpus.looked_for == [1, 2]


def test_a_place_that_is_closed_does_not_cost_a_look_at_every_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, looks, suits = Corpus(1000), list[int](), Scheduler._suits
    scheduler = scheduler_of(corpus, 3)
    for _ in range(DEATHS_AT_PLACE):
        assert 0 in [*fill(scheduler)]
        scheduler.die(0, "was killed")

    def noted(self: Scheduler, place: int, shard: int) -> bool:
        looks.append(shard)
        return suits(self, place, shard)

    monkeypatch.setattr(Scheduler, "_suits", noted)
    assert [*fill(scheduler)] == []
    assert len(looks) <= 3
