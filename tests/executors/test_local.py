"""However the shards of a job are executed, the tables are the same; and what a run says of its speed."""

from __future__ import annotations

import gc
import pickle
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import DATA, SHORT, assert_accounting, assert_same_tables, main, run, start_workers_warm

from pipeline.inference import execute as execution
from pipeline.inference import loop
from pipeline.inference.job import Computation, Job
from pipeline.inference.monitor import Listener, Monitor
from pipeline.inference.writer import ShardWriter
from pipeline.models.engine import Engine
from pipeline.models.sources import digits
from pipeline.runtime import progress
from pipeline.runtime.errors import UserError

CORPUS = (*SHORT, "shard.hours=0.0008", "loader.workers=0", "stages=[manifest,infer,score]")


EXECUTORS = {
    "one process": (),
    "two processes": ("executor.workers=2",),
    "an actor": ("executor=ray", "executor.address=local", "executor.workers=1"),
}
"""Tasks of `executor=slurm` are in test_slurm.py, several actors in test_ray.py."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert main([*CORPUS, f"run_dir={run_dir}", "threads=1"]) == 0
    return run_dir


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Three recordings, for runs of which only the speed is looked at."""
    folder = tmp_path_factory.mktemp("few")
    for source in sorted((DATA / "fsdd").glob("*_0.wav"))[:3]:
        (folder / source.name).symlink_to(source)
    return "dataset=folder", f"dataset.root={folder}", "model=digits", "loader.workers=0", "stages=[manifest,infer]"


@pytest.mark.parametrize("given", EXECUTORS.values(), ids=EXECUTORS)
def test_every_executor_writes_the_same_tables(given: tuple[str, ...], whole: Path, tmp_path: Path) -> None:
    done = run(*CORPUS, f"run_dir={tmp_path / 'run'}", "loader.workers=1", *given, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert_accounting(tmp_path / "run")
    assert_same_tables(whole, tmp_path / "run")
    assert (tmp_path / "run" / "scores.parquet").exists()
    assert {path.name.partition("-")[0] for path in (tmp_path / "run" / ".staging").iterdir()} == {"lock"}


def test_shards_executed_one_by_one_in_any_order_give_the_tables_of_one_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = tmp_path / "single"
    done: list[int] = []
    whole_execute = execution.execute

    def one_by_one(job: Job, shards: Sequence[int], device: torch.device, listener: Listener) -> list[int]:
        sent = pickle.dumps(job)  # as an executor sends a job to another process
        for shard in reversed(shards):
            received: Job = pickle.loads(sent)
            assert whole_execute(received, [shard], device, listener) == []
            done.append(shard)
        return []

    monkeypatch.setattr(execution, "execute", one_by_one)
    assert main([*CORPUS, f"run_dir={single}"]) == 0
    assert len(done) > 5
    assert done == sorted(done, reverse=True)
    assert_accounting(single)
    assert_same_tables(whole, single)


def test_a_shard_is_taken_when_its_first_batch_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    batches_before: list[int] = []
    whole_execute, take = execution.execute, Monitor.batch

    def execute(job: Job, shards: Sequence[int], device: torch.device, listener: Listener) -> list[int]:
        def lazily() -> Iterator[int]:
            for shard in reversed(shards):
                taken.append(shard)
                yield shard

        return whole_execute(job, lazily(), device, listener)

    def batch(monitor: Monitor, *arguments: Any) -> None:
        batches_before.append(len(taken))
        take(monitor, *arguments)

    monkeypatch.setattr(execution, "execute", execute)
    monkeypatch.setattr(Monitor, "batch", batch)
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "threads=1"]) == 0
    assert taken == list(range(len(taken)))[::-1]
    assert batches_before[0] < batches_before[-1] == len(taken)  # shards were left when the first batch was done


@pytest.mark.parametrize(("threads", "sharing", "computing"), [(8, 1, 8), (8, 3, 2), (1, 4, 1)])
def test_processes_share_the_threads(
    threads: int, sharing: int, computing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    whole_execute = execution.execute

    def build(computation: Computation, device: torch.device, threads: int | None, _: object) -> Engine:
        asked.append(threads)
        raise UserError("enough")

    def execute(job: Job, shards: Sequence[int], device: torch.device, listener: Listener) -> list[int]:
        return whole_execute(replace(job, sharing=sharing), shards, device, listener)

    monkeypatch.setattr(execution, "execute", execute)
    monkeypatch.setattr(execution, "build_engine", build)
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", f"threads={threads}"]) == 2
    assert asked == [computing]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_model_that_was_checked_computes_and_nothing_else_keeps_it(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_workers_warm(monkeypatch)
    built, kept = list[object](), list[int]()
    build, batch = digits.Source.build, Monitor.batch

    def building(source: digits.Source) -> object:
        built.append(weakref.ref(model := build(source)))
        return model

    def counting(monitor: Monitor, *given: Any, **named: Any) -> None:
        if not kept:
            gc.collect()
        kept.append(sum(each() is not None for each in built))  # type: ignore[operator]
        batch(monitor, *given, **named)

    monkeypatch.setattr(digits.Source, "build", building)
    monkeypatch.setattr(Monitor, "batch", counting)
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", f"executor.workers={workers}"]) == 0
    assert len(built) == 1
    assert set(kept) == {0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets the given seconds pass for everything that measures a run, in no time."""
    passed = 0.0

    def let_pass(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    fake = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)
    for module in (loop, execution, progress):
        monkeypatch.setattr(module, "time", fake)
    return let_pass


@pytest.mark.parametrize(
    ("method", "given", "named"),
    [
        ("put", (), "features.layout=binary"),
        ("close", (), "features.layout=binary"),
        ("put", ("features.layout=binary",), "emissions.layout=binary"),
        ("put", ("outputs=[transcripts,emissions]",), "emissions.layout=binary"),
        ("put", ("features.layout=binary", "emissions.layout=binary"), None),
        ("close", ("outputs=[transcripts]",), None),
    ],
    ids=["lists", "after the last batch", "features in binary", "emissions alone", "both in binary", "no arrays"],
)
def test_a_run_that_waits_for_the_writer_names_the_setting_that_writes_faster(
    method: str,
    given: tuple[str, ...],
    named: str | None,
    few: tuple[str, ...],
    clock: Callable[[float], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    do = getattr(ShardWriter, method)

    def slow(writer: ShardWriter, *arguments: object) -> None:
        clock(1000.0)
        do(writer, *arguments)

    monkeypatch.setattr(ShardWriter, method, slow)
    assert main([*few, f"run_dir={tmp_path / 'run'}", *given]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "for the writer; " in line]
    assert [line.split("; ")[1].split(" (with")[0] for line in said] == ([] if named is None else [named])


def test_a_run_that_seldom_waits_for_the_writer_does_not_speak_of_layouts(
    few: tuple[str, ...],
    clock: Callable[[float], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put, compute = ShardWriter.put, loop.compute_in_order

    def slow_put(writer: ShardWriter, *arguments: Any) -> None:
        clock(100.0)
        put(writer, *arguments)

    def slow_compute(*arguments: Any) -> Iterator[loop.Begun]:
        for begun in compute(*arguments):
            clock(900.0)
            yield begun

    monkeypatch.setattr(ShardWriter, "put", slow_put)
    monkeypatch.setattr(loop, "compute_in_order", slow_compute)
    assert main([*few, f"run_dir={tmp_path / 'run'}"]) == 0
    assert "layout" not in capsys.readouterr().out
