"""A warm process is for its program, and for whoever started it, what a new interpreter would be."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, environment, group_members, server, wait_until

pytestmark = pytest.mark.usefixtures("default_signals")

PROGRAM = """
import json, os, signal, sys
sys.stderr.write("said")
print(json.dumps({
    "main": __name__, "arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ),
    "path": sys.path[0], "leads": os.getpid() == os.getsid(0),
    "pipeline": [name for name in sys.modules if name.partition(".")[0] == "pipeline"],
    "files": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)),
    "handlers": [str(signal.getsignal(signum)) for signum in (1, 2, 13, 15, 17)],
    "wakeup": signal.set_wakeup_fd(-1), "open": len(os.listdir("/proc/self/fd")),
}))
sys.exit(7)
"""
"""What a program can see of the process it is in."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def seen(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert (done.returncode, done.stderr) == (7, "said")
    found = json.loads(done.stdout)
    # Where its output goes: pipes here, files there.
    return found | {"files": [name for name in found["files"] if name == "/dev/null"]}


@pytest.mark.parametrize("as_module", [True, False], ids=["module", "script"])
def test_a_program_sees_what_it_would_see_in_an_interpreter_of_its_own(as_module: bool, program: Path) -> None:
    cwd, env = program.parent, environment(MARK="here")
    name = ["-m", "program"] if as_module else [str(program)]
    own = subprocess.run(
        [sys.executable, *name, "a", "b=c d"],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    warm = server().run(name[-1], ["a", "b=c d"], cwd=cwd, env=env, timeout=60)
    expected, found = seen(own), seen(warm)
    assert expected.pop("pipeline") == []
    assert not [name for name in found.pop("pipeline") if name in ("pipeline.run", "pipeline.status")]
    assert found == expected


def test_it_runs_as_many_programs_at_a_time_as_are_started_and_each_has_its_own_output(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import sys, time\nprint(sys.argv[1], flush=True)\ntime.sleep(60)\n")
    script, env = str(tmp_path / "waits.py"), environment()
    started = [server().start(script, [name], cwd=tmp_path, env=env, new_session=True) for name in "ab"]
    assert all(group_members(process.pid) == [process.pid] for process in started)
    assert [process.poll() for process in started] == [None, None]
    with pytest.raises(subprocess.TimeoutExpired):
        started[0].wait(0.1)
    for process, signum in zip(started, (signal.SIGKILL, signal.SIGTERM), strict=True):
        os.kill(process.pid, signum)
    assert [process.wait(60) for process in started] == [-signal.SIGKILL, -signal.SIGTERM]
    assert wait_until(lambda: not any(group_members(process.pid) for process in started), 10)


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    with pytest.raises(subprocess.TimeoutExpired):
        server().run(str(tmp_path / "waits.py"), [], cwd=tmp_path, env=environment(), timeout=2)
    pid = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)


def test_an_exception_is_shown_and_is_code_1(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("1 / 0\n")
    done = server().run(str(tmp_path / "fails.py"), [], cwd=tmp_path, env=environment(), timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ZeroDivisionError: division by zero")


ENDS = """
import atexit, sys, threading, time
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
print("main", end=" ")
sys.exit({"0": 0, "None": None, "300": 300, "-1": -1, "text": "text"}[sys.argv[1]])
"""


@pytest.mark.parametrize("code", ["0", "None", "300", "-1", "text"])
def test_a_program_ends_as_in_an_interpreter_of_its_own(code: str, tmp_path: Path) -> None:
    """Threads are waited for, what is registered for the end runs, what is printed arrives, the exit code is told."""
    script = tmp_path / "ends.py"
    script.write_text(ENDS)
    own = subprocess.run([sys.executable, str(script), code], capture_output=True, text=True)
    warm = server().run(str(script), [code], cwd=tmp_path, env=environment(), timeout=60)
    assert own.stdout == "main thread\nregistered\n"
    assert (warm.returncode, warm.stdout, warm.stderr) == (own.returncode, own.stdout, own.stderr)


STATE = """
import os
from pipeline.runtime import failpoints, signals
from pipeline.runtime.signals import deferring_stop
assert (signals._stop.signum, signals._stop.deferrals, signals._stop.allowed) == (None, 0, False)
os.environ["PIPELINE_FAILPOINT"] = "staged"
failpoints.failpoint("staged")
"""


def test_what_the_pipeline_keeps_is_as_when_it_has_just_been_imported(tmp_path: Path) -> None:
    (tmp_path / "state.py").write_text(STATE)
    for _ in range(2):
        done = server().run(str(tmp_path / "state.py"), [], cwd=tmp_path, env=environment(), timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_no_module_of_the_pipeline_looks_at_the_environment_while_it_is_imported() -> None:
    """So that a warm process, which has imported them already, is like one that has not."""
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in outside_functions(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("os.environ", "os.getenv", "os.getcwd", "sys.argv", "Path.cwd"), path


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        of_main = isinstance(child, ast.If) and "__main__" in ast.unparse(child.test)
        if not isinstance(child, ast.FunctionDef | ast.Lambda) and not of_main:
            yield child
            yield from outside_functions(child)


def test_what_is_read_when_an_interpreter_starts_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="OMP_NUM_THREADS"):
        server().start("pipeline.run", [], cwd=ROOT, env=environment(OMP_NUM_THREADS="2"))
