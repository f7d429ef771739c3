"""Help page, error messages and exit codes of a command that takes no settings."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from running import environment

from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError

PAGE = "usage: greet NAME"


def greet(arguments: Sequence[str]) -> int:
    parser = Parser("greet NAME")
    parser.add_argument("name")
    print(f"hello {parser.parse_args(arguments).name}")
    return 3


def failing_with(error: BaseException) -> int:
    def fail(arguments: Sequence[str]) -> int:
        raise error

    return command(["x"], PAGE, fail, "no greeting")


def test_the_exit_code_is_that_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["you"], PAGE, greet, "no greeting") == 3
    assert capsys.readouterr() == ("hello you\n", "")


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["you", "--help"]])
def test_help_prints_the_page_and_does_nothing_else(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments, PAGE, greet, "no greeting") == 0
    assert capsys.readouterr() == (f"{PAGE}\n", "")


def test_after_two_dashes_help_is_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--", "-h"], PAGE, greet, "no greeting") == 3
    assert capsys.readouterr() == ("hello -h\n", "")


def test_a_mistake_is_one_line_that_ends_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert command([], PAGE, greet, "no greeting") == 2
    said = "error: the following arguments are required: name; usage: greet NAME\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("name=\x1b[1mx: not allowed"), 2, "error: name=\\x1b[1mx: not allowed"),
        (OSError(28, "No space left on device", "a\nb"), 1, "error: a\\nb: No space left on device; no greeting"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device; no greeting"),
        (OSError("cannot be read"), 1, "error: cannot be read; no greeting"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT; no greeting"),
    ],
)
def test_what_ends_the_work_is_one_line_on_stderr(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing_with(error) == code
    assert capsys.readouterr() == ("", f"{said}\n")


COMMANDS = (
    *("compare", "duplicates", "export", "import", "lm", "models", "plot", "report", "run", "sample", "status"),
    *("tune", "verify"),
)


def test_a_stop_while_a_command_is_imported_is_one_line(tmp_path: Path) -> None:
    """A module in the working directory, which all commands import, waits in the place of Python's."""
    (tmp_path / "logging.py").write_text("import time\nprint(flush=True)\ntime.sleep(60)\n")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, "env": environment()}
    found = {name: subprocess.Popen([sys.executable, "-m", f"pipeline.{name}"], **pipes) for name in COMMANDS}  # type: ignore[call-overload]
    for process in found.values():
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
    for name, process in found.items():
        said = process.communicate(timeout=60)[1]
        assert (process.returncode, said) == (130, "stopped by SIGINT before anything was begun\n"), name


def test_garbage_is_not_searched_while_torch_is_imported_for_the_first_time() -> None:
    """Torch itself is not imported, so that this takes no seconds."""
    program = """
import gc, sys
from pipeline.runtime.starting import importing_torch

def seen():
    with importing_torch():
        found = gc.isenabled()
    return found, gc.isenabled(), gc.get_freeze_count() > 0

print(*seen())
gc.unfreeze()
gc.disable()
print(*seen())
gc.enable()
sys.modules["torch"] = sys
print(*seen())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (ended.stdout, ended.stderr) == ("False True True\nFalse False False\nTrue True False\n", "")


def test_memory_that_runs_out_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (MemoryError(), ImportError("libtorch_cpu.so: failed to map segment from shared object")):
        assert failing_with(error) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: memory has run out (")
        assert said.count("\n") == 1


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        failing_with(KeyError("x"))


def test_a_torch_that_torchaudio_cannot_be_loaded_with_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing_with(OSError("Could not load this library: /lib/torchaudio/lib/_torchaudio.abi3.so")) == 2
    assert re.fullmatch(
        r"error: torchaudio [\d.]+ and torch \S+: do not fit each other, so torchaudio cannot be loaded; install a "
        r"torch that is built for CUDA, also for a machine without a GPU: pip install \S+ constraints.txt torch "
        r"torchaudio\n",
        capsys.readouterr().err,
    )


LEAVING = """
import atexit, sys, threading, time
from pipeline.runtime.command import leave
class Kept:
    def __del__(self): print("taken apart")
kept = Kept()
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
print("said", file=sys.stderr)
leave(3)
"""


def test_a_process_that_leaves_waits_for_its_threads_does_what_is_registered_and_takes_nothing_apart() -> None:
    given = {"capture_output": True, "text": True, "timeout": 60, "env": environment()}
    left = subprocess.run([sys.executable, "-c", LEAVING], **given)
    assert (left.returncode, left.stdout, left.stderr) == (3, "thread\nregistered\n", "said\n")


def test_a_process_whose_reader_has_gone_leaves_with_its_exit_code() -> None:
    process = subprocess.Popen([sys.executable, "-c", LEAVING], stdout=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 3
