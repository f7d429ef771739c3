"""Several worker processes: which devices they get, what happens when they die or fail, and where their words go."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest
from fake_cuda import gpus
from running import SHORT, assert_accounting, assert_same_tables, main, start_workers_warm

from pipeline.decoding.greedy import Decoder
from pipeline.executors.processes import messages, pool, scheduler, worker
from pipeline.executors.processes.pool import Pool
from pipeline.executors.processes.scheduler import DEATHS_AT_PLACE, DEATHS_WITH_SHARD
from pipeline.records import Failure
from pipeline.report.timing import read_timing
from pipeline.runtime import failpoints
from pipeline.runtime.errors import UserError
from pipeline.runtime.metrics import BatchMetrics
from pipeline.status import read_status
from pipeline.storage.run_directory import RunDirectory

CORPUS = (*SHORT, "shard.hours=0.0004", "stages=[manifest,infer]", "precision=fp32")
SHORTEST = 11  # the shard with the least audio, which is the last one
pytestmark = pytest.mark.usefixtures("default_signals")

# A worker that computes nothing: it does what its arguments say, in a moment.
PUPPET = """
import os, signal, sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
for step in sys.argv[2:]:
    what, _, value = step.partition(":")
    if what == "say":
        connection.send_bytes(bytes.fromhex(value))
    elif what == "write":
        os.write(connection.fileno(), bytes.fromhex(value))
    elif what == "hear":
        connection.recv_bytes()
    elif what == "exit":
        os._exit(int(value))
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
"""
Command = Callable[[int, int, str], list[str]]


def say(message: messages.Message) -> str:
    return f"say:{pickle.dumps(message).hex()}"


def puppet(connection: int, *steps: str) -> list[str]:
    return [sys.executable, "-S", "-c", PUPPET, str(connection), *steps]


TAKE_A_SHARD = (say(messages.Wants()), "hear")
STAY = "hear"
CUT_MESSAGE = f"write:{struct.pack('!i', 1000).hex()}00"


@pytest.fixture(autouse=True, scope="module")
def _warm_workers() -> Iterator[None]:
    """That workers begin cold, and end with their run, is in test_local.py and test_signals.py."""
    with pytest.MonkeyPatch.context() as patch:
        start_workers_warm(patch)
        yield


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[[Command], list[str]]:
    """Starts workers with another command. Returns the devices of all workers that are started."""

    def replace(command: Command) -> list[str]:
        devices: list[str] = []

        def noted(connection: int, task: int, device: str) -> list[str]:
            devices.append(device)
            return command(connection, task, device)

        monkeypatch.setattr(worker, "command", noted)
        return devices

    return replace


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    assert main([*CORPUS, f"run_dir={run_dir}", "loader.workers=0"]) == 0
    return run_dir


def num_shards(run_dir: Path) -> int:
    return len(list((run_dir / "commits").iterdir()))


def read_seconds(run_dir: Path) -> pd.Series:
    """Seconds of audio in each shard."""
    manifest = pd.read_parquet(run_dir / "manifest.parquet")
    return manifest.groupby("shard")["duration_s"].sum()


def assert_nothing_is_left(run_dir: Path) -> None:
    assert [path.name for path in (run_dir / ".staging").iterdir()] == ["lock"]


# --- real workers


class Disturbed:
    """A run on two GPUs. One worker is killed in the middle of its shards, one after the commit of the last shard."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.devices: list[str] = []
        self.killed: list[int] = []
        self.metrics: list[dict[str, float]] = []
        self.log = ""


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    run = Disturbed(tmp_path_factory.mktemp("disturbed") / "run")
    real_command, take = worker.command, Pool._take

    def on_cpu(connection: int, task: int, device: str) -> list[str]:
        run.devices.append(device)
        return real_command(connection, task, "cpu")

    def take_and_kill(self: Pool, each: pool._Worker, message: messages.Message, stopping: bool) -> None:
        take(self, each, message, stopping)
        if isinstance(message, messages.BatchDone) and self._scheduler._workers[each.place].shards and not run.killed:
            run.killed.append(each.place)
            each.process.kill()

    with pytest.MonkeyPatch.context() as patch, gpus(2):
        patch.setattr(worker, "command", on_cpu)
        patch.setattr(Pool, "_take", take_and_kill)
        patch.setenv(failpoints.VARIABLE, f"committed:{SHORTEST}")
        assert main([*CORPUS, f"run_dir={run.run_dir}", "loader.workers=0", "batch.max_seconds=12"]) == 0
    lines = (run.run_dir / "logs" / "metrics.jsonl").read_text().splitlines()
    run.metrics = [json.loads(line) for line in lines]
    run.log = (run.run_dir / "logs" / "run.log").read_text()
    return run


def test_each_gpu_gets_a_worker_and_a_worker_that_dies_is_replaced_on_its_gpu(disturbed: Disturbed) -> None:
    assert disturbed.devices == ["cuda:0", "cuda:1", f"cuda:{disturbed.killed[0]}"]
    recorded = RunDirectory(disturbed.run_dir).read_record()
    assert recorded is not None
    assert recorded.device == "cuda:0, cuda:1 (Fake GPU)"


def test_workers_that_are_killed_lose_nothing_and_double_nothing(disturbed: Disturbed, alone: Path) -> None:
    assert_accounting(disturbed.run_dir)
    assert_same_tables(alone, disturbed.run_dir)
    assert_nothing_is_left(disturbed.run_dir)
    committed = [line for line in disturbed.log.splitlines() if " committed shard " in line]
    assert len(committed) == num_shards(alone)  # also the one that was killed before it could say so


def test_one_log_has_the_words_of_all_workers(disturbed: Disturbed) -> None:
    assert disturbed.log.count("the process was killed by SIGKILL, as the system does if memory runs out") == 2
    assert disturbed.log.count("; computed again: shard") == 1  # the other worker had committed all that it had
    speeds = r"INFO cuda:0 [\d.]+ x real time, idle \d+ %; cuda:1 [\d.]+ x real time, idle \d+ %\n"
    assert len(re.findall(speeds, disturbed.log)) == 1


def test_the_batches_of_all_workers_are_numbered_once(disturbed: Disturbed) -> None:
    assert [row["batch"] for row in disturbed.metrics] == list(range(len(disturbed.metrics)))
    assert {row["worker"] for row in disturbed.metrics} == {0, 1}
    assert {row["workers"] for row in disturbed.metrics} <= {1, 2}


def test_status_and_report_read_the_metrics_of_several_workers(disturbed: Disturbed) -> None:
    spent_s = sum((row["forward_s"] + row["idle_s"]) / row["workers"] for row in disturbed.metrics)
    audio_s = sum(row["valid_s"] for row in disturbed.metrics)
    status = read_status(disturbed.run_dir)
    assert status.standing.complete
    assert status.real_time == pytest.approx(audio_s / spent_s)
    timing = read_timing(RunDirectory(disturbed.run_dir))
    assert timing is not None
    assert (timing.wall_s, timing.sessions) == (pytest.approx(spent_s), (0.0,))


def test_a_gpu_on_which_every_worker_dies_is_left_alone_and_another_gpu_does_its_shards(
    tmp_path: Path, alone: Path, started: Callable[[Command], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_command = worker.command
    ends = [("die",), (CUT_MESSAGE, "exit:3"), ("die",)]

    def command(connection: int, task: int, device: str) -> list[str]:
        if device == "cuda:0":
            return puppet(connection, *TAKE_A_SHARD, *ends.pop(0))
        return real_command(connection, task, "cpu")

    def look(self: Pool, each: pool._Worker, stopping: bool = False) -> None:
        if each.place == 0 or stopping or not (ends or any(other.place == 0 for other in self._workers)):
            look_at(self, each, stopping)  # else the other GPU waits until all have died on the first one

    look_at = Pool._look_at
    monkeypatch.setattr(Pool, "_look_at", look)
    devices = started(command)
    run_dir = tmp_path / "run"
    with gpus(2):
        assert main([*CORPUS, f"run_dir={run_dir}", "loader.workers=0"]) == 0
    assert sorted(devices) == ["cuda:0"] * DEATHS_AT_PLACE + ["cuda:1"]
    assert_same_tables(alone, run_dir)
    log = (run_dir / "logs" / "run.log").read_text()
    again = [int(shard) for shard in re.findall(r"computed again: shard (\d+)", log)]
    longest = read_seconds(run_dir).sort_values(ascending=False, kind="stable")
    assert again == list(longest.index[:DEATHS_AT_PLACE])  # the longest come first, and none comes again
    assert log.count("; no further one is started in its place") == 1


# --- workers that compute nothing


def test_workers_that_die_at_once_are_replaced_a_few_times_only(
    tmp_path: Path, started: Callable[[Command], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    sharing: set[int] = set()

    def command(connection: int, task: int, device: str) -> list[str]:
        sharing.add(pickle.loads(os.pread(task, 1 << 30, 0)).job.sharing)
        return puppet(connection, "exit:3")

    devices = started(command)
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "executor.workers=2"]) == 1
    assert sharing == {2}
    assert devices == ["cpu"] * 2 * DEATHS_AT_PLACE
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(
        f"error: executor.workers: {len(devices)} workers died, and the last one ended with code 3; "
    )


def test_a_shard_that_kills_workers_wherever_it_goes_is_left_out_and_named(
    tmp_path: Path,
    started: Callable[[Command], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(scheduler, "DEATHS_AT_PLACE", 99)
    devices = started(lambda connection, task, device: puppet(connection, *TAKE_A_SHARD, "die"))
    with gpus(3):
        assert main([*CORPUS, "shard.hours=0.0022", f"run_dir={tmp_path / 'run'}"]) == 1
    assert len(devices) == 3 * DEATHS_WITH_SHARD
    log = (tmp_path / "run" / "logs" / "run.log").read_text()
    for shard in range(3):
        places = re.findall(rf"(cuda:\d): the process was killed by SIGKILL, .*: shard {shard}\n", log)
        assert sorted(places) == ["cuda:0", "cuda:1", "cuda:2"]  # each time at another place
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(rf"error: shards 0, 1, 2: left out, because {DEATHS_WITH_SHARD} workers died with it", line)
    assert "was killed by SIGKILL" in line
    assert line.endswith("the same command continues")


def test_a_worker_that_hangs_is_named_with_what_to_do_and_its_shards_go_to_others_once_it_is_killed(
    tmp_path: Path, alone: Path, started: Callable[[Command], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_command, first = worker.command, iter([(*TAKE_A_SHARD, STAY)])
    named: list[str] = []
    name_silent = Pool._name_silent

    def name_and_do(self: Pool, each: pool._Worker) -> None:
        say, self._say = self._say, named.append
        name_silent(self, each)
        self._say = say
        if len(named) == 2:  # once more, as it goes on to say nothing
            assert shlex.split(named[0].partition("; if it hangs, ")[2])[:3] == ["kill", "-KILL", str(each.process.pid)]
            each.process.kill()

    def command(connection: int, task: int, device: str) -> list[str]:
        steps = next(first, None)
        return puppet(connection, *steps) if steps else real_command(connection, task, "cpu")

    monkeypatch.setattr(Pool, "_name_silent", name_and_do)
    monkeypatch.setattr(Pool, "_look_at", only_puppets_are_silent(Pool._look_at))
    started(command)
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "executor.workers=2", "loader.workers=0"]) == 0
    assert len({*named}) == 1
    assert_same_tables(alone, tmp_path / "run")


def only_puppets_are_silent(look_at: Callable[..., None]) -> Callable[..., None]:
    """A worker that computes may take longer for a batch on a busy machine than the test waits."""

    def look(self: Pool, each: pool._Worker, stopping: bool = False) -> None:
        if PUPPET in each.process.args:  # type: ignore[operator]
            each.heard -= pool.SILENT_S
        look_at(self, each, stopping)

    return look


def batch(number: int, failures: Sequence[Failure]) -> messages.BatchDone:
    numbers = dict.fromkeys(("padded_s", "valid_s", "load_s", "forward_s", "write_s", "idle_s"), 1.0)
    return messages.BatchDone(BatchMetrics(number, 0, 1, len(failures), **numbers), 1.0, failures)


def test_failures_of_all_workers_count_together(
    tmp_path: Path, started: Callable[[Command], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    failure = Failure("a", "/a.wav", "load", "truncated", "too short")
    done = (say(messages.Begun()), say(batch(0, [failure])), STAY)
    started(lambda connection, task, device: puppet(connection, *TAKE_A_SHARD, *done))
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "executor.workers=3", "max_failures=2"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == "error: 3 failures, more than max_failures=2; the last one is 'a': truncated, too short"


def test_the_failures_of_a_shard_that_is_computed_again_are_not_counted_twice(
    tmp_path: Path, started: Callable[[Command], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure("a", "/a.wav", "load", "truncated", "too short")
    shards = iter(range(10))

    def take(self: Pool, each: pool._Worker, message: messages.Message, stopping: bool) -> None:
        if isinstance(message, messages.BatchDone):
            self._scheduler._workers[each.place].shards[message.metrics.shard] = 0.0, 0
        original(self, each, message, stopping)

    original = Pool._take
    monkeypatch.setattr(Pool, "_take", take)
    started(lambda connection, task, device: puppet(connection, say(batch(next(shards), [failure])), "die"))
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "executor.workers=2", "max_failures=2"]) == 1
    assert "6 workers died" in (tmp_path / "run" / "logs" / "run.log").read_text()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("/w.pt: damaged; get it again"), 2, "error: /w.pt: damaged; get it again"),
        (OSError(28, "No space left on device", "/t.parquet"), 1, "error: /t.parquet: No space left on device; "),
    ],
    ids=["damaged weights", "full disk"],
)
def test_an_error_in_a_worker_ends_the_run_as_an_error_of_a_single_process_does(
    error: Exception,
    code: int,
    said: str,
    tmp_path: Path,
    started: Callable[[Command], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = iter([say(messages.Failed.of(error))])
    devices = started(lambda connection, task, device: puppet(connection, *first, STAY))
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "executor.workers=2"]) == code
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(said)
    assert len(devices) == 2  # no worker took the place of those that were stopped


def test_an_error_that_cannot_be_sent_arrives_as_words_with_its_traceback() -> None:
    class Odd(Exception):
        """Cannot be pickled, because nobody can import it."""

    sent = pickle.loads(pickle.dumps(messages.Failed.of(Odd("odd"))))
    assert (type(sent.error), str(sent.error)) == (RuntimeError, "Odd: odd")
    assert "Odd: odd" in sent.error.__notes__[0]


def test_a_decoder_that_cannot_be_sent_is_named_before_anything_is_started(
    tmp_path: Path,
    started: Callable[[Command], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Decoder, "__reduce__", lambda self: "no such name")
    devices = started(worker.command)
    assert main([*CORPUS, f"run_dir={tmp_path / 'run'}", "executor.workers=2"]) == 2
    assert devices == []
    assert "executor.workers: the decoder or the model cannot be sent" in capsys.readouterr().err


def test_more_workers_than_shards_are_not_started(
    tmp_path: Path, started: Callable[[Command], list[str]], alone: Path
) -> None:
    devices = started(worker.command)
    given = [*CORPUS, f"run_dir={tmp_path / 'run'}", "loader.workers=0", "shard.hours=1", "executor.workers=8"]
    assert main(given) == 0
    assert devices == []  # one shard needs no other process
    assert num_shards(tmp_path / "run") == 1
