"""Runs commands one after another, each in a process of its own and within a time limit, and keeps what they leave.

A step that fails, hangs or is killed never stops the steps after it. After every step the results are written again, so
that at any moment the output folder has all that was found so far: one archive and two summaries.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEAST_S = 8.0
"""A step that would have less time than this is left out."""
CLOSING_S = 4.0
"""Kept free at the end, to stop the last step and to write the results."""
GRACE_S = 2.0
"""From SIGTERM to SIGKILL."""
TAIL_LINES = 12


@dataclass(frozen=True)
class Step:
    """A command with a time limit.

    Attributes:
        name: Name of the step and of its output file.
        seconds: The time limit.
        command: Arguments for this Python.
    """

    name: str
    seconds: float
    command: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        name: Name of the step.
        result: `done`, `failed`, `out of time`, `left out` or `interrupted`.
        seconds: How long it ran.
        limit_s: How long it was allowed to run.
        shortened_from_s: How long it would have been allowed to run if the time for all steps had sufficed.
        code: Its exit code, if it ended by itself.
        tail: The last lines of its output.
    """

    name: str
    result: str
    seconds: float
    limit_s: float
    shortened_from_s: float | None
    code: int | None
    tail: list[str]


Summarise = Callable[[Sequence[Outcome], Path], tuple[dict[str, Any], str]]
"""Makes a summary for programs and one for people, from the outcomes so far and the folder of kept files."""


class Runner:
    """Runs steps and writes their results."""

    def __init__(
        self, out: Path, kept: Path, env: Mapping[str, str], cwd: Path, seconds: float, summarise: Summarise
    ) -> None:
        """Begin to count the time.

        Args:
            out: Folder for the archive and the summaries.
            kept: Folder with all files to keep. The output of the steps is written to it, and the steps write to it.
            env: Environment of the steps.
            cwd: Working directory of the steps.
            seconds: Time limit of all steps together.
            summarise: Makes the summaries.
        """
        self.outcomes: list[Outcome] = []
        self._out, self._kept, self._env, self._cwd = out, kept, env, cwd
        self._until = time.monotonic() + seconds
        self._summarise = summarise

    def run(self, steps: Iterable[Step]) -> None:
        """Run all steps. If this process is told to end, the results so far are written first."""
        for step in steps:
            limit = min(step.seconds, self._until - CLOSING_S - time.monotonic())
            try:
                self._run(step, limit)
            except OSError as error:  # a full disk, or too many processes
                print(f"{step.name}: {error}", flush=True)
            finally:
                self._write_what_is_there()

    def _write_what_is_there(self) -> None:
        try:
            self.write()
        except OSError as error:
            print(f"The results could not be written: {error}", flush=True)

    def _run(self, step: Step, limit: float) -> None:
        if limit < min(LEAST_S, step.seconds):
            self._ended(step, "left out", 0.0, max(0.0, limit))
            return
        started = time.monotonic()
        code, result, process = None, "interrupted", None
        try:
            print(f"== {step.name}: at most {limit:.0f} s", flush=True)
            process = self._start(step)
            code = process.wait(limit)
            result = "failed" if code else "done"
        except subprocess.TimeoutExpired:
            result = "out of time"
        finally:
            if process is not None:
                _end(process)
            self._ended(step, result, time.monotonic() - started, limit, code)

    def _start(self, step: Step) -> subprocess.Popen[bytes]:
        with self._log(step).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *step.command], cwd=self._cwd, env=self._env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _log(self, step: Step) -> Path:
        return self._kept / f"{step.name}.log"

    def _ended(self, step: Step, result: str, seconds: float, limit: float, code: int | None = None) -> None:
        log = self._log(step)
        said = log.read_text(errors="replace") if log.exists() else ""
        shortened, tail = step.seconds if limit < step.seconds else None, said.splitlines()[-TAIL_LINES:]
        outcome = Outcome(step.name, result, round(seconds, 1), round(limit, 1), shortened, code, tail)
        self.outcomes.append(outcome)
        print(f"== {step.name}: {result}, {seconds:.1f} s", flush=True)
        if result not in ("done", "left out"):
            print("\n".join(outcome.tail), flush=True)

    def write(self) -> None:
        """Write the archive and the summaries; each file is replaced as a whole."""
        steps = [asdict(outcome) for outcome in self.outcomes]
        try:
            facts, text = self._summarise(self.outcomes, self._kept)
        except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            facts, text = {}, f"The summary failed: {type(error).__name__}: {error}\n"
        content = json.dumps({**facts, "steps": steps}, indent=1) + "\n"
        self._replace("summary.json", lambda path: path.write_text(content))
        self._replace("summary.txt", lambda path: path.write_text(text))
        self._replace("results.tar.gz", self._pack)

    def _pack(self, path: Path) -> None:
        with tarfile.open(path, "w:gz", compresslevel=3) as archive:
            archive.add(self._kept, "results")

    def _replace(self, name: str, make: Callable[[Path], object]) -> None:
        made = self._out / f".{name}"
        make(made)
        os.replace(made, self._out / name)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started: at first politely, then with SIGKILL."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    # The group outlives its leader if the leader has left processes behind.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a process that waits for a device may not even end then
        process.wait(GRACE_S)
