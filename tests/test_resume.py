"""Killed at any time and started again, a run ends with the tables of an undisturbed one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from running import (
    DATA,
    assert_accounting,
    assert_same_tables,
    group_members,
    ids,
    kill_group,
    mtimes,
    run,
    start,
    wait_until,
)

# Each recording is a shard, so that there is always a commit under way.
GIVEN = (
    "dataset=folder",
    f"dataset.root={DATA / 'fsdd'}",
    "model=digits",
    "shard.hours=0.0001",
    "features.layers=[2,4]",
)


def commits(run_dir: Path) -> int:
    return len(list((run_dir / "commits").glob("shard-*.json")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(*GIVEN, f"run_dir={folder / 'out'}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert commits(folder / "out") > 200
    return folder / "out"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_ten_times_while_committing_and_resumed_equals_the_undisturbed_run(
    undisturbed: Path, tmp_path: Path
) -> None:
    chance = random.Random(7)
    out = tmp_path / "out"
    kept: dict[str, int] = {}
    for _ in range(10):
        before = commits(out)
        process = start(*GIVEN, f"run_dir={out}", cwd=tmp_path)
        assert wait_until(lambda before=before: commits(out) > before)
        time.sleep(chance.uniform(0.0, 0.15))
        assert process.poll() is None, "it ended before it could be killed"
        kill_group(process)
        assert wait_until(lambda process=process: not group_members(process.pid)), "processes were left behind"
        now = mtimes(out)
        # Whatever had its commit record by the last kill has not been touched since.
        committed = {path for path in kept if (out / "commits" / (Path(path).stem + ".json")).exists()}
        assert {path: now[path] for path in committed} == {path: kept[path] for path in committed}
        records = {path.stem for path in (out / "commits").glob("*.json")}
        kept = {path: time_ns for path, time_ns in now.items() if Path(path).stem in records}
    assert commits(out) < commits(undisturbed)
    assert run(*GIVEN, f"run_dir={out}", cwd=tmp_path).returncode == 0
    assert_same_tables(undisturbed, out)
    assert_accounting(out, layers=2)
    after = mtimes(out)
    assert {path: after[path] for path in kept} == kept
    assert [path.name for path in (out / ".staging").iterdir()] == ["lock"]


@pytest.mark.parametrize("point", ["staged:2", "renaming:2", "renamed:2", "committed:2"])
def test_killed_at_each_step_of_a_commit_the_tables_stay_whole_for_every_reader(
    undisturbed: Path, tmp_path: Path, point: str
) -> None:
    out = tmp_path / "out"
    killed = run(*GIVEN, f"run_dir={out}", cwd=tmp_path, PIPELINE_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL
    manifest = pq.read_table(out / "manifest.parquet", columns=["id", "shard"])
    shards = list(zip(manifest["id"].to_pylist(), manifest["shard"].to_pylist(), strict=True))
    for table in ("transcripts", "emissions", "features"):
        pattern = str(out / table / "*.parquet")
        rows = 2 if table == "features" else 1
        with_duckdb = [row[0] for row in duckdb.sql(f"select id from '{pattern}'").fetchall()]
        with_polars = pl.read_parquet(pattern)["id"].to_list()
        with_pandas = pd.read_parquet(out / table)["id"].tolist()
        assert sorted(with_duckdb) == sorted(with_polars) == sorted(with_pandas) == ids_of(out, table)
        assert len(with_duckdb) == rows * len(set(with_duckdb))
        # Two shards are whole; of the third at most whole files are seen, never half of one.
        found = set(with_duckdb)
        assert found in ({id_ for id_, shard in shards if shard < 2}, {id_ for id_, shard in shards if shard < 3})
    if point.startswith("staged"):
        assert any(path.is_dir() for path in (out / ".staging").iterdir())
        assert {shard for id_, shard in shards if id_ in ids(out, "transcripts")} == {0, 1}
    assert run(*GIVEN, f"run_dir={out}", cwd=tmp_path).returncode == 0
    assert_same_tables(undisturbed, out)


def ids_of(out: Path, table: str) -> list[str]:
    return sorted(ids(out, table))


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], ids=["TERM", "INT", "HUP"]
)
def test_a_signal_stops_cleanly_and_the_next_run_continues(
    undisturbed: Path, tmp_path: Path, signum: int, code: int
) -> None:
    out = tmp_path / "out"
    process = start(*GIVEN, f"run_dir={out}", cwd=tmp_path)
    assert wait_until(lambda: commits(out) > 3)
    kill_group(process, signum)  # a terminal's Ctrl-C reaches the whole group, the loader's workers too
    assert process.returncode == code
    assert wait_until(lambda: not group_members(process.pid)), "processes were left behind"
    assert 3 < commits(out) < commits(undisturbed)
    assert [path.name for path in (out / ".staging").iterdir()] == ["lock"]
    assert "stopped by" in (out / "logs" / "run.log").read_text()
    before = mtimes(out)
    assert run(*GIVEN, f"run_dir={out}", cwd=tmp_path).returncode == 0
    assert before.items() <= mtimes(out).items()
    assert_same_tables(undisturbed, out)


def test_a_second_driver_on_a_run_directory_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*GIVEN, f"run_dir={out}", cwd=tmp_path)
    try:
        assert wait_until(lambda: commits(out) > 0)
        process.send_signal(signal.SIGSTOP)  # it holds the lock for as long as it lives
        second = run(*GIVEN, f"run_dir={out}", cwd=tmp_path)
        assert second.returncode == 2
        assert f"locked by process {process.pid}" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
        status = subprocess.run(
            [sys.executable, "-m", "pipeline.status", str(out)],
            capture_output=True,
            text=True,
            cwd=DATA.parents[1],
            check=True,
        )
        assert "running" in status.stdout
    finally:
        kill_group(process)


@pytest.mark.parametrize("damage", ["cut", "missing", "record cut", "record missing"])
def test_a_damaged_shard_and_only_that_is_done_again(undisturbed: Path, tmp_path: Path, damage: str) -> None:
    given = (*GIVEN[:3], "shard.hours=0.02", "outputs=[transcripts]", f"run_dir={tmp_path / 'out'}")
    out = tmp_path / "out"
    assert run(*given, cwd=tmp_path).returncode == 0
    whole = {table: (out / table / "shard-00001.parquet").read_bytes() for table in ("transcripts", "failures")}
    before = mtimes(out)
    victim = out / ("commits/shard-00001.json" if "record" in damage else "transcripts/shard-00001.parquet")
    if "cut" in damage:
        victim.write_bytes(victim.read_bytes()[:-9])
    else:
        victim.unlink()
    assert run(*given, cwd=tmp_path).returncode == 0
    assert {table: (out / table / "shard-00001.parquet").read_bytes() for table in whole} == whole
    after = mtimes(out)
    assert {path for path in before if after[path] != before[path]} <= {
        "commits/shard-00001.json", "transcripts/shard-00001.parquet", "failures/shard-00001.parquet",
    }  # fmt: skip
