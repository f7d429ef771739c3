"""Killed at any time and started again, a run ends with the tables of an undisturbed one."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from running import (
    DATA,
    assert_accounting,
    assert_same_tables,
    group_members,
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
