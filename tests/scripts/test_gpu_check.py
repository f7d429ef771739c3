"""`make gpu-check` gives results whatever becomes of a step, and its real steps run on a CPU too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, environment, group_members

CHECK = ROOT / "scripts" / "gpu_check.py"
HANGS = "import pathlib, os, time; pathlib.Path('pid').write_text(str(os.getpid())); print('on my way', flush=True); {}"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))


def ran(tmp_path: Path, programs: dict[str, tuple[float, str]], seconds: float = 60) -> tuple[dict[str, Any], Path]:
    """Steps, each with a time limit and a program; returns the summary, and the folder of results."""
    from steps import Outcome, Runner, Step

    def summarise(outcomes: Sequence[Outcome], kept: Path) -> tuple[dict[str, Any], str]:
        return {"kept": sorted(path.name for path in kept.iterdir())}, f"{len(outcomes)} steps\n"

    out, kept = tmp_path / "out", tmp_path / "kept"
    out.mkdir()
    kept.mkdir()
    runner = Runner(out, kept, os.environ, tmp_path, seconds, summarise)
    runner.run(Step(name, limit, ["-c", program]) for name, (limit, program) in programs.items())
    return json.loads((out / "summary.json").read_text()), out


@pytest.mark.usefixtures("modules")
def test_a_step_that_fails_or_hangs_is_reported_and_the_others_run(tmp_path: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    summary, out = ran(
        tmp_path,
        {
            "good": (20, "open('kept/table.json', 'w').write('{}')"),
            "fails": (20, "raise SystemExit('no such device')"),
            "hangs": (1, HANGS.format(f"{stubborn}os.fork(); time.sleep(60)")),
            "last": (20, "print('still here')"),
        },
    )
    assert [(step["name"], step["result"]) for step in summary["steps"]] == [
        ("good", "done"), ("fails", "failed"), ("hangs", "out of time"), ("last", "done"),
    ]  # fmt: skip
    assert [step["tail"] for step in summary["steps"][1:]] == [["no such device"], ["on my way"], ["still here"]]
    assert summary["kept"] == ["fails.log", "good.log", "hangs.log", "last.log", "table.json"]
    assert group_members(int((tmp_path / "pid").read_text())) == []
    assert sorted(path.name for path in out.iterdir()) == ["results.tar.gz", "summary.json", "summary.txt"]
    with tarfile.open(out / "results.tar.gz") as archive:
        assert "results/table.json" in archive.getnames()


@pytest.mark.usefixtures("modules")
def test_the_time_limit_of_all_steps_shortens_one_and_leaves_out_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.LEAST_S", 1.0)
    monkeypatch.setattr("steps.CLOSING_S", 0.5)
    started = time.monotonic()
    summary, _ = ran(tmp_path, {"long": (60, "import time; time.sleep(60)"), "late": (60, "print()")}, seconds=2.5)
    assert [step["result"] for step in summary["steps"]] == ["out of time", "left out"]
    assert summary["steps"][0]["limit_s"] == pytest.approx(2, abs=0.5)
    assert [step["shortened_from_s"] for step in summary["steps"]] == [60, 60]
    assert time.monotonic() - started < 20


@pytest.mark.usefixtures("modules")
def test_results_are_written_after_every_step_and_when_the_check_is_told_to_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = [str(CHECK), "--only", "install", "tests", "--out", str(out), "--device", "cpu"]
    stub = tmp_path / "stub.py"  # the second step hangs
    stub.write_text(
        "import runpy, sys\n"
        "sys.path.insert(0, sys.argv[1])\nimport steps\n"
        "sys.argv[:] = sys.argv[2:]\n"
        "real = steps.Runner._run\n"
        "def run(self, step, limit):\n"
        "    program = 'import time; time.sleep(60)' if step.name == 'tests' else 'print(1)'\n"
        "    real(self, steps.Step(step.name, step.seconds, ['-c', program]), limit)\n"
        "steps.Runner._run = run\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(stub), str(ROOT / "scripts" / "bench"), *given],
        env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert any(line.startswith("== tests") for line in process.stdout)  # it has begun
        assert [step["result"] for step in json.loads((out / "summary.json").read_text())["steps"]] == ["done"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    steps = json.loads((out / "summary.json").read_text())["steps"]
    assert [step["result"] for step in steps] == ["done", "interrupted"]


@pytest.mark.usefixtures("modules")
def test_the_summary_reads_what_the_benchmarks_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECK.parent))
    from gpu_check import summary

    figures = summary([], ROOT / "scripts" / "results")[0]["figures"]
    assert not [f"{name}: {value}" for name, value in figures.items() if "not read" in name]
    assert figures["x real time without the model"]
    assert figures["x real time, end to end"]
    assert figures["share of the matrix product rate, forward only"]
    assert figures["operators in a batch, counted without the device"]


@pytest.mark.slow
def test_real_steps_leave_their_figures(tmp_path: Path) -> None:
    given = ["--device", "cpu", "--quick", "--only", "install", "kernels", "fused", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(CHECK), *given],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(step["name"], step["result"]) for step in summary["steps"]] == [
        ("install", "done"), ("kernels", "done"), ("fused", "done"),
    ]  # fmt: skip
    figures = summary["figures"]
    assert figures["device"]
    assert "torch 2.11" in figures["packages"]
    assert figures["x real time, batches through the engine"] > 0
    assert figures["launches in a batch"] > 100
    assert any("aten::addmm" in line for line in figures["largest kernels"])
    assert 0 < figures["largest difference of a logit, kernels that are off"] < 1e-4
    assert not any("not read" in name for name in figures)
    text = (tmp_path / "summary.txt").read_text()
    assert all(name in text for name in figures)
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        names = archive.getnames()
    assert {"results/machine.json", "results/kernels-cpu.json", "results/kernels-cpu.md"} <= set(names)


@pytest.mark.usefixtures("modules")
def test_only_wheels_of_missing_or_other_packages_for_this_python_are_unpacked(tmp_path: Path) -> None:
    from wheels import fits, unpack

    def wheel(name: str, *files: str) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in files:
                archive.writestr(file, "")
        return tmp_path / name

    absent = wheel("absent_one-1-py3-none-any.whl", "absent_one/__init__.py", "absent_one-1.dist-info/METADATA")
    present = wheel(f"pytest-{pytest.__version__}-py3-none-any.whl", "pytest/__init__.py")
    other = wheel("rich-1-py3-none-any.whl", "rich/__init__.py")
    target = tmp_path / "target"
    assert unpack(absent, target) == "unpacked, with absent_one"
    assert unpack(present, target) == "is there already"
    assert sorted(path.name for path in target.iterdir()) == ["absent_one", "absent_one-1.dist-info"]
    assert unpack(other, target) == "unpacked, with rich"
    names = {
        "a-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl": True,
        "a-1-cp311-cp311-manylinux_2_17_x86_64.whl": False,
        "a-1-cp39-abi3-manylinux_2_17_x86_64.whl": True,
        "a-1-cp313-abi3-manylinux_2_17_x86_64.whl": False,
        "a-1-py2.py3-none-any.whl": True,
        "a-1-py2.py3-none-manylinux_2_28_x86_64.whl": True,
        "a-1-py3-none-macosx_11_0_arm64.whl": False,
    }
    assert {name: fits(name, (3, 12), "x86_64") for name in names} == names
