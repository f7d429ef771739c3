"""The file for Prometheus: what it says in the course of a run, and at its end, however the run ends."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import prometheus
import pytest
from running import ROOT, SHORT, main, start_workers_warm

from pipeline.inference import execute as execution
from pipeline.inference import textfile
from pipeline.inference.job import Job
from pipeline.inference.monitor import Monitor
from pipeline.inference.textfile import RunTextfile
from pipeline.records import ErrorName
from pipeline.runtime.errors import UserError
from pipeline.storage.run_directory import RunDirectory

GIVEN = ("shard.hours=0.0007", "loader.workers=0", "stages=[manifest,infer]", "run_dir=run")
CORPUS = (*SHORT, *GIVEN)
PREFIX = "overnight_speech_"
pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture
def prom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file is to be; the working directory is its folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run.prom"


def value(path: Path, name: str, **labels: str) -> float | None:
    return prometheus.total(prometheus.parse(path.read_text()), f"{PREFIX}{name}", **labels)


def run(prom: Path, *given: str) -> int:
    return main([*CORPUS, f"metrics.textfile={prom}", *given])


# --- a run


def test_a_run_says_what_it_did_and_that_it_has_ended(prom: Path) -> None:
    assert run(prom) == 0
    read = partial(value, prom)
    assert (read("running"), read("exit_code")) == (0, 0)
    assert read("shards") == read("shards_committed") == len(list(Path("run/commits").iterdir()))
    assert (read("utterances_total"), read("failures_total")) == (24, 0)
    assert read("audio_seconds_total") == pytest.approx(21.92, abs=0.01)
    assert read("device_seconds_total", worker="cpu", state="busy") > 0
    assert read("device_seconds_total", worker="cpu", state="idle") is not None
    assert read("oldest_shard_timestamp_seconds") is None  # nothing is under way
    start, progress, end = (read(f"{name}_timestamp_seconds") for name in ("start", "last_progress", "end"))
    assert start <= progress <= end
    (labels,) = map(dict, prometheus.parse(prom.read_text())[f"{PREFIX}running"])
    assert labels == {"run": "run", "model": "digits"}
    assert [path.name for path in prom.parent.iterdir() if path.name.startswith(".")] == []
    assert run(prom) == 0  # nothing is left to do
    assert (read("exit_code"), read("utterances_total"), read("shards_committed")) == (0, 0, read("shards"))


def test_a_part_of_a_run_counts_its_own_shards_and_has_a_label(prom: Path) -> None:
    assert run(prom, "executor.part=2/3") == 0
    assert value(prom, "shards", part="2/3") == value(prom, "shards_committed", part="2/3") == 2
    assert value(prom, "exit_code", part="2/3") == 0


def test_in_the_middle_of_a_run_the_file_says_since_when_each_worker_has_its_oldest_shard(
    prom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[prometheus.Samples] = []
    take = Monitor.batch

    def batch(self: Monitor, *arguments: Any) -> None:
        take(self, *arguments)
        seen.append(prometheus.parse(prom.read_text()))

    monkeypatch.setattr(textfile, "EVERY_S", 0.0)
    monkeypatch.setattr(Monitor, "batch", batch)
    start_workers_warm(monkeypatch)
    # As many shards as it takes until the second worker has started too.
    given = ["dataset=digits", *GIVEN, f"metrics.textfile={prom}", "executor.workers=2", "loader.workers=1"]
    assert main(given) == 0
    oldest = [each[f"{PREFIX}oldest_shard_timestamp_seconds"] for each in seen]
    workers = {dict(labels)["worker"] for each in oldest for labels in each}
    assert workers == {"worker 0 on cpu", "worker 1 on cpu"}
    assert [prometheus.total(each, f"{PREFIX}running") for each in seen] == [1.0] * len(seen)
    assert all(f"{PREFIX}exit_code" not in each for each in seen)
    counted = [prometheus.total(each, f"{PREFIX}audio_seconds_total") for each in seen]
    assert counted == sorted(counted)  # type: ignore[type-var]
    assert counted[0] < counted[-1]  # type: ignore[operator]


def test_failures_are_counted_by_name_and_each_name_starts_at_zero(prom: Path) -> None:
    calls = prom.parent / "calls"
    shutil.copytree(ROOT / "pipeline" / "shipped" / "digits", calls)
    for path in sorted(calls.glob("*.flac"))[5:]:
        path.unlink()
    (calls / "broken.flac").write_bytes(b"not audio")
    given = ["dataset=folder", f"dataset.root={calls}", "model=digits"]
    assert main([*given, *GIVEN, f"metrics.textfile={prom}"]) == 3
    samples = prometheus.parse(prom.read_text())[f"{PREFIX}failures_total"]
    named = {dict(labels)["error"]: number for labels, number in samples.items()}
    assert named.keys() == {*get_args(ErrorName)}
    assert sum(named.values()) == 1
    assert named["unreadable"] + named["unsupported_format"] == 1
    assert (value(prom, "utterances_total"), value(prom, "exit_code")) == (6, 3)


# --- the end


def stop(job: Job, *arguments: object) -> list[int]:
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("was not stopped")


def refuse(job: Job, *arguments: object) -> list[int]:
    raise UserError("/w.pt: damaged")


def fill_disk(job: Job, *arguments: object) -> list[int]:
    raise OSError(28, "No space left on device", "/t.parquet")


def break_down(job: Job, *arguments: object) -> list[int]:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("execute", "code"),
    [(stop, 143), (refuse, 2), (fill_disk, 1), (break_down, 1)],
    ids=["signal", "damaged weights", "full disk", "bug"],
)
def test_however_a_run_ends_the_file_has_its_exit_code(
    execute: Callable[..., list[int]], code: int, prom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "execute", execute)
    if execute is break_down:
        with pytest.raises(ZeroDivisionError):
            run(prom)
    else:
        assert run(prom) == code
    assert (value(prom, "running"), value(prom, "exit_code")) == (0, code)


def test_a_run_that_is_refused_by_the_lock_leaves_the_file_to_the_run_that_goes_on(prom: Path) -> None:
    prom.write_text("of the other\n")
    with RunDirectory(Path("run")).lock():
        assert run(prom) == 2
    assert prom.read_text() == "of the other\n"
    assert run(prom, "dataset.path=/nowhere") == 2
    assert prom.read_text() == "of the other\n"  # its configuration was refused


def test_a_file_that_cannot_be_written_is_refused_and_nothing_begins(
    prom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prom.parent / "folder.prom").mkdir()
    (prom.parent / "file").touch()
    for name, reason in (
        ("missing/a.prom", "No such file or directory"),
        ("folder.prom", "is a folder"),
        ("file/a.prom", "Not a directory"),
    ):
        assert run(prom.parent / name) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith(f"error: metrics.textfile={prom.parent / name}: cannot be written ({reason}); give a ")
        assert "\n" not in line
    assert sorted(path.name for path in prom.parent.iterdir()) == ["file", "folder.prom"]
    assert main([*CORPUS, "metrics.textfile=run.txt"]) == 2
    assert "metrics.textfile=run.txt: must be null, or a file that ends in .prom" in capsys.readouterr().err


def test_a_folder_that_goes_away_in_the_middle_ends_no_run(prom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prom.parent / "collector"
    folder.mkdir()
    begin = RunTextfile.begin

    def begin_and_remove(self: RunTextfile) -> None:
        begin(self)
        shutil.rmtree(folder)

    monkeypatch.setattr(textfile, "EVERY_S", 0.0)
    monkeypatch.setattr(RunTextfile, "begin", begin_and_remove)
    assert run(folder / "run.prom") == 0
    log = Path("run/logs/run.log").read_text()
    said = f"WARNING metrics.textfile={folder}/run.prom: cannot be written (No such file or directory); the run goes on"
    assert log.count(said) == 1


# --- the file alone


def test_labels_are_escaped_and_the_file_is_not_written_for_every_batch(
    prom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = 'C:\\calls "new"\nsecond line'
    figures = RunTextfile(prom, run=run_dir, model="digits")
    figures.batch("cuda:0", 1.0, 1.0, 0.0)
    assert not prom.exists()  # it does not hold the lock yet
    figures.begin()
    figures.batch("cuda:0", 1.0, 1.0, 0.0)
    assert value(prom, "audio_seconds_total", run=run_dir) == 1.0
    figures.end(0)
    assert value(prom, "audio_seconds_total", run=run_dir) == 2.0


def test_shards_of_a_worker_that_has_died_are_no_longer_under_way(prom: Path) -> None:
    figures = RunTextfile(prom)
    figures.begin()
    figures.take("a", 0)
    figures.take("b", 1)
    figures.leave("a")
    figures.committed(1, 10, {})
    figures.take("b", 2)
    figures._write()
    series = prometheus.parse(prom.read_text())[f"{PREFIX}oldest_shard_timestamp_seconds"]
    assert [dict(labels) for labels in series] == [{"worker": "b"}]


def test_in_another_process_it_writes_nothing(prom: Path) -> None:
    figures = RunTextfile(prom, run="run")
    figures.begin()
    before = prom.read_text()
    other: RunTextfile = pickle.loads(pickle.dumps(figures))
    other.end(1)
    assert prom.read_text() == before
