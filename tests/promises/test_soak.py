"""A short soak: some disturbances of one run directory, drawn from a fixed seed; `make soak` is the long one."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import warm
from running import ROOT, server

SCRIPTS = ROOT / "scripts" / "soak"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The soak that disturbs runs, and the harness of every soak."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("disturb"), importlib.import_module("harness")


def start_warm(command: list[str], *, cwd: Path, env: dict[str, str], **_: object) -> warm.Process:
    return server().start(command[2], command[3:], cwd=cwd, env=env, new_session=True)


def run_warm(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
    return server().run(command[2], command[3:], cwd=Path.cwd(), env=env, timeout=240)


@pytest.mark.slow
def test_disturbed_at_random_a_run_ends_with_the_tables_of_an_undisturbed_one(
    modules: tuple[ModuleType, ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disturb, harness = modules
    monkeypatch.setattr(harness, "subprocess", SimpleNamespace(Popen=start_warm))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = ["--seed", "5", "--recordings", "24", "--disturbances", "5", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["disturb.py", *given])
    code = harness.run(disturb.Disturbed, disturb.__doc__)
    said = capsys.readouterr().out
    assert code == 0, said
    assert "seed 5" in said
    assert "completed and compared" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_soak_sees_a_table_that_differs_or_is_missing_and_what_was_left_behind(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb, harness = modules
    given = Namespace(recordings=12, workers=1)
    soaked = disturb.Disturbed(tmp_path, random.Random(0), given)  # in an interpreter of its own, as `make soak` does
    monkeypatch.setattr(harness, "subprocess", SimpleNamespace(Popen=start_warm))
    out = tmp_path / "other"
    assert soaked.finish(out) == 0
    soaked.compare(out)
    victim = sorted((out / "emissions").glob("*.parquet"))[0]
    data = victim.read_bytes()
    for damaged, what in ((data[:-9] + b"x" + data[-8:], "other content"), (None, "other files")):
        victim.unlink()
        if damaged is not None:
            victim.write_bytes(damaged)
        with pytest.raises(harness.Difference, match=what):
            soaked.compare(out)
    victim.write_bytes(data)
    (out / ".staging" / "shard-00000-1-x").mkdir()
    with pytest.raises(harness.Difference, match="staging"):
        soaked.compare(out)


@pytest.mark.slow
def test_a_corpus_that_changes_at_random_while_its_runs_are_killed_has_every_row_right(
    modules: tuple[ModuleType, ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, harness = modules
    growth = importlib.import_module("growth")
    monkeypatch.setattr(harness, "subprocess", SimpleNamespace(Popen=start_warm))
    verifying = SimpleNamespace(run=run_warm, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(growth, "subprocess", verifying)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["growth.py", "--minutes", "0", "--seed", "3"])
    code = harness.run(growth.Nights, growth.__doc__)
    said = capsys.readouterr().out
    assert code == 0, said
    assert "\n1 nights, " in said
    assert list(tmp_path.iterdir()) == []
