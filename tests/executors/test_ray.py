"""Actors of a Ray cluster: real ones that die in every way, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import s3
from ray_cluster import RayCluster, parent_of, worker_processes
from running import (
    SHORT,
    assert_accounting,
    assert_same_tables,
    environment,
    listed,
    main,
    refused,
    run,
    run_prepared,
    start,
    wait_until,
)
from s3 import Store

from pipeline.executors.cluster import sizes, task
from pipeline.executors.cluster.connection import Connection
from pipeline.executors.processes.messages import BatchDone, Committed
from pipeline.executors.ray import Options
from pipeline.inference.job import Job
from pipeline.records import Failure
from pipeline.runtime.errors import UserError
from pipeline.runtime.metrics import BatchMetrics
from pipeline.storage.commits import CommitRecord
from pipeline.storage.run_directory import RunDirectory

BUCKET = "ray-of-tests"
CORPUS = ("dataset=digits", "shard.hours=0.002", "stages=[manifest,infer]", "loader.workers=0")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """An object store, which the environment names. The nodes of a cluster need its variables when they start."""
    with s3.bucket(BUCKET) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(store: Store) -> Iterator[RayCluster]:
    """Two nodes with one core each."""
    cluster = RayCluster()
    cluster.add(cpus=1)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    assert main([*CORPUS, f"run_dir={run_dir}"]) == 0
    return run_dir


def commits(run_dir: Path) -> int:
    return len(list((run_dir / "commits").glob("*.json")))


def workers_of(cluster: RayCluster) -> dict[int, int]:
    """Actors of the cluster that have a worker process: the number of the node, by process of the actor."""
    found = {}
    for actor in worker_processes().values():
        try:
            found[actor] = cluster.raylets.index(parent_of(actor))
        except (OSError, ValueError):  # of another test, or about to end
            continue
    return found


def given(cluster: RayCluster, run_dir: Path | str) -> list[str]:
    return [*CORPUS, f"run_dir={run_dir}", "executor=ray", f"executor.address={cluster.address}", "executor.workers=2"]


def assert_whole(run_dir: Path, alone: Path) -> None:
    assert_accounting(run_dir)
    assert_same_tables(alone, run_dir)
    assert [path.name for path in (run_dir / ".staging").iterdir()] == ["lock"]


@pytest.fixture(scope="module")
def interrupted(cluster: RayCluster, alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped when a part of it was committed, went on, and was killed while its worker had a shard."""
    run_dir = tmp_path_factory.mktemp("interrupted") / "run"
    command = [*given(cluster, run_dir), "executor.workers=1"]
    process = start(*command, cwd=run_dir.parent, **cluster.variables)
    assert wait_until(lambda: commits(run_dir) > 0)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    assert wait_until(lambda: not workers_of(cluster), 30)
    assert [path.name for path in (run_dir / ".staging").iterdir()] == ["lock"]
    kept = commits(run_dir)
    assert kept < commits(alone)

    process = start(*command, cwd=run_dir.parent, PIPELINE_FAILPOINT="staged=hang", **cluster.variables)
    assert wait_until(lambda: any(path.name.startswith("shard-") for path in (run_dir / ".staging").iterdir()))
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert wait_until(lambda: not workers_of(cluster), 30)
    assert commits(run_dir) == kept
    return run_dir


def test_a_run_that_is_stopped_and_then_killed_keeps_what_is_committed_and_leaves_no_process(
    interrupted: Path, cluster: RayCluster, alone: Path
) -> None:
    assert 0 < commits(interrupted) < commits(alone)
    assert not workers_of(cluster)
    assert "stopped by SIGTERM" in (interrupted / "logs" / "run.log").read_text()


class Disturbed:
    """A run that continues, and whose driver is paused when both workers have a shard.

    One actor and one node are killed meanwhile.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.metrics: list[dict[str, Any]] = []
        self._logged = len(self.log)

    @property
    def log(self) -> str:
        return (self.run_dir / "logs" / "run.log").read_text()

    @property
    def continued_log(self) -> str:
        """What was logged since it continued."""
        return self.log[self._logged :]


@pytest.fixture(scope="module")
def disturbed(cluster: RayCluster, interrupted: Path) -> Disturbed:
    run = Disturbed(interrupted)
    metrics = run.run_dir / "logs" / "metrics.jsonl"
    computed, before = len(metrics.read_text().splitlines()), commits(run.run_dir)
    process = start(*given(cluster, run.run_dir), cwd=run.run_dir.parent, **cluster.variables)
    assert wait_until(lambda: commits(run.run_dir) > before and len(workers_of(cluster)) == 2)
    os.kill(process.pid, signal.SIGSTOP)
    before = commits(run.run_dir)
    actors = {node: actor for actor, node in workers_of(cluster).items()}
    assert sorted(actors) == [0, 1]
    os.kill(actors[0], signal.SIGKILL)
    cluster.remove(1)
    assert wait_until(lambda: not workers_of(cluster))
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(120) == 0
    assert before < commits(run.run_dir)
    run.metrics = [json.loads(line) for line in metrics.read_text().splitlines()[computed:]]
    return run


def test_what_is_stopped_killed_and_loses_an_actor_and_a_node_loses_nothing_and_doubles_nothing(
    disturbed: Disturbed, alone: Path
) -> None:
    assert_whole(disturbed.run_dir, alone)
    assert disturbed.log.count(" committed shard ") == commits(alone)


def test_lost_workers_are_named_and_replaced_where_there_is_room(disturbed: Disturbed) -> None:
    lost = re.findall(r"worker \d: the process was lost with its (\w+)", disturbed.continued_log)
    assert len(lost) == 2
    assert set(lost) <= {"actor", "node", "connection"}  # as Ray has found out until the run asks
    # The node that is left has room for one.
    assert len(re.findall(r"INFO worker \d: on ", disturbed.continued_log)) > 2


def test_the_batches_of_all_actors_are_numbered_once(disturbed: Disturbed) -> None:
    first = disturbed.metrics[0]["batch"]
    assert [row["batch"] for row in disturbed.metrics] == list(range(first, first + len(disturbed.metrics)))
    assert {row["worker"] for row in disturbed.metrics} == {0, 1}
    assert {row["workers"] for row in disturbed.metrics} <= {1, 2}


ASKING = """
import threading
from multiprocessing import Pipe
from pipeline.executors.processes.link import Link
from pipeline.executors.processes.messages import GO, MayWrite
run, worker = Pipe()
link = Link(worker)
asking = threading.Thread(target=link.check_in_place)
asking.start()
assert isinstance(run.recv(), MayWrite)
run.send(7)
assert next(iter(link.shards())) == 7 and asking.is_alive()
run.send(GO)
asking.join()
print("agreed", flush=True)
run.close()
link.check_in_place()
print("not reached")
"""


def test_a_worker_waits_until_its_run_agrees_and_ends_with_the_connection() -> None:
    done = subprocess.run([sys.executable, "-c", ASKING], env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "agreed\n")


def test_actors_write_a_run_in_an_object_store(cluster: RayCluster, store: Store, tmp_path: Path) -> None:
    two_shards = (*SHORT, "shard.hours=0.004", *CORPUS[2:])
    assert main([*two_shards, f"run_dir={tmp_path / 'alone'}"]) == 0
    assert commits(tmp_path / "alone") == 2
    ray = given(cluster, f"s3://{BUCKET}/run")[len(CORPUS) :]
    done = run(*two_shards, *ray, "executor.workers=1", cwd=tmp_path, **cluster.variables)
    assert done.returncode == 0, done.stderr
    found = s3.download(store, BUCKET, "run", tmp_path / "found")
    assert_accounting(found)
    assert_same_tables(tmp_path / "alone", found)


# --- what is refused, and what ends a run


def test_an_error_on_a_node_is_one_line_that_names_the_node(cluster: RayCluster, tmp_path: Path) -> None:
    older = (
        "from pipeline.executors.cluster import task\n"
        "found = task.versions()\n"
        "task.versions = lambda: {**found, 'torch': '1.0'}"
    )
    done = run_prepared(older, *given(cluster, tmp_path / "run"), cwd=tmp_path, **cluster.variables)
    assert done.returncode == 2
    assert re.search(
        r"^error: executor=ray: \S+ has torch \S+ in place of 1.0; install the same versions on every node$",
        done.stderr,
        re.MULTILINE,
    )
    assert commits(tmp_path / "run") == 0


def test_failures_of_actors_count_against_max_failures(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        Path(f"{name}.wav").write_bytes(b"RIFF")
    arguments = listed([{"path": f"{name}.wav"} for name in "abc"])
    ray = given(cluster, tmp_path / "run")[3:]
    done = run(*arguments, *ray, "max_failures=2", cwd=tmp_path, **cluster.variables)
    assert done.returncode == 1
    assert "error: 3 failures, more than max_failures=2; " in done.stderr
    assert not workers_of(cluster)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "executor.address=127.0.0.1:1: no Ray cluster answers at 127.0.0.1:1"),
        ("auto", "executor.address=auto: no Ray cluster "),
        ("ray://127.0.0.1:1", "executor.address=ray://127.0.0.1:1: "),
        ("here", "executor.address=here: must be auto, local, HOST:6379 or ray://HOST:10001"),
    ],
)
def test_a_cluster_that_is_not_there_is_refused_before_the_run_begins(address: str, said: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    given = [*CORPUS, f"run_dir={run_dir}", "executor=ray", f"executor.address={address}"]
    done = run(*given, cwd=tmp_path, RAY_TMPDIR=str(tmp_path))
    assert (done.returncode, run_dir.exists()) == (2, False)
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


def test_without_the_extra_the_run_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    line = refused([*CORPUS, f"run_dir={tmp_path / 'run'}", "executor=ray"], capsys)
    assert line.startswith("error: executor=ray: needs the package ray, which the extra ray has; run pip install ")


@pytest.mark.parametrize(
    "given", ["workers=0", "gpus_per_worker=0", "gpus_per_worker=2", "cpus_per_worker=0"], ids=lambda given: given
)
def test_values_that_cannot_be_are_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"executor.{given}" in refused([*CORPUS, "executor=ray", f"executor.{given}"], capsys)


def test_one_gpu_of_a_cluster_cannot_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused([*CORPUS, f"run_dir={tmp_path / 'run'}", "executor=ray", "device=cuda:1"], capsys)
    assert "device=cuda:1: executor=ray chooses the GPUs" in line


def test_a_node_that_does_not_see_the_run_is_refused(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    job = cast(Job, SimpleNamespace(directory=directory))
    with directory.lock():
        (lock,) = directory.held_locks
        task.require_marker(job, lock.said)
        with pytest.raises(UserError, match=r"run_dir=\S+/run: \S+ does not see the run \('process "):
            task.require_marker(job, "process 1 on another since 2026-01-01")
    (tmp_path / "run" / ".staging" / "lock").unlink()
    with pytest.raises(
        UserError, match=r"\('No such file or directory' in place of .* on storage that all nodes share"
    ):
        task.require_marker(job, lock.said)


# --- metrics and sizes


def test_actors_count_audio_failures_and_time_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.util import metrics as of_ray

    counted: dict[tuple[str, str], float] = {}

    class Counter:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.tag_keys = name, tag_keys

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == self.tag_keys
            assert tags["run"] == "night"
            counted[self.name, tags[self.tag_keys[-1]]] = value

    monkeypatch.setattr(of_ray, "Counter", Counter)
    from pipeline.executors.cluster.metrics import NAMES, Metrics

    failures = [Failure(name, f"/{name}.wav", "load", "truncated", "too short") for name in "ab"]
    seconds = {"padded_s": 9.0, "valid_s": 8.0, "load_s": 0.0, "forward_s": 2.0, "write_s": 0.0, "idle_s": 0.5}
    metrics = Metrics("night")
    metrics.count(BatchDone(BatchMetrics(0, 0, 3, 2, **seconds), 7.0, failures))
    metrics.count(Committed(cast(CommitRecord, SimpleNamespace(utterances=3))))
    assert {name for name, _ in counted} == {*NAMES}
    assert counted["pipeline_audio_seconds_total", "night"] == 7
    assert counted["pipeline_failures_total", "truncated"] == 2
    assert (counted["pipeline_device_seconds_total", "busy"], counted["pipeline_device_seconds_total", "idle"]) == (
        2,
        0.5,
    )
    assert (counted["pipeline_utterances_total", "night"], counted["pipeline_shards_total", "night"]) == (3, 1)


def node(cpus: float, gpus: float = 0, **other: float) -> dict[str, Any]:
    return {"Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **other}}


@pytest.mark.parametrize(
    ("nodes", "options", "on_gpus", "size"),
    [
        ([node(0), node(4), node(32)], Options(), False, (9, 4, 0)),
        ([node(2)], Options(workers=2), False, (2, 1, 0)),
        ([node(4), node(64, 8), node(16, 4)], Options(), True, (12, 4, 1)),
        ([node(64, 8)], Options(gpus_per_worker=0.5), True, (16, 4, 0.5)),
        ([node(8, 8)], Options(cpus_per_worker=2), True, (4, 2, 1)),
        ([node(4)], Options(), True, (1, 4, 1)),
        ([node(4)], Options(workers=64), True, (20, 4, 1)),
    ],
    ids=[
        "cores of the smallest node",
        "two on a node",
        "a worker for each GPU",
        "half a GPU",
        "few cores",
        "no GPU yet",
        "no more than shards",
    ],
)
def test_actors_fit_the_nodes(
    nodes: list[dict[str, Any]], options: Options, on_gpus: bool, size: tuple[int, int, float]
) -> None:
    connection = cast(Connection, SimpleNamespace(nodes=lambda: nodes))
    assert sizes.size_of(connection, options, on_gpus=on_gpus, shards=20) == sizes.Size(*size)


def test_auto_stands_for_the_gpus_of_the_cluster() -> None:
    nodes = [node(4), node(8, 2, **{"accelerator_type:H100": 1.0})]
    assert str(sizes.devices_of(nodes, "auto")) == str(sizes.devices_of(nodes, "cuda")) == "cuda (H100)"
    assert str(sizes.devices_of(nodes, "cpu")) == str(sizes.devices_of(nodes[:1], "auto")) == "cpu"
