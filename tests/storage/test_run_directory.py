"""A shard is done, whole and with its record, or it is not done: whatever fails, wherever it is killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from make_run import run_record

from pipeline.records import Failure
from pipeline.runtime.digests import digest_of_json, sha256_file
from pipeline.runtime.errors import RunError, UserError
from pipeline.storage import commits, committing, local_files, tables
from pipeline.storage import run_directory as store
from pipeline.storage.commits import CommitRecord, CommittedShard, encode_record
from pipeline.storage.identity import Identity
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord

REPOSITORY = Path(__file__).parents[2]
POINTS = (
    "sync",
    "staged",
    "renaming",
    "moved",
    "renamed",
    "file",
    "file-staged",
    "file-synced",
    "file-moved",
    "committed",
)
"""Of a commit, in their order; those of a small file are the record's."""
BEFORE_RENAMES = POINTS[:2]
AFTER_RECORD = POINTS[-2:]
IDS = ("a", "b", "c")


def stage(
    directory: RunDirectory,
    shard: int,
    done: Sequence[str],
    failed: Sequence[str],
    text: str = "",
    features: Sequence[str] | None = None,
) -> dict[str, Path]:
    """The tables of one attempt at a shard, in staging."""
    folder = directory.new_staging(shard)
    found = {
        "failures": tables.failures_table(Failure(id_, f"/{id_}", "load", "truncated", "why") for id_ in failed),
        "transcripts": pa.table({"id": pa.array(done, pa.string()), "text": [text] * len(done)}),
    }
    if features is not None:
        # Each utterance goes on in a second part, which is not a second row of a layer.
        parts = np.repeat([0, 1], len(features)).astype(np.int16)
        found["features"] = pa.table({"id": pa.array([*features, *features], pa.string()), "part": parts})
    staged = {}
    for name, table in found.items():
        staged[name] = folder / f"{name}.parquet"
        pq.write_table(table, staged[name])
    return staged


def record_of(shard: int, mark: str = "mark", failures: Mapping[str, int] | None = None) -> CommitRecord:
    return CommitRecord(
        shard=shard,
        fingerprint=mark,
        files={},
        utterances=len(IDS),
        audio_s=1.5,
        failures=dict(failures or {}),
        counts={"word_errors": 2},
    )


def commit(directory: RunDirectory, shard: int, text: str = "", mark: str = "mark", again: bool = True) -> CommitRecord:
    staged = stage(directory, shard, ["a", "b"], ["c"], text)
    record = record_of(shard, mark, {"truncated": 1})
    done = committing.commit(directory, record, staged, IDS, {"transcripts": 1}, again=again)
    assert done is not None
    shutil.rmtree(staged["failures"].parent)
    return done


def leftovers(directory: RunDirectory) -> list[str]:
    return sorted(path.name for path in (directory.root / ".staging").iterdir() if path.name != "lock")


def file_of(directory: RunDirectory, table: str, shard: int) -> Path:
    return directory.locate(directory.table(table, shard).name)


def public_files(directory: RunDirectory) -> dict[str, bytes]:
    """Everything outside `.staging/`."""
    return {
        path.relative_to(directory.root).as_posix(): path.read_bytes()
        for path in sorted(directory.root.rglob("*"))
        if path.is_file() and ".staging" not in path.parts
    }


def assert_whole(directory: RunDirectory, record: CommitRecord) -> None:
    for table, file in record.files.items():
        path = directory.root / file.path
        assert path == file_of(directory, table, record.shard)
        assert path.stat().st_size == file.size
        assert sha256_file(path) == file.sha256
        assert pq.read_table(path).num_rows == file.rows


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


# --- one file


class Broken(BaseException):
    """Stands for whatever may interrupt a write."""


def fail_at_call(number: int, real: Callable[..., object]) -> Callable[..., object]:
    calls = iter(range(1, 100))

    def broken(*arguments: object) -> object:
        if next(calls) == number:
            raise Broken
        return real(*arguments)

    return broken


def test_a_file_is_written_and_replaced_without_a_trace(directory: RunDirectory) -> None:
    target = directory.root / "logs" / "x.json"
    for data in (b"old", b"", b"new" * 100_000):
        directory.write("logs/x.json", data)
        assert target.read_bytes() == data
    assert leftovers(directory) == []
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("name", "call"), [("replace", 1), ("fsync", 1), ("open", 1)])
@pytest.mark.parametrize("before", [b"old", None])
def test_a_write_that_fails_leaves_the_old_file_and_no_leftovers(
    name: str, call: int, before: bytes | None, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is not None:
        directory.write("run.json", before)
    monkeypatch.setattr(os, name, fail_at_call(call, getattr(os, name)))
    with pytest.raises(Broken):
        directory.write("run.json", b"new")
    monkeypatch.undo()
    assert public_files(directory) == ({} if before is None else {"run.json": before})
    assert leftovers(directory) == []


def test_a_folder_that_cannot_be_synced_still_holds_a_whole_file(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.write("run.json", b"old")
    monkeypatch.setattr(os, "fsync", fail_at_call(2, os.fsync))
    with pytest.raises(Broken):
        directory.write("run.json", b"new")
    assert public_files(directory) == {"run.json": b"new"}
    assert leftovers(directory) == []


def test_a_full_disk_leaves_the_old_file_and_no_leftovers(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, data: bytes) -> int:
        with open(path, "wb") as handle:
            handle.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    directory.write("run.json", b"old")
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        directory.write("run.json", b"new")
    assert public_files(directory) == {"run.json": b"old"}
    assert leftovers(directory) == []


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        seen.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(directory.root)}")
        sync(descriptor)

    def rename(source: Path, target: Path) -> None:
        seen.append(f"rename {Path(target).relative_to(directory.root)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    commit(directory, 7)
    names = [line if ".staging" not in line else line.split("/")[0] for line in seen]
    first_rename = next(index for index, line in enumerate(names) if line.startswith("rename"))
    assert names[:first_rename] == ["sync .staging"] * 2
    assert names[first_rename:] == [
        "rename failures/shard-00007.parquet",
        "rename transcripts/shard-00007.parquet",
        "sync failures",
        "sync transcripts",
        "sync .staging",
        "rename commits/shard-00007.json",
        "sync commits",
    ]


def test_a_table_is_written_whole(directory: RunDirectory) -> None:
    table = pa.table({"id": ["a", None], "n": [1, 2]})
    directory.write_table("scores.parquet", table)
    assert pq.read_table(directory.root / "scores.parquet").equals(table)
    assert leftovers(directory) == []


# --- the lock

HOLDER = """
import sys
from pathlib import Path
from typing import Any
from pipeline.storage.run_directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **more}


def test_a_second_process_is_refused_and_told_who_holds_the_run(directory: RunDirectory) -> None:
    arguments = [sys.executable, "-c", HOLDER, str(directory.root)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True
    ) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            assert directory.is_locked()
            with pytest.raises(UserError) as caught, directory.lock():
                pass
            message = str(caught.value)
            assert f"run_dir={directory.root}" in message
            assert re.search(rf"process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00;", message)
            assert "run_dir=" in message.split(";")[1]
            assert "\n" not in message
        finally:
            holder.kill()
    assert not directory.is_locked()


def test_what_a_dead_process_left_in_the_lock_file_holds_nothing_and_is_not_believed(directory: RunDirectory) -> None:
    (directory.root / ".staging").mkdir(parents=True)
    (directory.root / ".staging" / "lock").write_text(
        "process 1 on elsewhere since 1970-01-01T00:00:00+00:00, and more"
    )
    assert not directory.is_locked()
    with directory.lock():
        text = (directory.root / ".staging" / "lock").read_text()
        assert text.startswith(f"process {os.getpid()} on ")
        assert text.endswith("+00:00")


def another_process_locks(root: Path) -> bool:
    """Whether a process that tries gets the lock."""
    tried = subprocess.run(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.DEVNULL, capture_output=True, env=environment()
    )
    assert tried.returncode == 0 or b"locked by process" in tried.stderr
    return tried.returncode == 0


def test_a_holder_keeps_the_lock_whatever_it_does_with_the_file(directory: RunDirectory) -> None:
    lock_file = directory.root / ".staging" / "lock"
    with directory.lock():
        assert directory.is_locked()
        assert RunDirectory(directory.root).is_locked()
        assert lock_file.read_text().startswith(f"process {os.getpid()} ")
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert not another_process_locks(directory.root)
    assert another_process_locks(directory.root)


def test_without_locks_of_open_files_the_holder_remembers_its_record_lock(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.fcntl

    def older_kernel(descriptor: int, command: int, *given: Any) -> Any:
        if command in (fcntl.F_OFD_SETLK, fcntl.F_OFD_GETLK):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(descriptor, command, *given)

    monkeypatch.setattr(fcntl, "fcntl", older_kernel)
    with directory.lock():
        assert directory.is_locked()
        assert RunDirectory(directory.root).is_locked()
        assert not another_process_locks(directory.root)
    assert not directory.is_locked()


def test_a_lock_file_that_its_last_holder_took_away_is_not_the_lock(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = fcntl.fcntl, 0

    def meanwhile(descriptor: int, command: int, *given: Any) -> Any:
        nonlocal opened
        opened += 1
        if opened == 1:
            (directory.root / ".staging" / "lock").unlink()
        return real(descriptor, command, *given)

    monkeypatch.setattr(fcntl, "fcntl", meanwhile)
    with directory.lock():
        assert opened == 2
        assert (directory.root / ".staging" / "lock").read_text().startswith(f"process {os.getpid()} ")


def test_a_file_system_without_locks_is_refused_as_that(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(UserError, match="cannot be locked"), directory.lock():
        pass


def renamed(root: Path) -> None:
    root.rename(root.with_name("renamed"))


def renamed_and_made_again(root: Path) -> None:
    renamed(root)
    (root / ".staging").mkdir(parents=True)


def replaced_by_a_copy(root: Path) -> None:
    renamed(root)
    shutil.copytree(root.with_name("renamed"), root)


def replaced_by_a_link(root: Path) -> None:
    replaced_by_a_copy(root)
    root.rename(root.with_name("copy"))
    root.symlink_to("copy")


def lock_file_made_again(root: Path) -> None:
    (root / ".staging" / "lock").unlink()
    (root / ".staging" / "lock").touch()


DISPLACED: list[tuple[Callable[[Path], object], str]] = [
    (renamed, "the folder was renamed"),
    (shutil.rmtree, "the folder was renamed, removed"),
    (renamed_and_made_again, "its lock file"),
    (replaced_by_a_copy, "its lock file"),
    (replaced_by_a_link, "its lock file"),
    (lambda root: (root / ".staging" / "lock").unlink(), "its lock file"),
    (lambda root: shutil.rmtree(root / ".staging"), "its lock file"),
    (lock_file_made_again, "its lock file"),
]


@pytest.mark.parametrize(("displace", "what"), DISPLACED)
def test_nothing_is_written_to_a_folder_that_is_no_longer_the_locked_one(
    directory: RunDirectory, displace: Callable[[Path], object], what: str
) -> None:
    def displace_and_write() -> None:
        staged = stage(directory, 1, ["b"], [])
        commit(directory, 0)
        displace(directory.root)
        there = public_files(directory) if directory.root.exists() else None
        for write in (
            lambda: committing.commit(directory, record_of(1), staged, ["b"], {"transcripts": 1}),
            lambda: directory.write("run.json", b"{}"),
            lambda: directory.new_staging(2),
            lambda: directory.local_log(),
        ):
            with pytest.raises((OSError, RunError)):
                write()
        assert (public_files(directory) if directory.root.exists() else None) == there

    with pytest.raises(RunError, match="put it back") as caught, directory.lock():
        displace_and_write()
    assert what in str(caught.value)
    assert f"run_dir={directory.root}: " in str(caught.value)


def test_a_folder_that_is_put_back_goes_on(directory: RunDirectory) -> None:
    with directory.lock():
        renamed(directory.root)
        directory.root.with_name("renamed").rename(directory.root)
        commit(directory, 0)
    assert_whole(directory, directory.committed({"mark"})[0].records[0])


def test_the_lock_is_given_back_after_an_error(directory: RunDirectory) -> None:
    with pytest.raises(Broken), directory.lock():
        raise Broken
    with directory.lock():
        pass


def test_asking_whether_a_run_is_locked_creates_nothing(directory: RunDirectory) -> None:
    assert not directory.is_locked()
    assert not directory.root.exists()


def test_asking_takes_no_lock_that_a_starting_run_could_meet(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with directory.lock():
        pass
    real = fcntl.fcntl

    def only_asking(descriptor: int, command: int, *given: Any) -> Any:
        assert command in (fcntl.F_OFD_GETLK, fcntl.F_GETLK)
        return real(descriptor, command, *given)

    monkeypatch.setattr(fcntl, "fcntl", only_asking)
    assert not directory.is_locked()


SHARING = """
import pickle, sys
directory, locks = pickle.loads(bytes.fromhex(sys.argv[1]))
directory.share_locks(locks)
directory.check_in_place()
print(directory.is_locked(), flush=True)
sys.stdin.read()
"""


def test_a_process_that_shares_the_lock_keeps_it_until_it_ends(directory: RunDirectory) -> None:
    with directory.lock():
        locks = directory.held_locks
        sent = pickle.dumps((directory, locks)).hex()
        process = subprocess.Popen(
            [sys.executable, "-c", SHARING, sent],
            env=environment(),
            pass_fds=[lock.descriptor for lock in locks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
    assert directory.is_locked()  # this process has let it go
    with pytest.raises(UserError, match="locked by"), RunDirectory(directory.root).lock():
        pass
    process.communicate()
    assert not directory.is_locked()


class Refused(Exception):
    """The holder of the lock does not agree."""


def test_a_process_that_writes_for_the_holder_of_the_lock_asks_before_each_publication(directory: RunDirectory) -> None:
    class Holder:
        asked = 0

        def check_in_place(self) -> None:
            self.asked += 1
            if self.asked > 2:
                raise Refused

    with directory.lock():
        received: RunDirectory = pickle.loads(pickle.dumps(directory))
        received.write_under(Holder())
        received.write("first", b"")
        staged = received.new_staging(0) / "transcripts.parquet"
        staged.write_bytes(b"")
        with pytest.raises(Refused):
            received.publish({"transcripts": staged}, 0)
        with pytest.raises(Refused):
            received.write("second", b"")
    assert directory.has("first")
    assert not directory.has("second")
    assert staged.exists()


def test_a_forked_child_does_not_hold_the_lock_of_its_dead_parent(directory: RunDirectory) -> None:
    fork = HOLDER.replace("print(", "child = os.fork() or time.sleep(60)\n    print(", 1)
    arguments = [sys.executable, "-c", "import os, time\n" + fork, str(directory.root)]
    holder = subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment(), text=True, start_new_session=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait()
        with directory.lock():
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


def test_a_run_dir_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught, RunDirectory(tmp_path / "file" / "run").lock():
        pass
    assert f"run_dir={tmp_path / 'file' / 'run'}" in str(caught.value)


# --- leftovers


def test_only_what_dead_attempts_left_is_removed(directory: RunDirectory) -> None:
    commit(directory, 0)
    stage(directory, 1, ["a"], [])
    stage(directory, 1, ["a"], [])
    ((directory.root / ".staging") / "file-0123").write_text("half")
    kept = ["notes.txt", "shard-list", "other/file-1"]
    ((directory.root / ".staging") / "other").mkdir()
    for name in kept:
        ((directory.root / ".staging") / name).write_text("mine")
    before = public_files(directory)
    with directory.lock():
        directory.remove_leftovers()
    assert leftovers(directory) == ["notes.txt", "other", "shard-list"]
    assert ((directory.root / ".staging") / "other" / "file-1").read_text() == "mine"
    assert public_files(directory) == before


@pytest.mark.parametrize("point", ["staged", "file-synced"])
def test_what_a_killed_worker_left_of_its_shard_is_removed_while_others_are_at_work(
    directory: RunDirectory, point: str
) -> None:
    assert attempt(directory, point, 0) == -signal.SIGKILL
    (directory.root / ".staging" / "file-0123").write_text("of another process")
    stage(directory, 1, ["a"], [])
    assert directory.has_staging(0)
    directory.remove_staging(0)
    assert not directory.has_staging(0)
    assert directory.has_staging(1)
    assert [name for name in leftovers(directory) if not name.startswith("shard-00001-")] == ["file-0123"]


def test_every_attempt_has_a_staging_folder_of_its_own(directory: RunDirectory) -> None:
    folders = {directory.new_staging(3) for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.parent == (directory.root / ".staging") and list(folder.iterdir()) == [] for folder in folders)


# --- what counts as done


def test_a_committed_shard_is_done_with_everything_its_record_says(directory: RunDirectory) -> None:
    written = commit(directory, 3)
    assert directory.committed({"mark"}) == {3: CommittedShard((written,))}
    assert written.files.keys() == {"failures", "transcripts"}
    assert (written.files["failures"].rows, written.files["transcripts"].rows) == (1, 2)
    assert (written.utterances, written.audio_s, written.num_failures) == (3, 1.5, 1)
    assert written.counts == {"word_errors": 2}
    assert written.committed_at.endswith("+00:00")
    assert_whole(directory, written)
    content = json.loads(directory.locate(directory.commit_name(3)).read_text())
    assert content["files"]["transcripts"] == {
        "path": "transcripts/shard-00003.parquet",
        "size": written.files["transcripts"].size,
        "sha256": written.files["transcripts"].sha256,
        "rows": 2,
    }
    assert set(public_files(directory)) == {
        "commits/shard-00003.json",
        "failures/shard-00003.parquet",
        "transcripts/shard-00003.parquet",
    }


def test_a_run_without_commits_has_nothing_done(directory: RunDirectory) -> None:
    assert directory.committed({"mark"}) == {}
    assert directory.commits() == {}
    assert not directory.root.exists()


def test_a_record_of_another_fingerprint_is_not_done(directory: RunDirectory) -> None:
    commit(directory, 0, mark="mine")
    commit(directory, 1, mark="other")
    assert list(directory.committed({"mine"})) == [0]
    assert list(directory.committed({"other"})) == [1]


def test_the_commits_of_a_run_are_those_that_its_run_json_describes(directory: RunDirectory) -> None:
    mine, other = run_record(), run_record(precision="bf16")
    commit(directory, 0, mark=mine.fingerprint)
    commit(directory, 1, mark=other.fingerprint)
    assert directory.commits() == {}
    directory.write("run.json", other.encode())
    assert list(directory.commits()) == [1]


def test_the_commits_of_some_shards_are_read_from_their_own_records(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = run_record()
    directory.write("run.json", recorded.encode())
    for shard in (0, 1, 2):
        written = commit(directory, shard, mark=recorded.fingerprint)
    supplement = replace(written, shard=1, supplement=1, files={})
    directory.write(directory.commit_name(1, 1), encode_record(supplement))
    directory.write(directory.commit_name(2), b"damaged")
    whole, read = directory.commits(), list[str]()
    take = local_files.LocalFiles.read
    monkeypatch.setattr(local_files.LocalFiles, "read", lambda self, name: read.append(name) or take(self, name))
    assert directory.commits([1, 2, 7]) == {1: whole[1]}
    assert len(whole[1].records) == 2
    names = ("shard-00001-1.json", "shard-00001.json", "shard-00002.json")
    there = [name for name in read if directory.has(name)]
    assert sorted(there) == [*(f"commits/{name}" for name in names), "run.json"]
    assert sorted({*read} - {*there}) == [f"commits/shard-{last}.json" for last in ("00001-2", "00002-1", "00007")]


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("transcripts", "../elsewhere.parquet"),
        ("transcripts", "{parent}/elsewhere.parquet"),
        ("transcripts", "transcripts/shard-00001.parquet"),
        ("transcripts", "transcripts/../transcripts/shard-00000.parquet"),
        ("../run/transcripts", "../run/transcripts/shard-00000.parquet"),
        ("", "/shard-00000.parquet"),
    ],
)
def test_a_record_that_names_another_file_is_not_done(table: str, path: str, directory: RunDirectory) -> None:
    written = commit(directory, 0)
    parent = directory.root.parent
    for place in (parent / "elsewhere.parquet", file_of(directory, "transcripts", 1)):
        shutil.copy(file_of(directory, "transcripts", 0), place)
    files = {name: file for name, file in written.files.items() if name != "transcripts"}
    files[table] = replace(written.files["transcripts"], path=path.format(parent=parent))
    directory.write(directory.commit_name(0), encode_record(replace(written, files=files)))
    assert directory.committed({"mark"}) == {}
    assert directory.unusable_records({}) == ["commits/shard-00000.json"]


def test_a_record_under_the_name_of_another_shard_is_not_done(directory: RunDirectory) -> None:
    commit(directory, 0)
    written = commit(directory, 1)
    directory.locate(directory.commit_name(1)).rename(directory.locate(directory.commit_name(7)))
    done = directory.committed({"mark"})
    assert list(done) == [0]
    assert directory.unusable_records(done) == ["commits/shard-00007.json"]
    directory.write(directory.commit_name(1), encode_record(written))
    assert list(directory.committed({"mark"})) == [0, 1]


@pytest.mark.parametrize("table", ["failures", "transcripts"])
@pytest.mark.parametrize("damage", ["missing", "shorter", "longer", "empty", "folder"])
def test_a_shard_with_a_missing_or_resized_file_is_not_done(damage: str, table: str, directory: RunDirectory) -> None:
    commit(directory, 0)
    commit(directory, 1)
    path = file_of(directory, table, 0)
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"shorter": data[:-1], "longer": data + b"x", "empty": b""}[damage])
    assert list(directory.committed({"mark"})) == [1]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"{}",
        b"\xff\xfe",
        b'{"files": {}}',
        b'{"files": null}',
        b'{"files": [1]}',
    ],
)
def test_a_record_that_cannot_be_read_is_no_record(garbage: bytes, directory: RunDirectory) -> None:
    commit(directory, 0)
    commit(directory, 1)
    directory.locate(directory.commit_name(0)).write_bytes(garbage)
    assert list(directory.committed({"mark"})) == [1]


@pytest.mark.parametrize("change", ["half", "missing key", "unknown key", "unknown file key", "folder"])
def test_a_damaged_record_is_no_record(change: str, directory: RunDirectory) -> None:
    commit(directory, 0)
    commit(directory, 1)
    path = directory.locate(directory.commit_name(0))
    text = path.read_text()
    content = json.loads(text)
    path.unlink()
    if change == "folder":
        path.mkdir()
    elif change == "half":
        path.write_text(text[: len(text) // 2])
    else:
        if change == "missing key":
            del content["fingerprint"]
        elif change == "unknown key":
            content["surprise"] = 1
        else:
            content["files"]["failures"]["surprise"] = 1
        path.write_text(json.dumps(content))
    assert list(directory.committed({"mark"})) == [1]


def test_done_again_replaces_the_shard_and_its_record(directory: RunDirectory) -> None:
    first = commit(directory, 0, text="first")
    second = commit(directory, 0, text="second, and longer")
    assert first.files["transcripts"].sha256 != second.files["transcripts"].sha256
    assert directory.committed({"mark"}) == {0: CommittedShard((second,))}
    assert_whole(directory, second)
    assert pq.read_table(directory.root / "transcripts").num_rows == 2


# --- accounting


@pytest.mark.parametrize(
    ("done", "failed", "features"),
    [
        pytest.param(["a"], ["c"], None, id="missing"),
        pytest.param(["a", "a", "b"], ["c"], None, id="doubled"),
        pytest.param(["a", "b", "c"], ["c"], None, id="in both"),
        pytest.param(["a", "b", "x"], ["c"], None, id="unknown in the table"),
        pytest.param(["a", "b"], ["c", "x"], None, id="unknown in failures"),
        pytest.param(["a", "b"], ["c", "c"], None, id="doubled in failures"),
        pytest.param([], [], None, id="nothing"),
        pytest.param(["a", "b"], ["c"], ["a", "a", "b"], id="a layer missing"),
        pytest.param(["a", "b"], ["c"], ["a", "a"], id="missing in one table"),
        pytest.param(["a", "b"], ["c"], ["a", "a", "b", "b", "c", "c"], id="in one table and in failures"),
        pytest.param(["a", "b"], ["c"], ["a", "b", "b", "b"], id="rows of another"),
    ],
)
def test_tables_that_do_not_account_for_every_id_are_refused(
    done: list[str], failed: list[str], features: list[str] | None, directory: RunDirectory
) -> None:
    commit(directory, 0)
    before = public_files(directory)
    for shard in (0, 1):
        staged = stage(directory, shard, done, failed, features=features)
        rows = {"transcripts": 1} | ({"features": 2} if features is not None else {})
        with pytest.raises(AssertionError):
            committing.commit(directory, record_of(shard), staged, IDS, rows)
    assert public_files(directory) == before


@pytest.mark.parametrize(
    ("done", "failed"), [(["a", "b", "c"], []), ([], ["a", "b", "c"]), (["c", "a"], ["b"]), (["b"], ["c", "a"])]
)
def test_every_id_in_all_tables_or_in_failures_is_accepted(
    done: list[str], failed: list[str], directory: RunDirectory
) -> None:
    staged = stage(directory, 0, done, failed, features=[*done, *done])
    committing.commit(directory, record_of(0), staged, IDS, {"transcripts": 1, "features": 2})
    assert list(directory.committed({"mark"})) == [0]


# --- errors of the system


@pytest.mark.parametrize("before", [False, True], ids=["new", "again"])
@pytest.mark.parametrize(("name", "calls"), [("fsync", 6), ("replace", 3)])
def test_an_attempt_in_which_a_sync_or_rename_fails_is_discarded_wherever_that_is(
    name: str, calls: int, before: bool, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, name)
    calls += before and name == "fsync"  # of the folder from which the old record is removed
    for failing in range(1, calls + 1):
        shutil.rmtree(directory.root, ignore_errors=True)
        if before:
            commit(directory, 0, text="old")
        commit(directory, 1, text="kept")
        made: list[object] = []

        def broken(*arguments: object, failing: int = failing, made: list[object] = made) -> None:
            made.append(arguments)
            if len(made) >= failing:  # it must not be asked again until it says yes
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, broken)
            with pytest.raises(OSError, match="Input/output error") as caught:
                commit(directory, 0, text="new")
        assert len(made) == failing
        assert str(directory.root) in str(caught.value.filename)
        done = directory.committed({"mark"})
        assert done.keys() - {0} == {1}
        if 0 in done:
            assert before
            assert pq.read_table(file_of(directory, "transcripts", 0))["text"][0].as_py() == "old"
        for shard in done.values():
            assert_whole(directory, shard.records[0])
        commit(directory, 0, text="new")
        assert directory.committed({"mark"}).keys() == {0, 1}


# --- crashes

ATTEMPT = """
import os
import sys
from pathlib import Path
from typing import Any
import pyarrow as pa
import pyarrow.parquet as pq
from pipeline.runtime import failpoints
from pipeline.storage import committing
from pipeline.storage.commits import CommitRecord, encode_record
from pipeline.storage.run_directory import RunDirectory
failpoints.arm(os.environ[failpoints.VARIABLE])
directory = RunDirectory(Path(sys.argv[1]))
with directory.lock():
    for shard in map(int, sys.argv[2:]):
        folder = directory.new_staging(shard)
        staged = {}
        for table, ids in (("failures", ["c"]), ("transcripts", ["a", "b"])):
            staged[table] = folder / f"{table}.parquet"
            pq.write_table(pa.table({"id": ids, "text": ["from the attempt that died"] * len(ids)}), staged[table])
        record = CommitRecord(shard, "mark", {}, 3, 1.5, {"truncated": 1})
        committing.commit(directory, record, staged, ["a", "b", "c"], {"transcripts": 1}, again=True)
"""


def attempt(directory: RunDirectory, failpoint: str, *shards: int) -> int:
    script = directory.root.with_name("attempt.py")
    script.write_text(ATTEMPT)
    env = running.environment(PIPELINE_FAILPOINT=failpoint)
    arguments = [str(directory.root), *map(str, shards)]
    return running.server().run(str(script), arguments, cwd=script.parent, env=env, timeout=60).returncode


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_no_half_state_and_the_next_attempt_makes_it_whole(point: str, directory: RunDirectory) -> None:
    assert attempt(directory, f"{point}@2" if "file" in point else f"{point}:1", 0, 1, 2) == -signal.SIGKILL
    done = directory.committed({"mark"})
    assert list(done) == ([0, 1] if point in AFTER_RECORD else [0])
    for shard in done.values():
        assert_whole(directory, shard.records[0])
    for path in directory.root.glob("*/*.parquet"):
        assert pq.read_table(path).num_rows in (1, 2)
    assert {path.name for path in directory.root.iterdir()} <= {".staging", "commits", "failures", "transcripts"}
    assert not directory.is_locked()

    with directory.lock():
        directory.remove_leftovers()
        for shard in {0, 1, 2} - set(done):
            commit(directory, shard)
    assert leftovers(directory) == []
    for shard in directory.committed({"mark"}).values():
        assert_whole(directory, shard.records[0])
    assert sorted(pq.read_table(directory.root / "transcripts")["id"].to_pylist()) == ["a", "a", "a", "b", "b", "b"]
    assert pq.read_table(directory.root / "failures")["id"].to_pylist() == ["c"] * 3


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("staged", "old"),
        ("retract", "old"),
        ("retracted", None),
        ("renaming", None),
        ("moved", None),
        ("renamed", None),
        ("file-synced", None),
        ("file-moved", "new"),
        ("committed", "new"),
    ],
)
def test_a_kill_while_a_done_shard_is_done_again_leaves_the_old_the_new_or_none(
    point: str, left: str | None, directory: RunDirectory
) -> None:
    commit(directory, 0, text="old")
    assert attempt(directory, point, 0) == -signal.SIGKILL
    done = directory.committed({"mark"})
    assert list(done) == ([] if left is None else [0])
    if left is not None:
        assert_whole(directory, done[0].records[0])
        text = pq.read_table(file_of(directory, "transcripts", 0))["text"][0].as_py()
        assert text == {"old": "old", "new": "from the attempt that died"}[left]


class Turns:
    """Lets two threads take their steps, which lie between failpoints, in a given order."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = list(order)
        self._ended: set[int] = set()
        self._changed = threading.Condition()
        self._local = threading.local()

    def step(self, name: str = "", shard: int | None = None) -> None:
        """Wait until it is the turn of this thread. Takes the place of `failpoint`."""
        me = getattr(self._local, "number", None)
        with self._changed:
            while me is not None and self._order and self._order[0] != me and self._order[0] not in self._ended:
                self._changed.wait(10)
            if self._order and me is not None:
                del self._order[0]
            self._changed.notify_all()

    def run(self, number: int, do: Callable[[], None]) -> None:
        self._local.number = number
        try:
            self.step()
            do()
        finally:
            with self._changed:
                self._ended.add(number)
                self._changed.notify_all()


def commit_twice(
    patch: pytest.MonkeyPatch, directory: RunDirectory, order: list[int], same: bool, files: Any
) -> dict[int, CommitRecord | None]:
    """Let two threads commit the same shard, whose steps are in a given order, and return what each got.

    `files` is the module of the files.
    """
    turns = Turns(order)
    returned: dict[int, CommitRecord | None] = {}

    def attempt_to_commit(number: int) -> None:
        text = "the same" if same else f"from process {number}"
        staged, record = stage(directory, 0, ["a", "b"], ["c"], text), record_of(0, failures={"truncated": 1})
        returned[number] = committing.commit(directory, record, staged, IDS, {"transcripts": 1})

    for module in (store, files, commits, committing):
        patch.setattr(module, "failpoint", turns.step)
    threads = [threading.Thread(target=turns.run, args=(n, partial(attempt_to_commit, n)), daemon=True) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(returned) == 2
    return returned


@given(order=st.lists(st.integers(0, 1), max_size=40), same=st.booleans())
@settings(max_examples=40, deadline=None)
def test_of_two_processes_that_commit_a_shard_at_the_same_time_one_counts_or_none(order: list[int], same: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        directory = RunDirectory(Path(folder) / "run")
        commit_twice(patch, directory, order, same, local_files)
        done = directory.committed({"mark"})
        for shard in done.values():
            assert_whole(directory, shard.records[0])
        assert done or not same  # what is mixed of equal files is whole


def test_a_commit_that_comes_second_leaves_the_first_one(directory: RunDirectory) -> None:
    first = commit(directory, 0, text="first")
    assert commit(directory, 0, text="second, and longer", again=False) == first
    assert_whole(directory, first)


def test_a_failpoint_of_another_shard_does_nothing(directory: RunDirectory) -> None:
    assert attempt(directory, "staged:5", 0) == 0
    assert list(directory.committed({"mark"})) == [0]


class Killed(BaseException):
    """Stands for SIGKILL: nothing between the failpoint and the rule may catch it."""


class Store(RuleBasedStateMachine):
    """Commits, crashes, repairs and damage in any order, against the set of shards that must be done."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.directory = RunDirectory(Path(self.folder.name) / "run")
        self.done: dict[int, str] = {}
        self.damaged: set[Path] = set()

    def teardown(self) -> None:
        self.folder.cleanup()

    shards = st.integers(0, 2)
    texts = st.sampled_from(["", "one", "one two three", "x" * 500])

    @rule(shard=shards, text=texts)
    def commit(self, shard: int, text: str) -> None:
        commit(self.directory, shard, text)
        self.done[shard] = text
        self.damaged -= {file_of(self.directory, table, shard) for table in ("failures", "transcripts")}

    @rule(shard=shards, text=texts, point=st.sampled_from(POINTS))
    def crash(self, shard: int, text: str, point: str) -> None:
        def failpoint(name: str, at: int = shard) -> None:
            if (name, at) == (point, shard):
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            for module in (store, local_files, commits, committing):
                patch.setattr(module, "failpoint", failpoint)
            with pytest.raises(Killed):
                commit(self.directory, shard, text)
        if point in AFTER_RECORD:
            self.done[shard] = text
        elif point not in BEFORE_RENAMES:
            self.done.pop(shard, None)
        if point not in BEFORE_RENAMES:
            self.damaged.discard(file_of(self.directory, "failures", shard))
        if point not in (*BEFORE_RENAMES, "renaming"):
            self.damaged.discard(file_of(self.directory, "transcripts", shard))

    @rule()
    def restart(self) -> None:
        with self.directory.lock():
            self.directory.remove_leftovers()
        assert leftovers(self.directory) == []

    @rule(
        shard=shards, table=st.sampled_from(["failures", "transcripts"]), how=st.sampled_from(["cut", "grow", "remove"])
    )
    def damage(self, shard: int, table: str, how: str) -> None:
        path = file_of(self.directory, table, shard)
        if path.is_file() and path not in self.damaged:
            if how == "remove":
                path.unlink()
            else:
                data = path.read_bytes()
                path.write_bytes(data[:-3] if how == "cut" else data + b"PAR1")
                self.damaged.add(path)
            self.done.pop(shard, None)

    @rule(shard=shards, how=st.sampled_from(["remove", "cut", "garble"]))
    def lose_record(self, shard: int, how: str) -> None:
        path = self.directory.locate(self.directory.commit_name(shard))
        if path.is_file():
            if how == "remove":
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[: 40 if how == "cut" else 0] + b"\xff")
            self.done.pop(shard, None)

    @invariant()
    def done_shards_are_whole(self) -> None:
        done = self.directory.committed({"mark"})
        assert set(done) == set(self.done)
        for shard, committed in done.items():
            assert_whole(self.directory, committed.records[0])
            texts = pq.read_table(file_of(self.directory, "transcripts", shard))["text"].to_pylist()
            assert texts == [self.done[shard]] * 2

    @invariant()
    def public_tables_are_whole(self) -> None:
        for path in self.directory.root.glob("[a-z]*/*"):
            assert path.name.startswith("shard-")
            if path.suffix == ".parquet" and path not in self.damaged:
                pq.read_table(path)

    @invariant()
    def other_settings_find_nothing(self) -> None:
        assert self.directory.committed({"another mark"}) == {}


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# --- the rest


def test_run_json_is_read_back_or_absent_or_refused(directory: RunDirectory) -> None:
    assert directory.read_record() is None
    record = run_record()
    directory.write("run.json", record.encode())
    assert directory.read_record() == record
    edited = record.encode().replace(b'"fp32"', b'"bf16"')
    for garbage in (b"", b"{", b"\xff", b"[]", b"{}", b'{"fingerprint": "x"}', edited):
        (directory.root / "run.json").write_bytes(garbage)
        with pytest.raises(UserError, match=r"run\.json: cannot be read") as caught:
            directory.read_record()
        assert "\n" not in str(caught.value)


def test_a_fingerprint_is_of_the_content_and_not_of_its_order() -> None:
    assert digest_of_json({"a": 1, "b": [1, 2]}) == digest_of_json({"b": [1, 2], "a": 1})
    assert digest_of_json({"a": 1}) != digest_of_json({"a": 2})
    assert digest_of_json({"a": [1, 2]}) != digest_of_json({"a": [2, 1]})
    assert len(digest_of_json({})) == 64


def test_the_files_of_a_shard_are_named_by_its_number(directory: RunDirectory) -> None:
    assert file_of(directory, "emissions", 17) == directory.root / "emissions" / "shard-00017.parquet"
    assert directory.locate(directory.commit_name(123456)) == directory.root / "commits" / "shard-123456.json"


OLD_RUN_JSON = b"""{
 "fingerprint": "cafd78933107b5906c6753e80a9e4ea5008e87e35ee61a39aabe39acbfd75be7",
 "identity": {
  "schema_version": 1,
  "manifest": "6133a544b6fd43f33980d062ea7a36b6bfd676f6bd70b5e64c7ea64efea8fc25",
  "model": "digits",
  "weights_sha256": "24daa36713517c3f513854b6c66f7269d47b88af03accf05643dd3a4566dbf79",
  "precision": "fp32",
  "outputs": ["emissions", "features", "transcripts"],
  "channels": "mix",
  "chunk.seconds": 60.0,
  "chunk.context_seconds": 4.0,
  "features.layers": [1, 2, 3, 4],
  "features.dtype": "float16",
  "emissions.dtype": "float32",
  "decoder": "greedy",
  "torch": "2.11",
  "torchaudio": "2.11"
 },
 "versions": {"pipeline": "0.1.0"},
 "written": "2026-11-23T10:00:00+00:00"
}"""
"""As release 0.1 wrote it."""


def test_the_record_of_the_first_release_has_the_fingerprint_that_it_had() -> None:
    record = RunRecord.decode(OLD_RUN_JSON)
    assert record.fingerprint == json.loads(OLD_RUN_JSON)["fingerprint"]
    assert record.identity.as_json() == json.loads(OLD_RUN_JSON)["identity"]
    assert (record.identity.layers, record.identity.chunk_seconds, record.device) == ((1, 2, 3, 4), 60.0, None)
    assert RunRecord.decode(record.encode()) == record


def test_options_of_models_and_decoders_are_part_of_the_identity_and_other_keys_are_refused() -> None:
    identity = run_record().identity
    told = replace(identity, options={"decoder.beam_size": 50, "model.labels": ["-", "|"]})
    assert told.fingerprint != identity.fingerprint
    assert Identity.from_json(told.as_json()) == told
    binary = replace(identity, feature_layout="binary")
    assert binary.fingerprint != identity.fingerprint
    assert Identity.from_json(binary.as_json()) == binary
    with pytest.raises(ValueError, match="has vad, which this release does not know"):
        Identity.from_json({**identity.as_json(), "vad": "silero"})
    with pytest.raises(ValueError, match="lacks precision"):
        Identity.from_json({key: value for key, value in identity.as_json().items() if key != "precision"})


def test_only_regular_files_are_opened(directory: RunDirectory) -> None:
    directory.root.mkdir()
    os.mkfifo(directory.root / "run.json")
    with pytest.raises(UserError, match=r"run\.json: cannot be read \(not a regular file\)"):
        directory.read_record()
    (directory.root / "manifest.parquet").mkdir()
    assert not directory.manifest.is_there
