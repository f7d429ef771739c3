"""An item that hangs or crashes its child, or eats its memory, is lost; all others have results, and no child remains.

Recordings that do so are tested too, in both stages that read recordings.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq
import pytest
import soundfile
from memory_eater import eat
from running import DATA, assert_accounting, children_of, environment, group_members, main, read, server, wait_until

from pipeline.audio import headers
from pipeline.audio import reader as audio
from pipeline.audio.reader import Recording, read_header
from pipeline.datasets import folder
from pipeline.inference import loader
from pipeline.records import AudioHeader
from pipeline.runtime import supervisor as supervision
from pipeline.runtime.memory import limit_growth
from pipeline.runtime.sandbox import Heartbeat
from pipeline.runtime.supervisor import Lost, Supervisor
from pipeline.stages.build_manifest import build as build_manifest

Alive = Callable[[], None]
pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    server()  # stays
    before = children_of(os.getpid())
    yield
    assert children_of(os.getpid()) == before


def outcomes(
    function: Callable[[int, Alive], int], count: int = 40, processes: int = 3, timeout_s: float = 30
) -> list[int | Lost]:
    with Supervisor(function, processes=processes, timeout_s=timeout_s) as supervisor:
        return list(supervisor.map(range(count)))


def squares_but(number: int, mischief: Callable[[], object]) -> Callable[[int, Alive], int]:
    def function(item: int, alive: Alive) -> int:
        if item == number:
            mischief()
        return item**2

    return function


def squares(count: int, **lost: str) -> list[int | Lost]:
    return [Lost(lost[f"n{item}"]) if f"n{item}" in lost else item**2 for item in range(count)]  # type: ignore[arg-type]


def crash() -> None:
    faulthandler.disable()  # pytest enables it; its output would fill the page
    ctypes.string_at(0)


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    assert outcomes(lambda item, alive: item**2, count) == squares(count)


def test_children_serve_one_sequence_after_another() -> None:
    with Supervisor(lambda item, alive: os.getpid(), processes=1, timeout_s=30) as supervisor:
        assert len({*supervisor.map([1, 2]), *supervisor.map([3])}) == 1


@pytest.mark.parametrize(
    "mischief",
    [lambda: os.kill(os.getpid(), signal.SIGKILL), crash, lambda: os._exit(0)],
    ids=["SIGKILL", "SIGSEGV", "exit"],
)
def test_an_item_that_kills_its_child_is_lost_and_no_other(mischief: Callable[[], object]) -> None:
    assert outcomes(squares_but(17, mischief)) == squares(40, n17="worker_died")


@pytest.mark.parametrize(
    "mischief", [lambda: time.sleep(3600), lambda: os.kill(os.getpid(), signal.SIGSTOP)], ids=["sleep", "SIGSTOP"]
)
def test_an_item_that_hangs_its_child_is_lost_and_no_other(mischief: Callable[[], object]) -> None:
    assert outcomes(squares_but(17, mischief), timeout_s=1.2) == squares(40, n17="timeout")


def test_an_item_that_eats_memory_is_lost_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "reading_allowance", lambda: 2**27)
    assert outcomes(squares_but(17, eat)) == squares(40, n17="out_of_memory")


def test_memory_is_limited_by_kernels_that_limit_only_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = resource.setrlimit

    def gvisor(which: int, limits: tuple[int, int]) -> None:
        if which != resource.RLIMIT_DATA:
            limit(which, limits)

    monkeypatch.setattr(resource, "setrlimit", gvisor)
    monkeypatch.setattr(supervision, "reading_allowance", lambda: 2**27)
    assert outcomes(squares_but(17, eat)) == squares(40, n17="out_of_memory")


def test_several_culprits_among_the_same_items_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "reading_allowance", lambda: 2**27)

    def function(item: int, alive: Alive) -> int:
        if item in (3, 4, 39):
            os.kill(os.getpid(), signal.SIGKILL)
        if item in (5, 6):
            time.sleep(3600)
        if item == 20:
            eat()
        return item**2

    died = {"n3": "worker_died", "n4": "worker_died", "n39": "worker_died"}
    expected = squares(40, **died, n5="timeout", n6="timeout", n20="out_of_memory")
    assert outcomes(function, processes=1, timeout_s=1.5) == expected


def test_an_item_whose_child_was_killed_by_chance_has_its_result(tmp_path: Path) -> None:
    def once() -> None:
        if not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    assert outcomes(squares_but(17, once)) == squares(40)


def test_an_item_that_takes_long_but_gets_on_is_waited_for() -> None:
    def function(item: int, alive: Alive) -> int:
        for _ in range(20 if item == 7 else 0):
            time.sleep(0.1)
            alive()
        return item**2

    assert outcomes(function, timeout_s=0.8) == squares(40)


def test_what_the_function_raises_is_raised_here_and_says_where() -> None:
    def function(item: int, alive: Alive) -> int:
        return {0: 0}[item]

    with pytest.raises(KeyError) as caught:
        outcomes(function)
    assert "in function" in caught.value.__notes__[0]


def test_what_a_library_prints_on_stderr_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def function(item: int, alive: Alive) -> int:
        os.write(2, b"[mp3 @ 0x1] Header missing\n")
        return item**2

    assert outcomes(function) == squares(40)
    log = tmp_path / "run.log"
    log.write_text("before\n")
    with Supervisor(function, processes=1, timeout_s=30, stderr=log) as supervisor:
        assert list(supervisor.map([1, 2])) == [1, 4]
    with Supervisor(function, processes=1, timeout_s=30, stderr=tmp_path / "none" / "log") as supervisor:
        assert list(supervisor.map([3])) == [9]
    assert log.read_text() == "before\n" + "[mp3 @ 0x1] Header missing\n" * 2
    assert capfd.readouterr().err == ""


def test_a_child_too_many_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([1])
    pipe = supervision.Pipe

    def few() -> object:
        if next(left, None) is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return pipe()

    monkeypatch.setattr(supervision, "Pipe", few)
    assert outcomes(lambda item, alive: item**2) == squares(40)
    with pytest.raises(OSError, match="Too many"):
        outcomes(lambda item, alive: item**2)


def test_children_end_when_their_parent_gives_up_on_them() -> None:
    with pytest.raises(ZeroDivisionError), Supervisor(_sleep, processes=3, timeout_s=60) as supervisor:  # noqa: PT012
        assert next(supervisor.map(range(10))) == 0
        assert len(children_of(os.getpid())) >= 3
        raise ZeroDivisionError


def _sleep(item: int, alive: Alive) -> int:
    time.sleep(3600 if item else 0.5)  # by then the other children are there
    return item


PARENT = """
import os, time
from pipeline.runtime.supervisor import Supervisor

def work(item, alive):
    os.write(1, b"at work\\n")
    time.sleep(3600)

list(Supervisor(work, processes=2, timeout_s=3600).map(range(4)))
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_that_hang_end_with_their_parent(signum: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
    children = children_of(process.pid)
    assert len(children) == 2
    os.kill(process.pid, signum)
    process.wait(60)
    assert wait_until(lambda: not any(alive(child) for child in children), 20)
    process.stdout.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_is_silent_only_while_it_is_at_one_item() -> None:
    heartbeat = Heartbeat(2)
    heartbeat.begin(1, 5)
    assert [heartbeat.silent_s(1, 3.0), heartbeat.silent_s(1, 3.0), heartbeat.silent_s(1, 3.0)] == [0.0, 3.0, 6.0]
    assert heartbeat.position(1) == 5
    heartbeat.alive(1)
    assert heartbeat.silent_s(1, 3.0) == 0.0
    heartbeat.idle(1)
    assert [heartbeat.silent_s(1, 3.0), heartbeat.silent_s(1, 3.0)] == [0.0, 0.0]
    assert [heartbeat.silent_s(0, 3.0), heartbeat.silent_s(0, 3.0)] == [0.0, 0.0]


def test_a_limit_that_somebody_has_set_is_not_lifted() -> None:
    def limited() -> int:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (2**32, hard))
        limit_growth(2**40)
        return resource.getrlimit(resource.RLIMIT_DATA)[0]

    assert outcomes(lambda item, alive: limited(), 1) == [2**32]


NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder of valid recordings. Tests make the reading of some of them fail."""
    (tmp_path / "calls").mkdir()
    for name, source in zip(NAMES, sorted((DATA / "fsdd").glob("*_0.wav")), strict=False):
        shutil.copy(source, tmp_path / "calls" / f"{name}.wav")
    return tmp_path / "calls"


def endless() -> None:
    """Stands for a decoder that never ends while its samples are counted."""


MISCHIEF = {
    "hangs": lambda: time.sleep(3600),
    "crashes": crash,
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "eats": eat,
    "goes on and on": endless,
}


@pytest.mark.parametrize("mischief", MISCHIEF.values(), ids=MISCHIEF)
def test_a_header_that_cannot_be_read_costs_its_row(
    calls: Path, monkeypatch: pytest.MonkeyPatch, mischief: Callable[[], object]
) -> None:
    def reading(path: str, go_on: Callable[[], bool]) -> AudioHeader:
        if path.endswith("c.wav"):
            mischief()
            while mischief is endless and go_on():
                time.sleep(0.001)
        return read_header(path, go_on)

    monkeypatch.setattr(supervision, "reading_allowance", lambda: 2**27)
    monkeypatch.setattr(headers, "read_header", reading)
    hangs = mischief in (MISCHIEF["hangs"], endless)
    built = build_manifest(folder.Dataset(folder.Options(root=str(calls))), 1.0, timeout_s=1.2 if hangs else 60)
    measured = dict(zip(built.table["id"].to_pylist(), built.table["num_samples"].to_pylist(), strict=True))
    assert measured == {
        f"{name}.wav": None if name == "c" else soundfile.info(calls / f"{name}.wav").frames for name in NAMES
    }


def test_counting_a_long_recording_may_take_longer_than_the_time_limit(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit holds for each MiB of the file, as long as the count makes progress."""

    def counting(path: str, go_on: Callable[[], bool]) -> AudioHeader:
        for _ in range(20 if path.endswith("c.wav") else 0):
            time.sleep(0.1)
            go_on()
        return read_header(path, go_on)

    monkeypatch.setattr(headers, "_COUNTED_BYTES", (calls / "c.wav").stat().st_size // 4)
    monkeypatch.setattr(headers, "read_header", counting)
    built = build_manifest(folder.Dataset(folder.Options(root=str(calls))), 1.0, timeout_s=1.0)
    assert built.table["num_samples"].null_count == 0


@pytest.mark.slow
def test_recordings_that_break_their_reader_are_failures_of_a_run_that_goes_on(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recordings are in a list, with a FIFO. The manifest stage reads them first, and the loader afterwards."""
    broken = {"b.wav": crash, "c.wav": eat, "d.wav": MISCHIEF["hangs"]}
    decode = audio._decode

    def decoding(file: BinaryIO, file_size: int) -> Iterator[Recording]:
        broken.get(Path(file.name).name, int)()
        yield from decode(file, file_size)

    monkeypatch.setattr(audio, "_decode", decoding)
    for module in (supervision, loader):
        monkeypatch.setattr(module, "reading_allowance", lambda: 2**28)
    monkeypatch.setattr(loader, "POLL_S", 0.2)
    os.mkfifo(calls / "fifo.wav")
    paths = sorted(calls.iterdir())
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"audio_filepath": str(path)}) + "\n" for path in paths))
    given = ["dataset=manifest", f"dataset.path={tmp_path / 'list.jsonl'}", "model=digits", "outputs=[transcripts]"]
    monkeypatch.chdir(tmp_path)
    assert main([*given, "loader.timeout_s=1.5", "run_dir=out"]) == 3
    assert_accounting(Path("out"), ["transcripts"])
    failures = {Path(row["path"]).name: row["error"] for row in pq.read_table("out/failures").to_pylist()}
    expected = {"b.wav": "worker_died", "c.wav": "out_of_memory", "d.wav": "timeout", "fifo.wav": "unreadable"}
    assert failures == expected
    assert {Path(path).name for path in read(Path("out"), "transcripts")["path"].to_pylist()} == {
        "a.wav", "e.wav", "f.wav",
    }  # fmt: skip


STUCK = """
import sys, time
from pipeline import run
from pipeline.audio import headers, reader

headers.HEADER_PROCESSES = 16

def stuck(file, file_size):
    while True:
        time.sleep(1)
    yield

reader._decode = stuck
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_whose_headers_hang_is_stopped_cleanly(calls: Path, tmp_path: Path, signum: int) -> None:
    given = ["dataset=folder", f"dataset.root={calls}", "model=digits", "loader.timeout_s=3600", "run_dir=out"]
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    process = server().start(str(script), given, cwd=tmp_path, env=environment(), new_session=True)
    assert wait_until(lambda: len(children_of(process.pid)) == len(NAMES))
    os.killpg(process.pid, signum)  # to the children too, as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert said.splitlines()[-1].startswith("stopped by")
    assert "Traceback" not in said
    assert group_members(process.pid) == []
