"""Killed, or refused by the system, at each named step: readers see whole tables, the next run completes them."""

from __future__ import annotations

import signal
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest
from running import SHORT, TABLES, assert_accounting, assert_same_tables, read, run

from pipeline.runtime import failpoints
from pipeline.runtime.errors import UserError
from pipeline.runtime.failpoints import POINTS, failpoint

# Each recording is a shard of its own. No process loads: at its points the kill is to meet the run.
GIVEN = (
    *(*SHORT, "shard.hours=0.0001", "features.layers=[2,4]", "loader.workers=0"),
    "stages=[manifest,infer,score,report,compact]",
)
COUNTS = {"decode": 2, "forward": 2, "take": 2, "spool": 5, "table": 2, "sync": 3, "renaming": 2, "moved": 2}
"""Not always the first time: in the midst of a shard, or after another is committed."""
RECORD = {"file": 4, "file-staged": 4, "file-synced": 4, "file-moved": 4}
"""Small files of a run that goes on: run.json, config.yaml, and a record for each shard."""

ELSEWHERE = {"renewal", "renewal-decided", "described", "extend", "extended", "references", "references-written"}
"""Points that only a run reaches whose corpus, references or normaliser have changed."""


def contents(run_dir: Path) -> dict[str, bytes]:
    """Every file of the tables."""
    return {
        path.relative_to(run_dir).as_posix(): path.read_bytes()
        for table in TABLES
        for path in (run_dir / table).glob("*")
    }


def records(run_dir: Path) -> set[str]:
    return {path.stem for path in (run_dir / "commits").glob("*.json")}


def assert_whole_for_every_reader(run_dir: Path, undisturbed: Path) -> None:
    """What the readers find is what the undisturbed run has, of as many shards as are there."""
    found, expected = contents(run_dir), contents(undisturbed)
    assert {path for path in found if found[path] != expected[path]} == set()
    for table in TABLES:
        pattern = str(run_dir / table / "*.parquet")
        files = sorted((run_dir / table).glob("*.parquet"))
        if not files:
            continue
        with_duckdb = [row[0] for row in duckdb.sql(f"select id from '{pattern}'").fetchall()]
        with_polars = pl.read_parquet(pattern)["id"].to_list()
        with_pandas = pd.read_parquet(run_dir / table)["id"].tolist()
        assert sorted(with_duckdb) == sorted(with_polars) == sorted(with_pandas)
        rows = {"features": 2, "failures": 0}.get(table, 1)
        assert len(with_duckdb) == rows * len(set(with_duckdb)) >= rows * len(files)
    compacted = run_dir / "compacted-transcripts"
    if compacted.is_dir():
        ids = pd.read_parquet(compacted)["id"].tolist()
        assert sorted(ids) == sorted(pd.read_parquet(undisturbed / "transcripts")["id"])
    for shard in records(run_dir):
        assert all(f"{table}/{shard}.parquet" in found for table in TABLES)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(*GIVEN, f"run_dir={out}", cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert len(records(out)) > 20
    return out


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run directory for all kills in turn: each goes on where the one before was killed."""
    return tmp_path_factory.mktemp("disturbed") / "out"


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run directory for all errors in turn."""
    return tmp_path_factory.mktemp("refused") / "out"


@pytest.mark.slow
@pytest.mark.parametrize("point", [point for point in POINTS if point not in ELSEWHERE])
def test_killed_at_a_step_the_tables_stay_whole_for_every_reader(
    point: str, undisturbed: Path, disturbed: Path
) -> None:
    lost = disturbed / "transcripts" / "shard-00000.parquet"
    if point.startswith("retract"):
        if "shard-00000" not in records(disturbed):
            run(*GIVEN, f"run_dir={disturbed}", cwd=disturbed.parent, PIPELINE_FAILPOINT="committed:0")
        lost.unlink(missing_ok=True)
    before = records(disturbed)
    count = (COUNTS | RECORD).get(point, 1)
    killed = run(*GIVEN, f"run_dir={disturbed}", cwd=disturbed.parent, PIPELINE_FAILPOINT=f"{point}@{count}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = before - ({"shard-00000"} if point == "retracted" else set())
    assert kept <= records(disturbed)
    if point.startswith("retract"):
        assert ("shard-00000" in records(disturbed)) == (point == "retract")
        return  # the table that was taken away is missing until the shard is done again
    assert_whole_for_every_reader(disturbed, undisturbed)


@pytest.mark.slow
def test_after_all_kills_the_tables_are_those_of_the_undisturbed_run(undisturbed: Path, disturbed: Path) -> None:
    done = run(*GIVEN, f"run_dir={disturbed}", cwd=disturbed.parent)
    assert done.returncode == 0, done.stderr
    assert_same_tables(undisturbed, disturbed)
    assert contents(disturbed) == contents(undisturbed)
    assert read(disturbed, "compacted-transcripts").equals(read(undisturbed, "transcripts"))
    assert (disturbed / "scores.parquet").read_bytes() == (undisturbed / "scores.parquet").read_bytes()
    assert_accounting(disturbed, layers=2)
    assert [path.name for path in (disturbed / ".staging").iterdir()] == ["lock"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "named"),
    [
        pytest.param("file=ENOSPC", "manifest.parquet", id="the manifest"),
        pytest.param("spool@5=ENOSPC", ".spool", id="values in staging"),
        pytest.param("table@2=ENOSPC", "transcripts.parquet", id="a table in staging"),
        pytest.param("sync@3=EIO", "emissions/shard-", id="sync of a table"),
        pytest.param("renaming@2=EIO", "emissions/shard-", id="rename of a table"),
        pytest.param("moved@4=EIO", "features", id="sync of a folder"),
        pytest.param("file-staged@4=EIO", "commits/shard-", id="sync of a record"),
        pytest.param("file-synced@4=ENOSPC", "commits/shard-", id="rename of a record"),
        pytest.param("file-moved@4=EIO", "commits/shard-", id="sync of the records' folder"),
    ],
)
def test_an_error_of_the_system_ends_the_run_with_one_line_that_names_the_file(
    point: str, named: str, undisturbed: Path, refused: Path
) -> None:
    ended = run(*GIVEN, f"run_dir={refused}", cwd=refused.parent, PIPELINE_FAILPOINT=point)
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.strip().splitlines()
    reason = "No space left on device" if "ENOSPC" in point else "Input/output error"
    assert line.startswith(f"error: {refused}/")
    assert named in line
    assert f": {reason}; what was committed stays" in line
    if refused.exists():  # where it ended before there was a manifest nothing is left behind
        assert_whole_for_every_reader(refused, undisturbed)
        assert [path.name for path in (refused / ".staging").iterdir()] == ["lock"]
    else:
        assert named == "manifest.parquet"


@pytest.mark.slow
def test_after_all_errors_the_tables_are_those_of_the_undisturbed_run(undisturbed: Path, refused: Path) -> None:
    assert run(*GIVEN, f"run_dir={refused}", cwd=refused.parent).returncode == 0
    assert contents(refused) == contents(undisturbed)


# --- what may be said


@pytest.fixture
def _disarmed_again() -> object:
    yield
    failpoints.arm("")


@pytest.mark.parametrize(
    "text",
    [
        "stagd",
        "staged:",
        "staged:x",
        "staged@0",
        "staged@",
        "staged=",
        "staged=die",
        "staged=errorcode",
        " staged",
        ",",
    ],
)
def test_what_is_not_a_failpoint_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="PIPELINE_FAILPOINT="):
        failpoints.arm(text)


def test_a_misspelt_failpoint_does_not_let_the_run_begin(tmp_path: Path) -> None:
    ended = run(*GIVEN, f"run_dir={tmp_path / 'out'}", cwd=tmp_path, PIPELINE_FAILPOINT="comitted:2")
    assert ended.returncode == 2
    assert "PIPELINE_FAILPOINT=comitted:2" in ended.stderr
    assert "committed" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_disarmed_again")
def test_a_failpoint_acts_the_time_and_at_the_shard_it_is_told() -> None:
    failpoints.arm("sync:3@2=ENOSPC,spool=EIO")
    failpoint("sync", 3)
    failpoint("sync", 2)
    failpoint("staged", 3)
    with pytest.raises(OSError, match="No space left"):
        failpoint("sync", 3)
    failpoint("sync", 3)
    with pytest.raises(OSError, match="Input/output"):
        failpoint("spool")
    failpoints.arm("")
    failpoint("spool")
