"""A short soak: some disturbances of one run directory, drawn from a fixed seed; `make soak` is the long one."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import running
import warm
from running import ROOT, server

SCRIPT = ROOT / "scripts" / "soak.py"
GROWTH = ROOT / "scripts" / "soak_growth.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start_warm(command: list[str], *, cwd: Path, env: dict[str, str], **_: object) -> warm.Process:
    return server().start(command[2], command[3:], cwd=cwd, env=env, new_session=True)


@pytest.mark.slow
def test_disturbed_at_random_a_run_ends_with_the_tables_of_an_undisturbed_one(
    soak: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "subprocess", SimpleNamespace(Popen=start_warm))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = ["--seed", "5", "--recordings", "24", "--disturbances", "5", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *given])
    code = soak.main()
    said = capsys.readouterr().out
    assert code == 0, said
    assert "seed 5" in said
    assert "completed and compared" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_soak_sees_a_table_that_differs_or_is_missing_and_what_was_left_behind(
    soak: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soaked = soak.Soak(tmp_path, 12, random.Random(0))  # an interpreter of its own, as `make soak` starts them all
    monkeypatch.setattr(soak, "subprocess", SimpleNamespace(Popen=start_warm))
    out = tmp_path / "other"
    assert soaked.start(out).wait(200) == 0
    soaked.compare(out)
    victim = sorted((out / "emissions").glob("*.parquet"))[0]
    data = victim.read_bytes()
    for damaged, what in ((data[:-9] + b"x" + data[-8:], "other content"), (None, "other files")):
        victim.unlink()
        if damaged is not None:
            victim.write_bytes(damaged)
        with pytest.raises(soak.Difference, match=what):
            soaked.compare(out)
    victim.write_bytes(data)
    (out / ".staging" / "shard-00000-1-x").mkdir()
    with pytest.raises(soak.Difference, match="staging"):
        soaked.compare(out)


@pytest.mark.slow
def test_a_corpus_that_changes_at_random_while_its_runs_are_killed_has_every_row_right(tmp_path: Path) -> None:
    env = running.environment(TMPDIR=str(tmp_path))
    command = [sys.executable, str(GROWTH), "--minutes", "0", "--seed", "3"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("1 nights, ")
    assert list(tmp_path.iterdir()) == []
