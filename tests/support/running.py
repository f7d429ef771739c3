"""How the tests run the pipeline, as a process of its own or in this one, and look at what it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import warm

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
SHIPPED = ROOT / "pipeline" / "shipped"
TABLES = ("transcripts", "emissions", "features", "failures")
SHORT_DIGITS = ("dataset=manifest", f"dataset.path={DATA / 'short_digits.csv'}")
"""The 24 shipped recordings of one or two digits, 22 s in all. A run takes half the time of one of `dataset=digits`."""
SHORT = (*SHORT_DIGITS, "model=digits")


NO_REPORT = "stages=[manifest,infer,score]"
"""For runs whose report nobody looks at: making one takes longer than what the tests ask of them."""


def overridden(overrides: Sequence[str]) -> list[str]:
    """What a run is given: without a report, unless it says the stages, or is not a run but a question.

    A report that is asked for shows one utterance of each kind in place of four, unless the run says how many.
    """
    said = any(override.startswith(("stages=", "-")) for override in overrides)
    given = [*overrides] if said else [*overrides, NO_REPORT]
    reports = any(override.startswith("stages=") and "report" in override for override in given)
    short = reports and not any(override.startswith("report.utterances=") for override in given)
    return [*given, "report.utterances=1"] if short else given


def command(*overrides: str) -> list[str]:
    """A run in an interpreter of its own."""
    return [sys.executable, "-m", "pipeline.run", *overridden(overrides)]


def environment(**variables: str) -> dict[str, str]:
    """This environment with the checkout importable from any working directory, and no VOiCES corpus."""
    env = {key: value for key, value in os.environ.items() if key != "VOICES_ROOT"}
    # One thread: the shipped model is small, and the tests may share their cores.
    return env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables


@cache
def server() -> warm.Server:
    """Where this process starts its runs."""
    return warm.Server(environment())


def execute(*overrides: str, cwd: Path, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run as a person starts it: an interpreter of its own, and every stage."""
    asked = [sys.executable, "-m", "pipeline.run", *overrides]
    return subprocess.run(asked, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=timeout)


def run(*overrides: str, cwd: Path, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run as a process of its own, to its end."""
    env = environment(**variables)
    return server().run("pipeline.run", overridden(overrides), cwd=cwd, env=env, timeout=timeout)


def peak_mib(corpus: Path, run_dir: Path, *overrides: str) -> float:
    """Peak resident memory in MiB of a run of every layer over a folder, in an interpreter of its own."""
    given = ["dataset=folder", f"dataset.root={corpus}", "model=digits", "features.layers=all", f"run_dir={run_dir}"]
    process = subprocess.Popen(
        command(*given, *overrides), cwd=corpus.parent, env=environment(), stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert_accounting(run_dir, layers=4)
    return usage.ru_maxrss / 1024


OWN_MOUNTS = """
import ctypes, os, subprocess
user, group = os.getuid(), os.getgid()
if ctypes.CDLL(None).unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER, CLONE_NEWNS
    os._exit(77)
for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(line)
"""
"""Lets a process mount what it alone sees; it ends with 77 where that is not allowed."""

PREPARED = "{}\nimport runpy\nrunpy.run_module('pipeline.run', run_name='__main__', alter_sys=True)\n"


def run_prepared(
    before: str, *overrides: str, cwd: Path, timeout: float = 240, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A run in a process that first executes `before`: limits, privileges, mounts, other files for what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "prepared.py")
        script.write_text(PREPARED.format(before))
        env = environment(**variables)
        return server().run(str(script), overridden(overrides), cwd=cwd, env=env, timeout=timeout)


def start_prepared(before: str, script: Path, *overrides: str, cwd: Path, **variables: str) -> warm.Process:
    """Start such a process as the leader of a session of its own. `script` is where its program is written."""
    script.write_text(PREPARED.format(before))
    env = environment(**variables)
    return server().start(str(script), overridden(overrides), cwd=cwd, env=env, new_session=True)


def main(arguments: Sequence[str]) -> int:
    """A run in this process."""
    from pipeline.run import main

    return main(overridden(arguments))


def start(*overrides: str, cwd: Path, **variables: str) -> warm.Process:
    """Start a run as the leader of a process group of its own."""
    return server().start(
        "pipeline.run", overridden(overrides), cwd=cwd, env=environment(**variables), new_session=True
    )


def start_workers_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers of runs in this process begin warm. They end with the server, and it ends with this process."""
    from pipeline.executors.processes import pool, worker

    def start_worker(
        args: list[str], *, env: dict[str, str], pass_fds: Sequence[int], stdout: IO[bytes], **given: Any
    ) -> warm.Process | subprocess.Popen[bytes]:
        if worker.__name__ not in args:
            return subprocess.Popen(args, env=env, pass_fds=pass_fds, stdout=stdout, **given)
        _, *arguments = args[args.index(worker.__name__) + 1 :]
        process = server().start(
            worker.__name__, [str(server().pid), *arguments], cwd=Path.cwd(),
            env={**env, "PYTHONPATH": server().env["PYTHONPATH"]}, files=pass_fds, printing=[stdout.fileno()] * 2,
        )  # fmt: skip
        process.args = args
        return process

    monkeypatch.setattr(pool, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": start_worker}))


def wait_until(condition: Callable[[], bool], timeout: float = 120) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def group_members(pgid: int) -> list[int]:
    """Processes of a group that are not zombies."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == pgid and state != "Z":
                members.append(int(entry.name))
    return members


def children_of(parent: int) -> set[int]:
    """Processes that a process has started and not yet waited for, zombies among them."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.add(int(entry.name))
    return found


def kill_group(process: warm.Process | subprocess.Popen[bytes], signum: int = signal.SIGKILL) -> None:
    os.killpg(process.pid, signum)
    process.wait(60)


def read(run_dir: Path, table: str) -> pa.Table:
    """A table over all shards, sorted."""
    found = pq.read_table(run_dir / table)
    keys = [name for name in ("layer", "id", "part") if name in found.column_names]
    return found.sort_by([(key, "ascending") for key in keys])


def ids(run_dir: Path, table: str) -> list[str]:
    result: list[str] = read(run_dir, table)["id"].to_pylist()
    return result


def assert_accounting(run_dir: Path, outputs: Sequence[str] = TABLES[:3], layers: int = 1) -> None:
    """Every id of the manifest is in all requested tables or in failures, never both, never neither."""
    manifest = pq.read_table(run_dir / "manifest.parquet")["id"].to_pylist()
    assert len(set(manifest)) == len(manifest)
    failed = Counter(ids(run_dir, "failures"))
    for table in outputs:
        rows = layers if table == "features" else 1
        found = Counter(ids(run_dir, table))
        assert set(found.values()) <= {rows}
        assert Counter(found.keys()) + failed == Counter(manifest)


def assert_same_tables(left: Path, right: Path) -> None:
    """Every table of two runs is equal, bit for bit."""
    for table in TABLES:
        assert (left / table).is_dir() == (right / table).is_dir()
        if (left / table).is_dir():
            assert read(left, table).equals(read(right, table)), table


def mtimes(run_dir: Path) -> dict[str, int]:
    """Modification time of every committed file, in nanoseconds."""
    return {
        path.relative_to(run_dir).as_posix(): path.stat().st_mtime_ns
        for table in (*TABLES, "commits")
        for path in (run_dir / table).glob("shard-*")
    }


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command says."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


def listed(rows: list[dict[str, object]]) -> list[str]:
    """Arguments of a run over a list, which is written."""
    Path("list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["dataset=manifest", "dataset.path=list.jsonl", "model=digits", "outputs=[transcripts]", "run_dir=out"]
