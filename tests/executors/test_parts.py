"""The parts of a run: which shards they compute, how they share a run directory, and which of them closes the run."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from running import (
    DATA,
    SHIPPED,
    SHORT,
    assert_accounting,
    assert_same_tables,
    kill_group,
    main,
    run,
    start,
    wait_until,
)

from pipeline.results import open_run
from pipeline.status import describe, read_status
from pipeline.storage import locked_run
from pipeline.storage.names import Part
from pipeline.storage.run_directory import RunDirectory

CORPUS = (*SHORT, "shard.hours=0.0007", "loader.workers=0", "threads=1")
STAGES = "stages=[manifest,infer,score]"
SHARDS = 7
pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert main([*CORPUS, STAGES, f"run_dir={run_dir}"]) == 0
    return run_dir


def committed(run_dir: Path) -> list[int]:
    return [int(path.stem.split("-")[1]) for path in sorted((run_dir / "commits").glob("*.json"))]


@contextmanager
def at_work(run_dir: Path, part: str, given: Sequence[str] = (*CORPUS, STAGES)) -> Iterator[None]:
    """Another process that computes a part, and that hangs in its first shard."""
    asked = [*given, f"run_dir={run_dir}", f"executor.part={part}"]
    process = start(*asked, cwd=run_dir.parent, PIPELINE_FAILPOINT="spool=hang")
    directory = RunDirectory(run_dir)
    assert wait_until(lambda: any(name.startswith("shard-") for name in directory.names(".staging")), 30)
    try:
        yield
    finally:
        kill_group(process)


def test_parts_that_run_at_the_same_time_give_the_tables_of_one_run(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    processes = [start(*CORPUS, STAGES, f"run_dir={run_dir}", f"executor.part={n}/3", cwd=tmp_path) for n in (1, 2, 3)]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert_accounting(run_dir)
    assert_same_tables(whole, run_dir)
    assert [out.count("all parts are done: 24 of 24 utterances") for out, _ in ended].count(1) == 1
    logs = {path.name for path in (run_dir / "logs").iterdir()}
    assert logs == {f"{name}-{n}-of-3.{end}" for n in (1, 2, 3) for name, end in (("run", "log"), ("metrics", "jsonl"))}
    pd.testing.assert_frame_equal(open_run(run_dir).scores, open_run(whole).scores)
    for n in (1, 2, 3):
        log = (run_dir / "logs" / f"run-{n}-of-3.log").read_text()
        assert log.count(" committed shard ") == len(range(n - 1, SHARDS, 3))


def test_a_part_computes_its_shards_only_and_the_last_part_closes_the_run(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    given = [*CORPUS, STAGES, f"run_dir={run_dir}"]
    assert main([*given, "executor.part=2/3"]) == 0
    assert committed(run_dir) == [1, 4]
    said = capsys.readouterr().out
    assert "part 2/3: 7 of 7 utterances" in said
    assert "5 shards of the run left, of the parts 1/3, 3/3" in said
    assert "pandas" not in said
    assert not (run_dir / "scores.parquet").exists()
    assert main([*given, "executor.part=2/3"]) == 0
    assert "part 2/3: complete already; " in capsys.readouterr().out
    assert main([*given, "executor.part=1/3"]) == 0
    assert "2 shards of the run left, of the parts 3/3" in capsys.readouterr().out
    assert main([*given, "executor.part=3/3"]) == 0
    assert "all parts are done: 24 of 24 utterances" in capsys.readouterr().out
    assert_same_tables(whole, run_dir)
    assert (run_dir / "scores.parquet").exists()
    assert open_run(run_dir).transcripts["same_as"].equals(open_run(whole).transcripts["same_as"])


def test_parts_without_scores_are_closed_by_a_command_for_the_whole_run(whole: Path, tmp_path: Path) -> None:
    given = [*CORPUS, f"run_dir={tmp_path / 'run'}"]
    for part in ("2/2", "1/2"):
        assert main([*given, "stages=[manifest,infer]", f"executor.part={part}"]) == 0
    assert not (tmp_path / "run" / "scores.parquet").exists()
    assert main([*given, "stages=[score,report]"]) == 0
    assert (tmp_path / "run" / "report" / "index.html").exists()
    pd.testing.assert_frame_equal(open_run(tmp_path / "run").scores, open_run(whole).scores)


def test_other_parts_are_let_in_when_the_run_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    with at_work(run_dir, "1/3"):
        assert main([*CORPUS, STAGES, f"run_dir={run_dir}", "executor.part=2/3"]) == 0
        said = capsys.readouterr().out
        assert "part 2/3: done; other parts of the run are at work, and the last one to end closes the run" in said
        assert "reading headers" not in said
        lines = describe(read_status(run_dir), datetime.now(UTC))
        assert len([line for line in lines if line.startswith("at work  part 1/3, process ")]) == 1
        assert not any("part 2/3" in line for line in lines)
        # This process was the last one to share the lock, but it holds it no more.
        assert main([*CORPUS, STAGES, f"run_dir={run_dir}"]) == 2
        assert f"error: run_dir={run_dir}: locked by part 1/3, process " in capsys.readouterr().err
    assert committed(run_dir) == [1, 4]


def test_a_part_that_is_at_work_is_not_started_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    with at_work(run_dir, "1/3"):
        assert main([*CORPUS, STAGES, f"run_dir={run_dir}", "executor.part=1/3"]) == 2
        assert f"error: run_dir={run_dir} executor.part=1/3: locked by part 1/3, process " in capsys.readouterr().err
        assert main([*CORPUS, STAGES, f"run_dir={run_dir}"]) == 2
        assert f"error: run_dir={run_dir}: locked by part 1/3, process " in capsys.readouterr().err


def test_a_part_is_refused_while_a_whole_run_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    process = start(*CORPUS, STAGES, f"run_dir={run_dir}", cwd=tmp_path, PIPELINE_FAILPOINT="spool=hang")
    try:
        assert wait_until(lambda: RunDirectory(run_dir).is_locked(), 30)
        assert main([*CORPUS, STAGES, f"run_dir={run_dir}", "executor.part=1/3"]) == 2
        assert f"error: run_dir={run_dir}: locked by process " in capsys.readouterr().err
    finally:
        kill_group(process)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("chunk.seconds=30", "chunk.seconds: 60.0 before, 30.0 now"),
        ("outputs=[transcripts]", "outputs: [emissions,features,transcripts] before, [transcripts] now"),
        ("features.layers=all", "layers: [4] before, [1,2,3,4] now"),
        ("shard.hours=0.01", "shard.hours: 0.0007 before, 0.01 now"),
        ("extend=check", "extend=check: other parts of the run are at work; ask again when they have ended"),
    ],
)
def test_a_part_that_asks_for_something_else_than_those_at_work_is_refused(
    given: str, said: str, joined: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in joined.iterdir() if path.is_file()}
    assert {path.name for path in before} == {"manifest.parquet", "run.json", "config.yaml"}
    assert main([*CORPUS, STAGES, f"run_dir={joined}", "executor.part=2/3", given]) == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    run_dir = tmp_path_factory.mktemp("joined") / "run"
    with at_work(run_dir, "1/3"):
        yield run_dir


def test_a_part_takes_over_what_is_new_only_if_no_other_is_at_work(tmp_path: Path) -> None:
    corpus, run_dir = tmp_path / "corpus", tmp_path / "run"
    corpus.mkdir()
    recordings = sorted(SHIPPED.rglob("*.flac"))[:5] or sorted(DATA.rglob("*.flac"))[:5]
    for recording in recordings[:4]:
        shutil.copy(recording, corpus)
    given = ["dataset=folder", f"dataset.root={corpus}", "model=digits", "shard.hours=1e-6", "loader.workers=0", STAGES]
    with at_work(run_dir, "1/2", given):
        shutil.copy(recordings[4], corpus)
        assert main([*given, f"run_dir={run_dir}", "executor.part=2/2"]) == 0
        assert len(open_run(run_dir).manifest) == 4
        assert committed(run_dir) == [1, 3]
    assert main([*given, f"run_dir={run_dir}", "executor.part=2/2"]) == 0
    assert len(open_run(run_dir).manifest) == 5
    assert main([*given, f"run_dir={run_dir}", "executor.part=1/2"]) == 0
    assert committed(run_dir) == [0, 1, 2, 3, 4]
    assert_accounting(run_dir)


def test_a_part_that_is_killed_loses_its_unfinished_shard_only(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    given = [*CORPUS, STAGES, f"run_dir={run_dir}"]
    with at_work(run_dir, "2/2"):
        killed = run(*given, "executor.part=1/2", cwd=tmp_path, PIPELINE_FAILPOINT="renamed:4")
        assert killed.returncode == -signal.SIGKILL
        assert committed(run_dir) == [0, 2]
        assert main([*given, "executor.part=1/2"]) == 0
        assert committed(run_dir) == [0, 2, 4, 6]
    assert main([*given, "executor.part=2/2"]) == 0
    assert_same_tables(whole, run_dir)
    assert sorted(RunDirectory(run_dir).names(".staging")) == ["lock", "lock-1-of-2", "lock-2-of-2"]


def test_a_part_leaves_what_another_writes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    with at_work(run_dir, "1/3"):
        staged = [name for name in RunDirectory(run_dir).names(".staging") if name.startswith("shard-")]
        (run_dir / "commits").mkdir()
        for shard in (0, 2):
            (run_dir / "commits" / f"shard-{shard:05d}.json").write_text("half")
        assert main([*CORPUS, STAGES, f"run_dir={run_dir}", "executor.part=3/3"]) == 0
        assert set(staged) <= set(RunDirectory(run_dir).names(".staging"))
        said = capsys.readouterr().out
        assert "commits/shard-00002.json: cannot be used" in said
        assert "shard-00000" not in said


def test_a_part_clears_its_own_shards_away_and_the_last_part_everything(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for name in ("shard-00000-dead", "shard-00001-dead"):
        (run_dir / ".staging" / name).mkdir(parents=True)
    (run_dir / ".staging" / "file-dead").touch()
    directory = RunDirectory(run_dir)
    assert main([*CORPUS, STAGES, f"run_dir={run_dir}", "executor.part=2/2"]) == 0
    assert {"file-dead", "shard-00000-dead"} < set(directory.names(".staging"))
    assert not directory.has_staging(1)
    (run_dir / ".staging" / "shard-00001-dead").mkdir()
    assert main([*CORPUS, STAGES, f"run_dir={run_dir}", "executor.part=1/2"]) == 0
    assert directory.names(".staging") == ["lock", "lock-1-of-2", "lock-2-of-2"]


def test_a_part_that_has_no_shards_to_compute_says_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*CORPUS, f"run_dir={tmp_path / 'run'}", "outputs=[emissions]"]
    assert main([*given, "stages=[manifest]", "executor.part=1/12"]) == 0
    left = "7 shards of the run left, of the parts 1/12, 2/12, 3/12, 4/12, 5/12, 6/12, 7/12\n"
    assert capsys.readouterr().out.endswith(f"24 of 24 utterances have a reference\n{left}")
    for again in ("", "complete already; "):
        assert main([*given, "stages=[infer]", "executor.part=2/3"]) == 0
        said = capsys.readouterr().out
        assert f"part 2/3: {again}7 of 7 utterances" in said
        assert "5 shards of the run left, of the parts 1/3, 3/3" in said


def test_parts_of_other_sizes_that_overlap_do_no_harm(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    processes = [start(*CORPUS, STAGES, f"run_dir={run_dir}", f"executor.part={p}", cwd=tmp_path) for p in PARTS]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(PARTS), ended
    assert_accounting(run_dir)
    assert_same_tables(whole, run_dir)


PARTS = ("1/1", "1/2", "2/2")


def refuse_locks(descriptor: int, command: int, *given: Any) -> Any:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "fcntl", refuse_locks)


@pytest.mark.usefixtures("without_locks")
def test_parts_work_on_a_file_system_without_locks(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    given = [*CORPUS, STAGES, f"run_dir={run_dir}"]
    assert main(given) == 2
    assert capsys.readouterr().err == (
        f"error: run_dir={run_dir}: cannot be locked (No locks available); choose a run_dir= on a file system that "
        "supports locks, or add executor.part=1/1 and start no other run there meanwhile\n"
    )
    for part in ("1/2", "2/2"):
        assert main([*given, f"executor.part={part}"]) == 0
        said = capsys.readouterr().out
        assert "the file system has no locks, so other parts may be at work; once all have ended" in said
    assert not (run_dir / "scores.parquet").exists()
    assert main([*given, "executor.part=1/1"]) == 0
    assert "all parts are done: 24 of 24 utterances" in capsys.readouterr().out
    assert_same_tables(whole, run_dir)
    # Parts do not know that the run was closed. What they compute then is compared and scored again.
    (run_dir / "commits" / "shard-00001.json").unlink()
    assert main([*given, "executor.part=2/2"]) == 0
    assert not (run_dir / "scores.parquet").exists()
    assert main([*given, "executor.part=1/1"]) == 0
    assert (run_dir / "scores.parquet").exists()
    assert_same_tables(whole, run_dir)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_the_first_part_plans_and_the_others_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*CORPUS, STAGES, f"run_dir={tmp_path / 'run'}"]

    def first_part(seconds: float) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(fcntl, "fcntl", refuse_locks)
        run(*given, "executor.part=1/2", cwd=tmp_path)

    monkeypatch.setattr(locked_run.time, "sleep", first_part)
    assert main([*given, "executor.part=2/2"]) == 0
    assert "waiting for part 1/2, which plans or closes the run\n" in capsys.readouterr().out
    assert committed(tmp_path / "run") == list(range(SHARDS))


def test_each_part_retries_its_own_failures(tmp_path: Path) -> None:
    corpus, run_dir = tmp_path / "corpus", tmp_path / "run"
    corpus.mkdir()
    recordings = sorted(SHIPPED.rglob("*.flac"))[:4] or sorted(DATA.rglob("*.flac"))[:4]
    for number, recording in enumerate(recordings):
        (corpus / f"{number}.flac").write_bytes(recording.read_bytes()[:2000])
    given = ["dataset=folder", f"dataset.root={corpus}", "model=digits", "shard.hours=1e-6", "loader.workers=0", STAGES]
    given += [f"run_dir={run_dir}"]
    assert [main([*given, f"executor.part={part}"]) for part in ("1/2", "2/2")] == [3, 3]
    attempts = open_run(run_dir).failures.set_index("id")["attempts"]
    assert len(attempts) == 4
    assert main([*given, "executor.part=2/2", "retry_failed=true"]) == 3
    again = open_run(run_dir).failures.set_index("id")["attempts"]
    assert sorted((again - attempts).to_list()) == [0, 0, 1, 1]
    other = run_dir / "failures" / "shard-00000.parquet"  # another part may be replacing it
    other.write_bytes(bytes(other.stat().st_size))
    assert main([*given, "executor.part=2/2", "retry_failed=true"]) == 3


def test_a_part_adds_an_output_to_a_shard_that_its_retry_has_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, run_dir = tmp_path / "corpus", tmp_path / "run"
    corpus.mkdir()
    first, second = sorted(SHIPPED.rglob("*.flac"))[:2] or sorted(DATA.rglob("*.flac"))[:2]
    shutil.copy(first, corpus / "a.flac")
    (corpus / "b.flac").write_bytes(second.read_bytes()[:2000])
    given = ["dataset=folder", f"dataset.root={corpus}", "model=digits", "loader.workers=0", STAGES]
    given += [f"run_dir={run_dir}", "executor.part=1/1"]
    assert main([*given, "outputs=[transcripts]"]) == 3
    (corpus / "a.flac").write_bytes(b"")
    assert main([*given, "outputs=[transcripts,emissions]", "retry_failed=true", "extend=off"]) == 3
    assert "1 shard kept unchanged" in capsys.readouterr().out
    assert committed(run_dir) == [0, 0]  # the second is the supplement


@pytest.mark.parametrize("part", ["0/8", "9/8", "3", "a/b", "3/8/1", "-1/8", "3/0"])
def test_a_part_that_cannot_be_is_refused(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", f"executor.part='{part}'"]) == 2
    assert capsys.readouterr().err == (
        f"error: executor.part={part}: must be the number of a part and the number of parts, from 1/8 to 8/8 for eight "
        "parts, or null\n"
    )
    assert not (tmp_path / "run").exists()


def test_every_shard_belongs_to_one_of_the_parts() -> None:
    for of in (1, 3, 8):
        shards = [shard for number in range(1, of + 1) for shard in Part(number, of).shards(20)]
        assert sorted(shards) == list(range(20))
