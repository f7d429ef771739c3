"""A short soak: some disturbances of one run directory, drawn from a fixed seed; `make soak` is the long one."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from running import ROOT, environment

SCRIPT = ROOT / "scripts" / "soak.py"


@pytest.mark.slow
def test_disturbed_at_random_a_run_ends_with_the_tables_of_an_undisturbed_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seed", "5", "--recordings", "24", "--disturbances", "5", "--rounds", "1"],
        capture_output=True, text=True, timeout=280, cwd=tmp_path, env=environment(TMPDIR=str(tmp_path)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 5" in done.stdout
    assert "completed and compared" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_soak_sees_a_table_that_differs_or_is_missing_and_what_was_left_behind(
    soak: ModuleType, tmp_path: Path
) -> None:
    soaked = soak.Soak(tmp_path, 12, random.Random(0))
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
