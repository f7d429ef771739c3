"""Runs of this project as users start them, and rivals as processes that keep their model, timed in the same way.

The time of a run goes from the first batch that is requested to the last commit record. The time of a rival goes from
the first recording that is opened to the last table that is written. Neither time includes the start: interpreter,
imports, weights and, for this project, the manifest. The whole command is timed separately.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from common import environment


@dataclass(frozen=True)
class Timing:
    """One run of a contestant.

    Attributes:
        seconds: Without the start.
        whole_s: With it.
        audio_s: Seconds of audio.
        waiting: Share of `seconds` in which the model waited for the loader or the writer.
        closing_s: Seconds from the last batch to the last commit.
        padding: Seconds of audio that were padding, per second of audio.
        peak_mib: Peak resident memory of the largest process.
        bytes: Of the tables.
    """

    seconds: float
    whole_s: float
    audio_s: float
    waiting: float | None = None
    closing_s: float | None = None
    padding: float | None = None
    peak_mib: float | None = None
    bytes: int | None = None


def pipeline(
    corpus: Path,
    run_dir: Path,
    model: str,
    device: str,
    threads: int,
    overrides: Sequence[str] = (),
    program: Sequence[str] = ("-m", "pipeline.run"),
) -> Timing:
    """Run the main job over a folder, in a process of its own, without a report; the run directory is made anew."""
    shutil.rmtree(run_dir, ignore_errors=True)
    chosen = [f"dataset.root={corpus}", f"run_dir={run_dir}", f"model={model}", f"device={device}"]
    chosen += ["executor.workers=1"]  # the rivals use one GPU too
    chosen += ["stages=[manifest,infer,score]", f"threads={threads}", *overrides]
    whole_s, peak_mib = command([*program, "dataset=folder", *chosen], threads)
    lines = [json.loads(line) for line in (run_dir / "logs" / "metrics.jsonl").read_text().splitlines()]
    ends = [datetime.fromisoformat(line["time"]).timestamp() for line in lines]
    # On a CPU the seconds of a batch on a core are counted as a share of all cores; before the first, all are idle.
    cores = threads if device == "cpu" else 1
    began = ends[0] - lines[0]["write_s"] - lines[0]["idle_s"] - cores * lines[0]["forward_s"]
    committed = max(path.stat().st_mtime for path in (run_dir / "commits").iterdir())
    waited = sum(line["idle_s"] for line in lines)
    valid_s, padded_s = (sum(line[key] for line in lines) for key in ("valid_s", "padded_s"))
    return Timing(
        seconds=committed - began,
        whole_s=whole_s,
        audio_s=valid_s,
        waiting=waited / (committed - began),
        closing_s=committed - ends[-1],
        padding=padded_s / valid_s - 1,
        peak_mib=peak_mib,
        bytes=sum(path.stat().st_size for path in run_dir.glob("*/shard-*.parquet")),
    )


def command(arguments: Sequence[str], threads: int) -> tuple[float, float]:
    """Run Python; wall-clock seconds and peak memory in MiB (of the process or its largest child)."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment(threads), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    complaints = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(arguments)}: {complaints.decode(errors='replace')[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


class Rival:
    """A process of `rivals.py` that has loaded its model and waits for work.

    It is started once and runs every round, warm from the second on; a run of this project starts anew each time.

    Attributes:
        start_s: Seconds until it was ready for work.
        end_s: Seconds that such a process takes to end. Before the work they are known only of another process.
    """

    def __init__(self, kind: str, model: str, device: str, threads: int, precision: str = "fp32") -> None:
        """Start it; `wait` until its model is there."""
        script = str(Path(__file__).with_name("rivals.py"))
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, script, kind, model, device, str(threads), precision],
            env=environment(threads) | {"TRANSFORMERS_VERBOSITY": "error"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start_s = self.end_s = 0.0

    def wait(self) -> None:
        """Wait until it is ready for work, if it is not."""
        if not self.start_s:
            self._answer()
            self.start_s = time.perf_counter() - self._started

    def __enter__(self) -> Rival:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if error is not None:
            self._process.kill()
        began = time.perf_counter()
        self._process.wait(60)
        self.end_s = time.perf_counter() - began

    def run(self, corpus: Path, out: Path, audio_s: float, **work: Any) -> Timing | str:
        """Time one piece of work, `audio_s` seconds of audio; where it did not get through, why, in words."""
        shutil.rmtree(out, ignore_errors=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"corpus": str(corpus), "out": str(out), **work}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            return str(answer["error"])
        size = sum(path.stat().st_size for path in out.rglob("*.parquet"))
        seconds = answer["seconds"]
        return Timing(seconds, self.start_s + seconds + self.end_s, audio_s, bytes=size)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a rival ended with {self._process.wait()}; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer
