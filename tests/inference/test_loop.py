"""What the loop does where several cores compute, and where several shards are committed at a time."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from running import SHORT, TABLES, main

from pipeline.inference import execute as inference
from pipeline.inference import shard_tables
from pipeline.models import device
from pipeline.results import open_run
from pipeline.storage.run_directory import RunDirectory

# Many batches and shards, and recordings that are cut into chunks.
CORPUS = (*SHORT, "shard.hours=0.0007", "batch.max_seconds=2", "chunk.seconds=1", "chunk.context_seconds=0.25")
CORPUS = (*CORPUS, "loader.workers=0")


def tables(run_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for table in TABLES
        for path in (run_dir / table).glob("*.parquet")
    }


@pytest.fixture(scope="module")
def one_after_another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "plain"
    assert main([*CORPUS, f"run_dir={run_dir}", "threads=1"]) == 0
    return run_dir


def test_the_number_of_cores_and_of_committers_changes_no_byte(
    one_after_another: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "default_committers", lambda *_: 3)
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "threads=5"]) == 0
    assert len(tables(one_after_another)) > 20
    assert tables(tmp_path / "run") == tables(one_after_another)


def test_the_seconds_of_chunks_add_up_to_those_of_the_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "outputs=[transcripts]"]) == 0
    (done, total), *_ = re.findall(r"^([\d.]+) s of ([\d.]+) s, ", capsys.readouterr().out, re.MULTILINE)
    assert done == total


def test_a_cpu_with_bf16_runs_in_it_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda: True)  # a CPU without it is slower, but computes the same
    run_dir = tmp_path / "run"
    assert main([*SHORT, "precision=bf16", "device=cpu", f"run_dir={run_dir}"]) == 0
    recorded = RunDirectory(run_dir).read_record()
    assert recorded is not None
    assert recorded.identity.precision == "bf16"
    assert list(open_run(run_dir).transcripts["word_errors"]) == [0] * 24


def test_shards_are_committed_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "default_committers", lambda *_: 2)
    together = threading.Barrier(2, timeout=60)
    commit, met = shard_tables.commit, []

    def waiting(directory: RunDirectory, record, *rest):  # type: ignore[no-untyped-def]
        if record.shard < 2:
            met.append(together.wait())
        return commit(directory, record, *rest)

    monkeypatch.setattr(shard_tables, "commit", waiting)
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}"]) == 0
    assert sorted(met) == [0, 1]


@pytest.mark.parametrize("committers", [1, 3])
def test_a_commit_that_fails_ends_the_run_and_the_next_one_completes_it(
    one_after_another: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committers: int
) -> None:
    run_dir = tmp_path / "run"
    commit = shard_tables.commit

    def failing(directory: RunDirectory, record, *rest):  # type: ignore[no-untyped-def]
        if record.shard == 1:
            raise OSError(28, "No space left on device", str(directory.locate(directory.table("features", 1).name)))
        return commit(directory, record, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(inference, "default_committers", lambda *_: committers)
        broken.setattr(shard_tables, "commit", failing)
        assert main([*CORPUS, f"run_dir={run_dir}"]) == 1
    assert not (run_dir / "commits" / "shard-00001.json").exists()
    assert [path.name for path in (run_dir / ".staging").iterdir()] == ["lock"]
    assert main([*CORPUS, f"run_dir={run_dir}"]) == 0
    assert tables(run_dir) == tables(one_after_another)
