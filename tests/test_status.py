"""What `python -m pipeline.status` says, and what it answers where there is no run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_run import run_record

from pipeline import status
from pipeline.records import Failure
from pipeline.status import Status, describe, read_status
from pipeline.storage import committing, tables
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import CommitRecord
from pipeline.storage.manifest import Manifest
from pipeline.storage.metrics import read_metrics
from pipeline.storage.names import Part
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.summary import Standing, Totals, after_stop

REPOSITORY = Path(__file__).parent.parent
RECORD = run_record()
MARK = RECORD.fingerprint
NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """Five utterances in three shards (2, 2, 1); the last one's header cannot be read."""
    rows = [
        {"id": f"u{index}", "path": f"/u{index}.wav", "duration_s": duration, "shard": shard}
        for index, (duration, shard) in enumerate([(1800.0, 0), (1800.0, 0), (90.0, 1), (30.0, 1), (None, 2)])
    ]
    manifest = Manifest(pa.Table.from_pylist(rows, schema=tables.manifest_schema({})), digest="d")
    run = RunDirectory(tmp_path / "run")
    manifests.write(run, manifest, {"dataset": "folder"})
    run.write("run.json", RECORD.encode())
    return run


def commit(
    run: RunDirectory, shard: int, utterances: int, audio_s: float, failed: Mapping[str, int], mark: str = MARK
) -> None:
    ids = [f"s{shard}-{index}" for index in range(sum(failed.values()))]
    staged = run.new_staging(shard) / "failures.parquet"
    pq.write_table(tables.failures_table(Failure(id_, "/", "load", "truncated", "") for id_ in ids), staged)
    record = CommitRecord(shard, mark, {}, utterances, audio_s, dict(failed))
    committing.commit(run, record, {"failures": staged}, ids, {})


def metrics_line(
    valid_s: float, idle_s: float = 0.0, forward_s: float = 1.0, *, batch: int = 0, shard: int | None = None
) -> str:
    row = {
        "time": "2026-01-02T03:04:05.678+00:00",
        "batch": batch,
        "valid_s": valid_s,
        "forward_s": forward_s,
        "idle_s": idle_s,
    }
    row |= {} if shard is None else {"shard": shard}
    return json.dumps(row) + "\n"


def write_metrics(run: RunDirectory, text: str) -> None:
    (run.root / "logs/metrics.jsonl").parent.mkdir(exist_ok=True)
    (run.root / "logs/metrics.jsonl").write_text(text)


def test_done_failed_and_pending_are_counted(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    commit(directory, 0, 2, 1800.0, {"truncated": 1})
    assert status.main([str(directory.root)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "done     1 of 5 utterances, 30.0 min, 1 of 3 shards",
        "failed   1 (1 truncated)",
        "pending  3 utterances, 2.0 min",
        "stopped; run the same command again to continue",
    ]


def test_a_complete_run_is_complete(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    commit(directory, 0, 2, 3600.0, {})
    commit(directory, 1, 2, 120.0, {})
    commit(directory, 2, 1, 0.0, {"unreadable": 1})
    assert status.main([str(directory.root)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "done     4 of 5 utterances, 1.0 h, 3 of 3 shards",
        "failed   1 (1 unreadable)",
        "pending  0 utterances, 0.0 s",
        "complete",
    ]


def test_a_run_that_has_only_a_manifest_has_everything_to_do(directory: RunDirectory) -> None:
    (directory.root / "run.json").unlink()
    found = read_status(directory.root)
    assert (found.standing.totals.utterances, found.standing.num_utterances, found.standing.num_shards) == (0, 5, 3)
    assert found.standing.pending_s == 3720.0
    assert found.real_time is None


def test_shards_of_other_settings_are_not_counted(directory: RunDirectory) -> None:
    commit(directory, 0, 2, 3600.0, {})
    commit(directory, 1, 2, 120.0, {}, mark="another")
    found = read_status(directory.root)
    assert found.standing.totals.shards == 1
    assert found.standing.pending_s == 120.0


def test_a_run_that_holds_its_lock_is_running(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not read_status(directory.root).standing.locked
    monkeypatch.setattr(RunDirectory, "is_locked", lambda self: True)  # by another process: see test_store
    assert read_status(directory.root).standing.locked
    assert describe(read_status(directory.root), NOW)[-1] == "running"


def test_it_says_which_shard_is_begun_and_how_much_of_it(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(directory, 0, 2, 3600.0, {})
    earlier, cut = metrics_line(60.0, shard=1), '{"batch": 7, "val'
    write_metrics(directory, f"{earlier}{metrics_line(1800.0, shard=0)}{metrics_line(30.0, batch=1, shard=1)}{cut}")
    stopped = read_status(directory.root)
    assert stopped.standing.in_flight == {1: (30.0, 120.0)}
    assert describe(stopped, NOW)[-1].endswith("; it computes shard 1 (30.0 s of 2.0 min) again")
    assert after_stop(directory) == (
        "what was committed stays (1 of 3 shards), the same command continues and computes 30.0 s of audio again"
    )
    assert after_stop(RunDirectory(directory.root, Part(1, 2))) == (
        "what was committed stays (1 of 3 shards), the same command continues"
    )
    monkeypatch.setattr(RunDirectory, "is_locked", lambda self: True)
    assert read_status(directory.root).standing.in_flight == {}  # a resume has not begun the shard yet
    directory.new_staging(1)
    assert describe(read_status(directory.root), NOW)[-2] == "begun    shard 1 (30.0 s of 2.0 min)"


def test_a_stop_before_the_first_commit_says_that_all_is_done_again(directory: RunDirectory) -> None:
    nothing = "nothing is committed yet, the same command starts from the beginning"
    assert after_stop(directory) == nothing
    write_metrics(directory, metrics_line(900.0, shard=0))
    assert after_stop(directory) == f"{nothing} and computes 15.0 min of audio again"
    (directory.root / "manifest.parquet").unlink()
    assert after_stop(directory) == nothing
    (directory.root / "speech").mkdir()
    (directory.root / "speech" / "batch-00000.parquet").touch()
    assert after_stop(directory) == "the speech that was found in recordings so far stays, the same command continues"


def test_speed_is_that_of_the_last_batches(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    write_metrics(directory, metrics_line(1.0) * 3 + metrics_line(30.0, 1.0, 1.0) * 2)
    monkeypatch.setattr(status, "RECENT_BATCHES", 2)
    assert read_status(directory.root).real_time == 15.0


def test_the_speed_of_workers_that_compute_at_the_same_time_adds_up(directory: RunDirectory) -> None:
    alone = metrics_line(30.0)
    pair = [
        json.dumps({**json.loads(metrics_line(valid_s)), "worker": n, "workers": 2})
        for n, valid_s in enumerate((20.0, 40.0))
    ]
    write_metrics(directory, "\n".join(pair) + "\n")
    assert read_status(directory.root).real_time == 60.0
    write_metrics(directory, alone + "\n".join(pair) + "\n")  # one second of one worker, one second of two
    assert read_status(directory.root).real_time == 45.0


def test_the_speed_of_parts_that_compute_at_the_same_time_adds_up(directory: RunDirectory) -> None:
    logs = directory.root / "logs"
    logs.mkdir()
    for part, valid_s in (("1-of-2", 20.0), ("2-of-2", 40.0)):
        (logs / f"metrics-{part}.jsonl").write_text(metrics_line(valid_s) * 3)
    (logs / "metrics-1-of-1.jsonl.bak").write_text(metrics_line(1e6))
    assert [line.workers for line in read_metrics(directory)] == [1, 1, 1, 2, 2, 2]  # lines of one time, file by file
    assert read_status(directory.root).real_time == 180.0 / (3 * 1.0 + 3 * 0.5)


def test_a_stop_between_batches_is_not_counted_as_work(directory: RunDirectory) -> None:
    write_metrics(directory, metrics_line(300.0, idle_s=1e6))
    assert read_status(directory.root).real_time == 300.0 / status.PAUSE_S


@pytest.mark.parametrize(
    ("text", "real_time"),
    [("", None), ('{"batch": 0, "val', None), (metrics_line(30.0) + '{"batch": 1, "va', 30.0), ("\n", None)],
)
def test_metrics_that_are_empty_or_being_written_do_no_harm(
    text: str, real_time: float | None, directory: RunDirectory
) -> None:
    write_metrics(directory, text)
    assert read_status(directory.root).real_time == real_time


def test_a_running_run_says_when_it_will_end() -> None:
    totals = Totals(shards=1, utterances=100, audio_s=7200.0, failures=Counter({"truncated": 1, "empty": 2}))
    lines = describe(Status(Standing(totals, 300, 3, 200, 14400.0, locked=True), 2.0), NOW)
    assert lines == [
        "done     97 of 300 utterances, 2.0 h, 1 of 3 shards",
        "failed   3 (2 empty, 1 truncated)",
        "pending  200 utterances, 4.0 h",
        "speed    2.0 x real time over the last batches",
        "running, 2 h 00 min left, ends about 2025-03-01 14:00",
    ]


@pytest.mark.parametrize("given", ["no/such/folder", "."])
def test_no_run_there_is_code_2_and_one_line(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status.main([given]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert given in said.err
    assert "no run there" in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_cannot_be_read_is_code_2_and_one_line(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory.root / "manifest.parquet").write_bytes(b"not a table")
    assert status.main([str(directory.root)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert str(directory.root / "manifest.parquet") in said.err


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 2), (["a", "b"], 2), (["--watch"], 2), (["--help"], 0), (["-h"], 0)]
)
def test_anything_but_one_folder_gets_the_usage(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main(arguments) == code
    said = capsys.readouterr()
    assert "usage: python -m pipeline.status RUN_DIR" in said.out + said.err


def test_the_status_changes_nothing_and_does_not_load_torch(directory: RunDirectory) -> None:
    commit(directory, 0, 2, 3600.0, {})
    before = sorted((str(path), path.stat().st_mtime_ns) for path in directory.root.rglob("*"))
    script = (
        "import sys\nfrom pipeline.status import main\ncode = main(sys.argv[1:])\n"
        "assert not {'torch', 'torchaudio'} & set(sys.modules)\nsys.exit(code)"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", script, str(directory.root)], env=environment, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("stopped; run the same command again to continue\n")
    assert sorted((str(path), path.stat().st_mtime_ns) for path in directory.root.rglob("*")) == before
