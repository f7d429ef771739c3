"""What a cluster in virtual time is like, and what a run on it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

NEVER = math.inf


@dataclass(frozen=True)
class Setting:
    """What a cluster is like.

    Attributes:
        workers: GPUs, each with a worker.
        speed: Seconds of audio that a worker computes in a second, on average.
        spread: Standard deviation of the speeds of the workers, as a share of `speed`.
        batch_s: Seconds of audio in a batch.
        start_s, commit_s: Seconds in which a worker loads its model, and in which it commits a shard.
        worker_h, node_h, driver_h: Mean hours between two failures of a worker, of a node and of the driver.
        node_gone_s, driver_gone_s: Seconds until a node and the driver are back.
        message_s, answer_s: CPU seconds of the driver for a message of a batch, and for all other messages of a shard.
        seed: Seed of the speeds and the failures.
    """

    workers: int
    speed: float
    spread: float = 0.05
    batch_s: float = 474.0
    start_s: float = 20.0
    commit_s: float = 1.0
    worker_h: float = NEVER
    node_h: float = NEVER
    driver_h: float = NEVER
    node_gone_s: float = 600.0
    driver_gone_s: float = 60.0
    message_s: float = 0.0
    answer_s: float = 0.0
    seed: int = 0


@dataclass
class Outcome:
    """What a run cost.

    Attributes:
        shards: Shards that are committed, by how often.
        audio_s, lost_s: Seconds of audio of the corpus, and those that were computed and not committed.
        elapsed_s, ideal_s: Seconds of the run, and those that all workers need without a pause, at their speeds.
        busy_s: Seconds in which the devices computed.
        deaths, nodes, drivers: Workers that died, and failures of nodes and of the driver.
        errors: Runs that ended with an error, because too many workers had died; the command was given again.
        driver_s: Seconds in which the driver worked, as `message_s` and `answer_s` say.
        scheduling_s: Measured CPU seconds of the scheduler and its monitor.
        resume_s: Measured seconds of reading the commit records after a failure of the driver, in all.
    """

    shards: dict[int, int] = field(default_factory=dict)
    audio_s: float = 0.0
    lost_s: float = 0.0
    elapsed_s: float = 0.0
    ideal_s: float = 0.0
    busy_s: float = 0.0
    deaths: int = 0
    nodes: int = 0
    drivers: int = 0
    errors: int = 0
    driver_s: float = 0.0
    scheduling_s: float = 0.0
    resume_s: float = 0.0

    def idle(self, workers: int) -> float:
        """Share of the time in which the devices did not compute."""
        return 1 - self.busy_s / (workers * self.elapsed_s)
