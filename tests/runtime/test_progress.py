"""What a run shows of its progress, with one worker and with several."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.runtime.metrics import BatchMetrics
from pipeline.runtime.progress import RunProgress


def batch(number: int, **numbers: float) -> BatchMetrics:
    zeros = dict.fromkeys(("padded_s", "valid_s", "load_s", "forward_s", "write_s", "idle_s"), 0.0)
    return BatchMetrics(batch=number, shard=0, size=1, failed=0, **{**zeros, **numbers})


def progress_of(console: Console, metrics: Path, *workers: str) -> RunProgress:
    return RunProgress(
        console, metrics, total_s=7200, done_s=0, total_shards=2, done_shards=0, workers=workers or ("",)
    )


def test_each_of_several_workers_has_a_line_with_its_speed_and_its_idle_share(tmp_path: Path) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with progress_of(terminal, tmp_path / "metrics.jsonl", "cuda:0", "cuda:1", "cuda:2") as progress:
        progress.begin(0)
        progress.begin(1)
        progress.batch(batch(0, forward_s=3.0, idle_s=1.0), 1800.0, 0)
        progress.batch(batch(0, forward_s=1.0, idle_s=1.0), 900.0, 1)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    last = shown[shown.rindex("45.0 min of 2.0 h") :]
    assert re.search(r"\n  cuda:0 [\d.]+ x real time, idle 25 %", last)
    assert re.search(r"\n  cuda:1 [\d.]+ x real time, idle 50 %", last)
    assert "\n  cuda:2 starting" in last
    assert max(map(len, last.splitlines())) <= 80


def test_without_a_terminal_several_workers_say_no_more_than_one(tmp_path: Path) -> None:
    lines = []
    for workers in ((), ("cuda:0", "cuda:1")):
        plain = Console(file=io.StringIO(), width=110)
        with progress_of(plain, tmp_path / "metrics.jsonl", *workers) as progress:
            progress.begin()
            progress.batch(batch(0, load_s=0.0), 3600.0)
        lines.append(plain.file.getvalue().count("\n"))  # type: ignore[attr-defined]
        assert bool(progress.workers_said) == bool(workers)
    assert lines == [1, 1]


def test_the_lines_of_metrics_say_which_of_how_many_workers(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    with progress_of(Console(file=io.StringIO()), metrics, "a", "b") as progress:
        progress.begin(1)
        progress.batch(batch(0), 1.0, 1)
        progress.begin(0)
        progress.batch(batch(0), 1.0, 0)
        progress.end(1)
        progress.batch(batch(1), 1.0, 0)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [(row["batch"], row["worker"], row["workers"]) for row in rows] == [(0, 1, 1), (1, 0, 2), (2, 0, 1)]
    with progress_of(Console(file=io.StringIO()), tmp_path / "single.jsonl") as progress:
        progress.batch(batch(5), 1.0)
    (row,) = map(json.loads, (tmp_path / "single.jsonl").read_text().splitlines())
    assert (row["batch"], "worker" in row, "workers" in row) == (5, False, False)


def test_what_a_dead_worker_has_not_committed_is_not_done(tmp_path: Path) -> None:
    with progress_of(Console(file=io.StringIO()), tmp_path / "metrics.jsonl", "a", "b") as progress:
        progress.begin(0)
        progress.batch(batch(0), 100.0, 0)
        progress.batch(batch(1), 10.0, 1)
        progress.end(0, lost_s=60.0, lost_failures=0)
        assert progress.done_s == pytest.approx(50.0)


def test_writing_bounds_a_run_only_if_most_workers_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunProgress, "elapsed_s", 100.0)
    for workers, bound in ((("a",), True), (("a", "b", "c"), False)):
        with progress_of(Console(file=io.StringIO()), tmp_path / "metrics.jsonl", *workers) as progress:
            progress.begin()
            progress.batch(batch(0, write_s=30.0, load_s=30.0), 1.0)
            assert progress.is_bound_by_writing == bound
            assert progress.waiting == pytest.approx(0.3 / len(workers))
