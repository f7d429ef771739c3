"""Leases: one writer at a time in an object store, whoever dies, pauses or comes back."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from memory_store import MemoryStore, use_memory

from pipeline.runtime.errors import RunError, UserError
from pipeline.runtime.places import Url
from pipeline.storage import lease
from pipeline.storage.lock import Locked, this_process
from pipeline.storage.names import LOCK, Part
from pipeline.storage.run_directory import RunDirectory

KEY = f"bucket/run/{LOCK}"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Leases that beat and expire soon."""
    for name, seconds in (("BEAT_S", 0.02), ("EXPIRES_S", 0.3), ("_LOOK_S", 0.05)):
        monkeypatch.setattr(lease, name, seconds)
    return use_memory(monkeypatch, tmp_path)


def run(part: str | None = None) -> RunDirectory:
    return RunDirectory(Url("s3", "bucket/run"), None if part is None else Part.parse(part))


def lease_of_another(store: MemoryStore, said: str, name: str = KEY) -> None:
    store.pipe_file(name, json.dumps({"said": said, "token": "theirs", "beat": "1"}).encode())


def ended_process() -> str:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    mine = this_process().split()
    return " ".join([mine[0], str(process.pid), *mine[2:]])


def test_a_second_run_is_refused_and_told_who_holds_the_run_until_the_first_ends(store: MemoryStore) -> None:
    with run().lock():
        assert run().is_locked()
        held = r"run_dir=s3://bucket/run: locked by process \d+ on .* since .*; wait for it"
        with pytest.raises(Locked, match=held), run().lock():
            pass
    assert not run().is_locked()
    assert not store.exists(KEY)
    with run().lock():
        pass


def test_the_lease_of_a_process_of_this_machine_that_has_ended_is_taken_at_once(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRES_S", 1000.0)
    lease_of_another(store, ended_process())
    assert not run().is_locked()
    with run().lock():
        assert json.loads(store.cat_file(KEY))["token"] != "theirs"


def test_a_lease_that_nobody_prolongs_expires_and_whoever_waits_says_for_whom_and_how_long(store: MemoryStore) -> None:
    lease_of_another(store, by := "process 1 on elsewhere since 2026-01-01T00:00:00+00:00")
    begun, said = time.monotonic(), list[str]()
    with run().lock(waiting=said.append):
        assert time.monotonic() - begun > lease.EXPIRES_S
    assert said == [f"{by}, at most 0 s: it holds the run, or ended without giving it back"]


@pytest.mark.parametrize("lost", ["taken over", "removed"])
def test_a_holder_that_lost_its_lease_publishes_nothing_and_leaves_the_new_one(lost: str, store: MemoryStore) -> None:
    def lose() -> None:
        with run().lock():
            if lost == "removed":
                store.rm_file(KEY)
            else:
                lease_of_another(store, "process 1 on elsewhere since now")
            time.sleep(3 * lease.BEAT_S)  # it does not write it again

    with pytest.raises(RunError, match=r"its lease s3://bucket/run/.staging/lock was removed, or taken over"):
        lose()
    assert store.exists(KEY) == (lost == "taken over")


def test_each_file_is_published_under_the_lease(store: MemoryStore) -> None:
    directory = run()

    def write() -> None:
        with directory.lock():
            directory.write("config.yaml", b"mine")
            lease_of_another(store, "process 1 on elsewhere since now")
            directory.write("config.yaml", b"too late")

    with pytest.raises(RunError, match="taken over"):
        write()
    assert store.cat_file("bucket/run/config.yaml") == b"mine"


def test_a_table_that_is_derived_is_published_under_the_lease(store: MemoryStore, tmp_path: Path) -> None:
    directory = run()
    (tmp_path / "staged").write_bytes(b"too late")

    def write() -> None:
        with directory.lock():
            lease_of_another(store, "process 1 on elsewhere since now")
            directory.derived("alignments")._files.publish({"alignments/shard-00000.parquet": tmp_path / "staged"}, 0)

    with pytest.raises(RunError, match="taken over"):
        write()
    assert store.find("bucket/run/alignments") == []


def test_a_process_that_this_one_started_checks_the_lease_and_does_not_prolong_it(store: MemoryStore) -> None:
    directory, other = run(), run()
    with directory.lock():
        other.share_locks(pickle.loads(pickle.dumps(directory.held_locks)))
        other.write("config.yaml", b"theirs")
        threads = [thread.name for thread in threading.enumerate()]
        assert threads.count("lease") == 1
    with pytest.raises(RunError, match="was removed"):
        other.write("config.yaml", b"too late")


def test_a_damaged_lease_expires_like_any_other(store: MemoryStore) -> None:
    store.pipe_file(KEY, b"no JSON")
    assert not run().is_locked()
    with run().lock():
        pass


def test_parts_hold_a_lease_each_and_the_run_is_free_for_them_and_not_for_a_whole_run(store: MemoryStore) -> None:
    first, second = run("1/2"), run("2/2")
    said: list[str] = []
    with first.lock_part(said.append):
        assert first.alone
        first.let_others_in()
        with second.lock_part(said.append):
            assert not second.alone
            assert [text.split(",")[0] for text in run().parts_at_work()] == ["part 1/2", "part 2/2"]
            with pytest.raises(Locked, match=r"locked by part 1/2, .* and by part 2/2"), run().lock():
                pass
            with pytest.raises(Locked, match="other parts of the run are at work"), second.lock_to_close():
                pass
            with (
                pytest.raises(Locked, match=r"executor.part=2/2: locked by part 2/2"),
                run("2/2").lock_part(said.append),
            ):
                pass
    with second.lock_to_close():
        pass
    assert [text.split(",")[0] for text in said] == ["part 2/2"]  # the one that was refused
    assert store.find("bucket/run/.staging") == []


def test_a_part_waits_for_the_one_that_plans_the_run(store: MemoryStore) -> None:
    first, second = run("1/2"), run("2/2")
    said: list[str] = []
    alone: list[bool] = []

    def join() -> None:
        with second.lock_part(said.append):
            alone.append(second.alone)

    with first.lock_part(said.append):
        other = threading.Thread(target=join)
        other.start()
        time.sleep(0.2)
        assert alone == []
        first.let_others_in()
        other.join(10)
    assert alone == [False]
    assert [text.split(",")[0] for text in said] == ["part 1/2"]


def test_a_store_that_creates_an_object_twice_is_refused_for_parts_and_keeps_a_second_run_out(
    store: MemoryStore,
) -> None:
    store.creates_once = False
    twice = r"creates an object twice \(it ignores If-None-Match\)"
    with pytest.raises(UserError, match=twice), run("1/2").lock_part(print):
        pass
    assert store.find("bucket/run") == []
    with run().lock(), pytest.raises(Locked), run().lock():
        pass
