"""Stopped once a run ends cleanly, stopped twice at once; no process is left, what is committed stays."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running import (
    DATA,
    assert_accounting,
    children_of,
    environment,
    group_members,
    main,
    run,
    server,
    start,
    start_prepared,
    wait_until,
)

from pipeline.models.engine import Engine
from pipeline.runtime import signals as stopping
from pipeline.runtime.signals import Stopped

# Each recording is a shard of its own.
GIVEN = ("dataset=folder", "dataset.root=corpus", "model=digits", "shard.hours=0.0001", "outputs=[transcripts]")
pytestmark = pytest.mark.usefixtures("default_signals")

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
CONTINUES = "what was committed stays, the same command continues"
STOPPED = re.compile(
    r"stopped by (\w+); what was committed stays \((\d+) of \d+ shards\), the same command continues"
    r"( and computes [\d.]+ s of audio again)?"
)


def state(process: int) -> str:
    """Its letter in the system's list of processes; none for one that has ended, as those do that read headers."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.fixture(autouse=True)
def _corpus(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for source in sorted((DATA / "fsdd").glob("*.wav"))[:16]:
        (tmp_path / "corpus" / source.name).symlink_to(source)


class Driver:
    """A run as the leader of a process group of its own, which can be signalled."""

    def __init__(self, out: Path, *overrides: str, failpoint: str = "", given: tuple[str, ...] = GIVEN) -> None:
        self.out = out
        self.process = start(*given, f"run_dir={out}", *overrides, cwd=out.parent, PIPELINE_FAILPOINT=failpoint)

    @property
    def commits(self) -> int:
        return len(list((self.out / "commits").glob("shard-*.json")))

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in (self.out / ".staging").iterdir())

    def send(self, signum: int, to_group: bool = True) -> None:
        (os.killpg if to_group else os.kill)(self.process.pid, signum)

    def wait_for_stop(self) -> None:
        """Until it has stopped itself (SIGSTOP) at its failpoint."""
        assert wait_until(lambda: state(self.process.pid) == "T")

    def end(self, timeout: float = 60) -> tuple[int, list[str]]:
        """Exit code and lines of stderr, when no process is left."""
        _, said = self.process.communicate(timeout=timeout)
        assert wait_until(lambda: not group_members(self.process.pid), 30), "processes were left behind"
        return self.process.returncode, said.strip().splitlines()


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    """Whatever a test starts is gone after it."""
    started: list[Driver] = []
    yield started
    for driver in started:
        if group_members(driver.process.pid):
            driver.send(signal.SIGKILL)
        driver.process.communicate()


@pytest.mark.parametrize(
    ("signum", "to_group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGHUP, True)],
    ids=["INT to the group", "INT", "TERM", "HUP to the group"],
)
def test_stopped_once_it_finishes_the_batches_in_flight_and_says_how_to_go_on(
    signum: signal.Signals, to_group: bool, tmp_path: Path, drivers: list[Driver]
) -> None:
    driver = Driver(tmp_path / "out", failpoint="forward@5=stop")
    drivers.append(driver)
    driver.wait_for_stop()
    driver.send(signum, to_group)
    driver.send(signal.SIGCONT)
    code, said = driver.end()
    assert code == CODES[signum]
    found = STOPPED.fullmatch(said[-1])
    assert found is not None
    assert (found[1], int(found[2]), found[3]) == (signum.name, driver.commits, None)  # each shard is one batch
    computed = (driver.out / "logs" / "metrics.jsonl").read_text().splitlines()
    assert 1 <= driver.commits == len(computed) <= 5
    assert driver.left == ["lock"]
    assert f"stopped by {signum.name}" in (driver.out / "logs" / "run.log").read_text()
    if signum == signal.SIGINT:
        assert run(*GIVEN, f"run_dir={driver.out}", cwd=tmp_path).returncode == 0
        assert_accounting(driver.out, outputs=["transcripts"])


@pytest.mark.parametrize(
    ("signum", "busy"),
    [(signal.SIGINT, "renaming:3"), (signal.SIGTERM, "take:3")],
    ids=["INT while committing", "TERM while the writer works"],
)
def test_stopped_twice_it_ends_at_once(
    signum: signal.Signals, busy: str, tmp_path: Path, drivers: list[Driver]
) -> None:
    driver = Driver(tmp_path / "out", failpoint=f"{busy}=hang")
    drivers.append(driver)
    assert wait_until(lambda: driver.commits == 3)
    driver.send(signum)
    with pytest.raises(subprocess.TimeoutExpired):
        driver.process.wait(1.5)  # it waits for the commit that hangs
    driver.send(signum)
    code, said = driver.end(20)
    assert code == CODES[signum]
    assert said[-1] == f"ended at once; {CONTINUES}"
    assert driver.commits == 3
    assert run(*GIVEN, f"run_dir={driver.out}", cwd=tmp_path).returncode == 0
    assert_accounting(driver.out, outputs=["transcripts"])
    assert driver.left == ["lock"]


def test_stopped_while_a_recording_is_read_it_does_not_wait_for_that(tmp_path: Path, drivers: list[Driver]) -> None:
    driver = Driver(tmp_path / "out", "loader.workers=1", failpoint="decode@9=hang")
    drivers.append(driver)
    assert wait_until(lambda: driver.commits >= 3)
    driver.send(signal.SIGINT)
    code, said = driver.end()
    assert code == 130
    assert STOPPED.fullmatch(said[-1])


def test_the_processes_that_load_die_with_a_driver_that_is_killed_even_where_they_hang(
    tmp_path: Path, drivers: list[Driver]
) -> None:
    driver = Driver(tmp_path / "out", "loader.workers=1", failpoint="decode@9=hang")
    drivers.append(driver)
    assert wait_until(lambda: driver.commits >= 3)
    assert len(group_members(driver.process.pid)) > 1
    driver.send(signal.SIGKILL, to_group=False)
    code, _ = driver.end()
    assert code == -signal.SIGKILL


def test_a_run_with_several_processes_stops_as_a_whole_and_ends_as_a_whole(
    tmp_path: Path, drivers: list[Driver]
) -> None:
    given = (*GIVEN, "executor.workers=2", "loader.workers=0")

    def start_until_all_stand_still() -> Driver:
        drivers.append(Driver(tmp_path / "out", failpoint="forward@3=stop", given=given))
        pid = drivers[-1].process.pid
        assert wait_until(lambda: [state(child) for child in children_of(pid)] == ["T", "T"])
        return drivers[-1]

    driver = start_until_all_stand_still()
    driver.send(signal.SIGTERM)  # the processes ignore it: the driver stops them
    time.sleep(0.2)  # it has told them to stop before they go on
    driver.send(signal.SIGCONT)
    code, said = driver.end()
    assert code == 143
    found = STOPPED.fullmatch(said[-1])
    assert found is not None
    assert (found[1], int(found[2]), found[3]) == ("SIGTERM", driver.commits, None)
    assert 1 <= driver.commits == len((driver.out / "logs" / "metrics.jsonl").read_text().splitlines()) < 16
    assert driver.left == ["lock"]

    driver = start_until_all_stand_still()
    driver.send(signal.SIGKILL, to_group=False)
    assert driver.end(20)[0] == -signal.SIGKILL
    assert run(*GIVEN, f"run_dir={driver.out}", cwd=tmp_path).returncode == 0
    assert_accounting(driver.out, outputs=["transcripts"])
    assert driver.left == ["lock"]


def test_stopped_while_the_manifest_is_made_it_leaves_nothing_behind(tmp_path: Path, drivers: list[Driver]) -> None:
    sources = sorted((DATA / "fsdd").glob("*.wav"))
    for index in range(20_000):
        link = tmp_path / "many" / f"{index % 100}" / f"{index}.wav"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sources[index % len(sources)])
    given = ("dataset=folder", f"dataset.root={tmp_path / 'many'}", "model=digits")
    driver = Driver(tmp_path / "out", given=given)
    drivers.append(driver)
    assert wait_until(lambda: (driver.out / "logs" / "run.log").is_file())
    driver.send(signal.SIGINT)
    code, said = driver.end()
    nothing = "nothing is committed yet, the same command starts from the beginning"
    assert (code, said) == (130, [f"stopped by SIGINT; {nothing}"])
    assert not driver.out.exists()


# The first terminal that the leader of a session opens is the session's own.
AT_A_TERMINAL = """
import os, sys
terminal = os.open("{}", os.O_RDWR)
for each in (0, 1, 2):
    os.dup2(terminal, each)
os.close(terminal)
sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
"""


def test_a_terminal_that_closes_ends_the_run_cleanly(tmp_path: Path) -> None:
    out = tmp_path / "out"
    terminal, its = pty.openpty()
    process = start_prepared(
        AT_A_TERMINAL.format(os.ttyname(its)), tmp_path / "prepared.py", *GIVEN, f"run_dir={out}", cwd=tmp_path,
        PIPELINE_FAILPOINT="forward@5=stop",
    )  # fmt: skip

    def stands_still() -> bool:
        if select.select([terminal], [], [], 0)[0]:
            os.read(terminal, 4096)  # as a terminal does: else it would have to wait for that
        return state(process.pid) == "T"

    try:
        assert wait_until(stands_still)
        os.close(its)
        os.close(terminal)  # the kernel says SIGHUP, and SIGCONT to whoever stands still
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(60) == 129
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert STOPPED.search((out / "logs" / "run.log").read_text())
    assert [path.name for path in (out / ".staging").iterdir()] == ["lock"]


# --- in this process


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which the process would have ended at once."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_a_stop_that_is_sent_twice_within_a_moment_is_one_stop(
    ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def stop_again_and_again() -> None:
        with stopping.handling_signals(), stopping.deferring_stop():
            send(signal.SIGTERM)
            send(signal.SIGTERM)  # `timeout` does that, and a shell that says goodbye
            assert ended == []
            now[0] += 1
            send(signal.SIGTERM)

    with pytest.raises(Stopped):
        stop_again_and_again()
    assert ended == [143]


def test_a_stop_comes_at_once_where_it_waits_and_at_the_end_where_it_must_not_be_broken(ended: list[int]) -> None:
    seen: list[str] = []

    def stop_while_waiting() -> None:
        with stopping.handling_signals(), stopping.deferring_stop():
            with stopping.allowing_stop():
                send(signal.SIGINT)
                seen.append("waited on")
            seen.append("went on")

    def stop_while_busy() -> None:
        with stopping.handling_signals(), stopping.deferring_stop():
            send(signal.SIGINT)
            seen.append("finished")
            with stopping.allowing_stop():
                seen.append("waited")

    def stop_elsewhere() -> None:
        with stopping.handling_signals():
            send(signal.SIGINT)
            seen.append("went on")

    for stop in (stop_while_waiting, stop_while_busy, stop_elsewhere):
        with pytest.raises(Stopped):
            stop()
    assert seen == ["finished"]
    assert ended == []


def test_a_stop_that_got_lost_comes_again_at_the_next_wait() -> None:
    waited: list[bool] = []

    def lose_and_wait() -> None:
        with stopping.handling_signals(), stopping.deferring_stop():
            with suppress(Stopped), stopping.allowing_stop():  # as an exception in a finalizer is
                send(signal.SIGINT)
            with stopping.allowing_stop():
                waited.append(True)

    with pytest.raises(Stopped):
        lose_and_wait()
    assert waited == []


def test_what_was_ignored_from_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.handling_signals():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_batches_that_cores_have_begun_are_finished_and_others_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start, compute = Engine.start, Engine._start
    started: list[Any] = []
    together = threading.Barrier(3, timeout=60)  # two cores that have begun, and the main thread

    def start_and_stop(engine: Engine, *batch: Any) -> Any:
        started.append(start(engine, *batch))
        if len(started) == 5:
            together.wait()
            send(signal.SIGINT)
        return started[-1]

    def compute_two(engine: Engine, *batch: Any) -> Any:
        together.wait()
        return compute(engine, *batch)

    monkeypatch.setattr(Engine, "start", start_and_stop)
    monkeypatch.setattr(Engine, "_start", compute_two)
    assert main([*GIVEN, "run_dir=out", "loader.workers=0", "threads=2"]) == 130
    assert [each.cancelled() for each in started] == [False, False, True, True, True]
    assert len(list((tmp_path / "out" / "commits").iterdir())) == 2


def test_a_second_driver_is_refused_while_the_first_stands_still_and_the_first_completes(
    tmp_path: Path, drivers: list[Driver]
) -> None:
    driver = Driver(tmp_path / "out", failpoint="renaming:3=stop")
    drivers.append(driver)
    driver.wait_for_stop()
    second = run(*GIVEN, f"run_dir={driver.out}", cwd=tmp_path)
    assert second.returncode == 2
    (line,) = second.stderr.strip().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    assert re.search(rf"locked by process {driver.process.pid} on \S+ since {stamp}; ", line)
    assert driver.commits == 3
    status = server().run("pipeline.status", [str(driver.out)], cwd=tmp_path, env=environment(), timeout=60)
    assert (status.returncode, "running" in status.stdout) == (0, True)
    driver.send(signal.SIGCONT)
    assert driver.end()[0] == 0
    assert_accounting(driver.out, outputs=["transcripts"])


def test_a_driver_that_is_killed_while_it_stands_still_frees_the_run_at_once(
    tmp_path: Path, drivers: list[Driver]
) -> None:
    driver = Driver(tmp_path / "out", failpoint="renaming:3=stop")
    drivers.append(driver)
    driver.wait_for_stop()
    driver.send(signal.SIGKILL, to_group=False)
    driver.process.wait()
    assert (driver.out / ".staging" / "lock").read_text().startswith(f"process {driver.process.pid} ")
    assert run(*GIVEN, f"run_dir={driver.out}", cwd=tmp_path).returncode == 0
    assert driver.end()[0] == -signal.SIGKILL
    assert_accounting(driver.out, outputs=["transcripts"])
