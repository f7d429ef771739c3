"""A corpus of 100,000 hours on 1, 8 and 64 GPUs, in virtual time: idle share, lost work, and the limits of the driver.

Example:
    python scripts/bench/cluster.py --speed 1000 --fast 15000

The scheduler, its monitor, the run directory and the commit records are the real ones (`virtual_cluster.py`). A GPU is
a speed, in hours of audio for an hour of a GPU, which is a parameter. The recordings are lognormal, 10 minutes on
average. What the driver costs is measured with real processes that compute nothing (`hollow_worker.py`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import Table, parser, prepared, publish, say
from virtual_cluster import Cluster
from virtual_setting import Outcome, Setting
from virtual_store import Store, quiet_progress

from pipeline.executors.processes import worker
from pipeline.executors.processes.pool import Pool
from pipeline.executors.processes.scheduler import Scheduler
from pipeline.inference.monitor import Monitor

MEAN_S, SIGMA = 600.0, 0.8
BATCH_S = 3600.0
"""Where the cost of a batch does not count, batches are long, so that there are fewer events."""
FAILURES = {"worker_h": 8.0, "node_h": 4.0, "driver_h": 2.0}
COSTS = [
    "audio h", "shards", "hours", "of the ideal", "idle", "lost audio", "deaths", "nodes", "drivers", "errors",
    "CPU ms of the scheduler per shard",
]  # fmt: skip
LIMITS = ["CPU ms per shard", "shards per s", "GPUs at the limit"]
HOLLOW = Path(__file__).with_name("hollow_worker.py")


def recordings(hours: float) -> np.ndarray:
    """Seconds of recordings that last `hours` hours together."""
    drawn = np.random.default_rng(1).lognormal(np.log(MEAN_S) - SIGMA**2 / 2, SIGMA, max(1, int(hours * 3600 / MEAN_S)))
    return drawn * (hours * 3600 / drawn.sum())


def simulated(work: Path, hours: float, shard_hours: float, setting: Setting, on_disk: bool = False) -> Outcome:
    """One run in a new run directory."""
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    store = Store(folder, recordings(hours), shard_hours, on_disk)
    outcome = Cluster(setting, store).run()
    assert set(outcome.shards.values()) == {1}, "a shard was committed twice"
    assert len(outcome.shards) == store.manifest.num_shards
    say(
        f"{setting.workers} GPUs, {len(outcome.shards)} shards: {time.monotonic() - began:.0f} s, "
        f"{outcome.resume_s:.1f} s of them for resumes"
    )
    return outcome


def cells(outcome: Outcome, workers: int) -> list[Any]:
    return [
        outcome.audio_s / 3600,
        len(outcome.shards),
        outcome.elapsed_s / 3600,
        outcome.elapsed_s / outcome.ideal_s,
        f"{outcome.idle(workers):.1%}",
        f"{outcome.lost_s / outcome.audio_s:.2%}",
        outcome.deaths,
        outcome.nodes,
        outcome.drivers,
        outcome.errors,
        1000 * outcome.scheduling_s / len(outcome.shards),
    ]


def kept(outcome: Outcome, **given: Any) -> dict[str, Any]:
    """What the JSON file has of an outcome."""
    return given | {key: value for key, value in asdict(outcome).items() if key != "shards"}


def whole(options: argparse.Namespace, work: Path, measured: dict[str, Any]) -> tuple[Table, Outcome]:
    """Every number of GPUs, without and with failures.

    Returns:
        The table, and the last outcome: of most GPUs, with failures.
    """
    table = Table(f"{options.hours:,.0f} hours at {options.speed:,.0f} x real time on each GPU", ["GPUs", *COSTS])
    measured["whole"] = []
    for name, failures in (("no failures", {}), ("failures", FAILURES)):
        for gpus in options.gpus:
            setting = Setting(gpus, options.speed, batch_s=BATCH_S, **failures)
            outcome = simulated(work, options.hours, 1.0, setting, on_disk=bool(failures) and gpus == 8)
            table.add(f"{gpus}, {name}", *cells(outcome, gpus))
            measured["whole"].append(kept(outcome, gpus=gpus, failures=name))
    said = ", ".join(f"{name.removesuffix('_h')} every {hours:g} h" for name, hours in FAILURES.items())
    table.notes.append(
        f"Failures: {said}, on average. A worker loads its model for 20 s, a node of eight workers is gone for 10 "
        "minutes, the driver for one. Speeds of GPUs differ by 5 %. of the ideal: the time divided by that of GPUs "
        "that never pause. lost audio: computed and not committed, as a share of the corpus. errors: runs that ended "
        "because too many workers had died. The commit records of 8 GPUs with failures are on disk, those of the other "
        "simulations in memory."
    )
    return table, outcome


def sizes(options: argparse.Namespace, work: Path, measured: dict[str, Any], of_an_hour: Outcome) -> Table:
    table = Table(f"shard.hours on {options.gpus[-1]} GPUs, with the same failures", ["shard.hours", *COSTS])
    measured["sizes"] = []
    for hours in options.shard_hours[1:]:
        setting = Setting(options.gpus[-1], options.speed, batch_s=BATCH_S, **FAILURES)
        outcome = of_an_hour if hours == 1.0 else simulated(work, options.hours, hours, setting)
        table.add(f"{hours:g}", *cells(outcome, options.gpus[-1]))
        measured["sizes"].append(kept(outcome, shard_hours=hours))
    return table


def driver(options: argparse.Namespace, work: Path, measured: dict[str, Any]) -> tuple[Table, float, float]:
    """What the real pool of processes costs its run, with workers that compute nothing.

    Returns:
        The table, and the CPU seconds of the driver for a batch and for the rest of a shard.
    """
    table = Table(
        "CPU of the driver with real processes", ["batches of a shard", "workers", "shards", "CPU ms per shard"]
    )
    spent: dict[int, float] = {}
    for batches in (1, 8):
        rounds = [hollow_pool(work, options.pool, options.pool_shards, batches) for _ in range(options.rounds)]
        spent[batches] = statistics.median(rounds)
        table.add(f"{batches}", options.pool, options.pool_shards, 1000 * spent[batches])
        measured[f"driver, {batches} batches"] = rounds
    batch_s = max(0.0, (spent[8] - spent[1]) / 7)
    rest_s = max(0.0, spent[1] - batch_s)
    measured["driver"] = {"batch_s": batch_s, "rest_s": rest_s}
    table.notes.append(
        f"So a batch costs {1e6 * batch_s:.0f} us, and the rest of a shard {1e6 * rest_s:.0f} us: the messages through "
        "the pipes, the scheduler, logs/metrics.jsonl and logs/run.log."
    )
    return table, batch_s, rest_s


def hollow_pool(work: Path, workers: int, shards: int, batches: int) -> float:
    """CPU seconds of this process for each shard."""
    shutil.rmtree(work / "pool", ignore_errors=True)
    store, real = Store(work / "pool", np.full(shards, 3600.0), 1.0), worker.command
    worker.command = lambda connection, task, device: [
        sys.executable, str(HOLLOW), str(os.getpid()), str(connection), str(batches)
    ]  # fmt: skip
    try:
        with store.directory.lock():
            job = store.job()
            names = [f"cuda:{place}" for place in range(workers)]
            progress = quiet_progress(job, names)
            began = time.process_time()
            with progress:
                Pool(job, names, names, Monitor(progress, None), say).run()
            return (time.process_time() - began) / shards
    finally:
        worker.command = real


def limit(options: argparse.Namespace, work: Path, measured: dict[str, Any], batch_s: float, rest_s: float) -> Table:
    """How many GPUs a driver can serve."""
    table = Table(
        f"How many GPUs one driver serves, at {options.fast:,.0f} x real time on each",
        ["shard.hours", *LIMITS, *(f"idle, {n} GPUs" for n in options.many)],
    )
    measured["limit"] = []
    for hours in options.shard_hours[:3]:
        setting = Setting(1, options.fast, start_s=0.0, commit_s=0.0, message_s=batch_s, answer_s=rest_s)
        shard_s = rest_s + batch_s * 3600 * hours / setting.batch_s
        gpus = 3600 * hours / shard_s / options.fast
        idle = []
        for workers in options.many:
            outcome = simulated(work, 10 * workers * hours, hours, replace(setting, workers=workers))
            idle.append(outcome.idle(workers))
        table.add(f"{hours:g}", 1000 * shard_s, 1 / shard_s, round(gpus), *(f"{share:.0%}" for share in idle))
        measured["limit"].append(
            {"shard_hours": hours, "shard_s": shard_s, "gpus": gpus, "idle": dict(zip(options.many, idle, strict=True))}
        )
    table.notes.append(
        "GPUs at the limit: those whose shards keep one core of the driver busy. idle: of a simulation of 10 shards "
        "for each GPU in which the driver takes these times for its messages, and commits take none. The end of the "
        "run, when the shards run out, is a part of it."
    )
    return table


def resume(options: argparse.Namespace, work: Path, measured: dict[str, Any]) -> Table:
    table = Table(
        "What a driver reads when it starts",
        [
            "shards with a record",
            "records, CPU s",
            "us per record",
            "records of 8 shards, ms",
            "scheduler of as many, s",
        ],
    )
    measured["resume"] = []
    for number in options.records:
        shutil.rmtree(work / "records", ignore_errors=True)
        store = Store(work / "records", np.full(number, 3600.0), 1.0)
        for shard in range(number):
            store.commit(shard)
        every = _seconds(store.directory.commits)
        some = _seconds(lambda store=store: store.directory.commits(range(8)))
        job = replace(store.job(), supplements=dict.fromkeys(range(number), 0))
        monitor = Monitor(quiet_progress(job, ["a"]), None)
        queued = _seconds(lambda job=job, monitor=monitor: Scheduler(job, ["a"], monitor, say))
        table.add(f"{number:,}", every, 1e6 * every / number, 1000 * some, queued)
        measured["resume"].append({"shards": number, "every_s": every, "some_s": some, "queued_s": queued})
        say(f"{number} records read in {every:.1f} s")
    table.notes.append(
        "records: reading and checking all of them, once; a resume does so three times. records of 8 shards: after the "
        "death of a worker. The files were in memory. On a network file system each record costs round trips."
    )
    return table


def _seconds(work: Any) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


QUICK: Mapping[str, Any] = {
    "hours": 40.0, "gpus": [1, 8], "shard_hours": [0.5, 1.0], "many": [16], "records": [20], "pool": 2,
    "pool_shards": 16,
}  # fmt: skip
FULL: Mapping[str, Any] = {
    "hours": 100_000.0, "gpus": [1, 8, 64], "shard_hours": [0.5, 1.0, 4.0, 16.0], "many": [64, 256, 1024],
    "records": [1000, 10_000, 100_000], "pool": 8, "pool_shards": 4000,
}  # fmt: skip


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--speed", type=float, default=1000.0, help="hours of audio for an hour of a GPU, with failures")
    made.add_argument("--fast", type=float, default=15_000.0, help="the same, for the limit of the driver")
    made.add_argument("--hours", type=float, help="of audio; None: 100000")
    options = made.parse_args()
    for key, value in (QUICK if options.quick else FULL).items():
        if getattr(options, key, None) is None:
            setattr(options, key, value)
    measured: dict[str, Any] = {}
    with prepared(options) as work:
        spent, batch_s, rest_s = driver(options, work, measured)
        tables = [spent, resume(options, work, measured), limit(options, work, measured, batch_s, rest_s)]
        publish("cluster", __doc__, tables, options, measured, complete=False)
        most, last = whole(options, work, measured)
        tables = [most, sizes(options, work, measured, last), *tables]
        publish("cluster", __doc__, tables, options, measured)


if __name__ == "__main__":
    main()
