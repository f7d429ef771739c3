"""Killed at any time and started again, a run ends with the tables of an undisturbed one."""

from __future__ import annotations

import random
import shutil
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

GIVEN = ("dataset=folder", "dataset.root=corpus", "model=digits")
# Each recording is a shard, so that there is always a commit under way.
MANY = (*GIVEN, "shard.hours=0.0001", "features.layers=[2,4]")
FEW = (*GIVEN, "shard.hours=0.005", "outputs=[transcripts]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs are started; the corpus lies there."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "corpus").mkdir()
    for source in sorted((DATA / "fsdd").glob("*.wav"))[::3]:
        (folder / "corpus" / source.name).symlink_to(source)
    return folder


def commits(run_dir: Path) -> int:
    return len(list((run_dir / "commits").glob("shard-*.json")))


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    done = run(*MANY, "run_dir=undisturbed", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert commits(folder / "undisturbed") > 70
    return folder / "undisturbed"


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run of a few shards."""
    done = run(*FEW, "run_dir=whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert commits(folder / "whole") >= 3
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_six_times_while_committing_and_resumed_equals_the_undisturbed_run(
    folder: Path, undisturbed: Path
) -> None:
    chance = random.Random(7)
    out = folder / "killed"
    kept: dict[str, int] = {}
    for _ in range(6):
        before = commits(out)
        process = start(*MANY, f"run_dir={out}", cwd=folder)
        assert wait_until(lambda before=before: commits(out) > before)
        time.sleep(chance.uniform(0.0, 0.06))
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
    assert run(*MANY, f"run_dir={out}", cwd=folder).returncode == 0
    assert_same_tables(undisturbed, out)
    assert_accounting(out, layers=2)
    after = mtimes(out)
    assert {path: after[path] for path in kept} == kept
    assert [path.name for path in (out / ".staging").iterdir()] == ["lock"]


@pytest.mark.parametrize("damage", ["cut", "missing", "record cut", "record missing"])
def test_a_damaged_shard_and_only_that_is_done_again(folder: Path, whole: Path, tmp_path: Path, damage: str) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    before = mtimes(out)
    victim = out / ("commits/shard-00001.json" if "record" in damage else "transcripts/shard-00001.parquet")
    if "cut" in damage:
        victim.write_bytes(victim.read_bytes()[:-9])
    else:
        victim.unlink()
    assert run(*FEW, f"run_dir={out}", cwd=folder).returncode == 0
    for table in ("transcripts", "failures"):
        name = f"{table}/shard-00001.parquet"
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    after = mtimes(out)
    changed = {path for path in before if after[path] != before[path]}
    assert victim.relative_to(out).as_posix() in changed
    assert changed <= {
        "commits/shard-00001.json", "transcripts/shard-00001.parquet", "failures/shard-00001.parquet",
    }  # fmt: skip
