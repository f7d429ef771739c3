"""A run in an object store keeps the promises of a run in a folder: killed, refused, cut off, or two at a time."""

from __future__ import annotations

import importlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import s3
from running import (
    OWN_MOUNTS,
    SHORT,
    assert_accounting,
    assert_same_tables,
    environment,
    main,
    run,
    run_prepared,
    server,
    start,
    start_workers_warm,
    wait_until,
)
from s3 import ACCESS_KEY, SECRET_KEY, TOKEN, Fault, Store

from pipeline import plot, status
from pipeline.compare import __main__ as compare
from pipeline.duplicates import __main__ as duplicates
from pipeline.export import __main__ as export
from pipeline.report import __main__ as report
from pipeline.results import open_run
from pipeline.runtime import signals
from pipeline.runtime.errors import StoreError
from pipeline.runtime.places import filesystem, place
from pipeline.sample import __main__ as sample
from pipeline.storage.object_files import ObjectFiles
from pipeline.verify import __main__ as verify

imported = importlib.import_module("pipeline.import").main

BUCKET = "runs-of-tests"
GIVEN = (*SHORT, "shard.hours=0.004", "loader.workers=0", "threads=1")
SHARDS = 2
HASTY = json.dumps({"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 1}}})
"""What fsspec's configuration says, so that nothing is repeated. Tests need not wait for what does not come."""
pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The server, which the environment names."""
    with s3.bucket(BUCKET, tmp_path_factory.mktemp("scratch")) as found:
        yield found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder."""
    out = tmp_path_factory.mktemp("local") / "run"
    assert main([*GIVEN, "stages=[manifest,infer,score,report]", f"run_dir={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def whole(store: Store) -> str:
    """The same run in the store. For reading only."""
    assert main([*GIVEN, "stages=[manifest,infer,score,report]", f"run_dir=s3://{BUCKET}/whole"]) == 0
    return f"s3://{BUCKET}/whole"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are not repeated."""
    import fsspec.config

    monkeypatch.setitem(fsspec.config.conf, "s3", json.loads(HASTY))


def downloaded(store: Store, name: str, tmp_path: Path) -> Path:
    """A copy of a run in the store, from which nothing is left in staging."""
    found: Path = s3.download(store, BUCKET, name, tmp_path / f"copy-of-{name}")
    assert not (found / ".staging").exists(), [*(found / ".staging").rglob("*")]
    return found


def assert_equal(store: Store, name: str, local: Path, tmp_path: Path) -> Path:
    found = downloaded(store, name, tmp_path)
    assert_accounting(found, [table for table in ("transcripts", "emissions", "features") if (local / table).is_dir()])
    assert_same_tables(found, local)
    assert {path.name for path in (found / "commits").iterdir()} == {
        path.name for path in (local / "commits").iterdir()
    }
    return found


def one_line(said: str) -> str:
    (line,) = said.strip().splitlines()
    assert line.startswith("error: ")
    return line


# --- the same tables, for every reader


def test_the_run_has_the_files_of_a_local_one(store: Store, whole: str, local: Path, tmp_path: Path) -> None:
    found = assert_equal(store, "whole", local, tmp_path)
    names = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    there = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    assert names == there - {".staging/lock"}
    assert (found / "scores.parquet").read_bytes() == (local / "scores.parquet").read_bytes()
    log = (found / "logs" / "run.log").read_text()
    assert log.count(" committed shard ") == SHARDS
    assert len((found / "logs" / "metrics.jsonl").read_text().splitlines()) >= SHARDS


def test_every_command_reads_it(
    whole: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = open_run(whole), open_run(local)
    assert ours.transcripts.equals(theirs.transcripts)
    assert ours.scores.equals(theirs.scores)
    id_ = theirs.transcripts.id[0]
    assert (ours.emission(id_) == theirs.emission(id_)).all()
    assert len(pd.read_parquet(f"{whole}/transcripts")) == len(theirs.transcripts)
    commands: list[tuple[Any, list[str], int, str]] = [
        (status.main, [whole], 0, "done     24 of 24 utterances"),
        (verify.main, [whole, "--retract"], 0, f"{SHARDS} shards sound"),
        (verify.main, [whole, "--exactness", "2"], 0, "2 utterances"),
        (compare.main, [whole, str(local), "--html"], 0, ""),
        (compare.main, ["--night", whole, "--since", "last"], 2, ""),
        (duplicates.main, [whole], 0, "no two of 24 utterances have the same audio"),
        (export.main, [whole, "--format", "ctm"], 0, "24 utterances of 24 recordings in whole.ctm"),
        (sample.main, [whole, "--hours", "0.001"], 2, ""),
        (plot.main, [whole, id_, "--layers", "4"], 0, "whole-plots/"),
        (report.main, [whole], 0, f"report in {whole}/report/index.html"),
    ]
    for command, arguments, code, expected in commands:
        found = command(arguments)
        said = capsys.readouterr()
        assert found == code, (arguments, said.err)
        assert expected in said.out, (arguments, said.out)
    assert {path.name for path in tmp_path.iterdir()} >= {"whole.ctm", "whole-vs-run", "whole-plots"}


# --- kills


def test_killed_while_corrections_are_taken_over_the_next_import_takes_them_over(
    store: Store, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    its, name = s3.client(store), "corrected"
    for key in s3.keys(store, BUCKET, "whole/"):
        its.copy_object(Bucket=BUCKET, Key=key.replace("whole", name, 1), CopySource={"Bucket": BUCKET, "Key": key})
    run_dir = f"s3://{BUCKET}/{name}"
    ids = open_run(run_dir).transcripts.id[::8].tolist()
    table = tmp_path / "right.csv"
    table.write_text("id,reference\n" + "".join(f"{id_},nine nine\n" for id_ in ids))
    for point in ("renewal", "renewal-decided@2"):
        env = environment(PIPELINE_FAILPOINT=point)
        killed = server().run("pipeline.import", [run_dir, str(table)], cwd=tmp_path, env=env, timeout=100)
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
    assert imported([run_dir, str(table)]) == 0, capsys.readouterr().err
    assert verify.main([run_dir]) == 0
    found = pq.read_table(downloaded(store, name, tmp_path) / "transcripts").to_pandas().set_index("id")
    assert found.reference[ids].tolist() == ["nine nine"] * len(ids)


# --- faults of the store


def test_what_a_store_may_do_now_and_then_is_repeated(
    store: Store, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)  # seconds
    kinds = ("PUT", "CREATE", "GET", "HEAD", "LIST", "DELETE")
    actions = ("500", "503", "cut", "lost")
    faults = [Fault(kind, "once", action, after=2 * n) for kind in kinds for n, action in enumerate(actions)]
    faults += [Fault("CREATE", "commits", "409", times=2), Fault("LIST", "once/", "stale", times=None)]
    with store.failing(*faults):
        assert main([*GIVEN, f"run_dir=s3://{BUCKET}/once"]) == 0
    met = {(fault.kind, fault.action) for fault in faults if fault.met > fault.after}
    assert met >= {(kind, action) for kind in ("PUT", "GET", "HEAD", "LIST") for action in actions}
    assert_equal(store, "once", local, tmp_path)


FOR_GOOD = (
    *(("HEAD", "manifest", "500"), ("PUT", "run.json", "cut"), ("GET", "lock", "500"), ("PUT", "features", "lost")),
    *(("CREATE", "commits", "409"), ("CREATE", "commits", "lost"), ("LIST", "commits", "cut")),
    *(("GET", "transcripts", "cut"), ("DELETE", "scores", "503")),
)
"""Requests of a run in their order, each with what it gets in place of an answer."""


@pytest.mark.usefixtures("hasty")
def test_what_a_store_does_for_good_ends_the_run_with_one_line_and_the_same_command_continues(
    store: Store, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.object_files._BUSY_TRIES", 1)
    given = [*GIVEN, f"run_dir=s3://{BUCKET}/for-good"]
    for kind, key, action in FOR_GOOD:
        capsys.readouterr()
        with store.failing(Fault(kind, f"for-good.*{key}", action, times=None)):
            assert main(given) == 1, (kind, key, action)
        line = one_line(capsys.readouterr().err)
        assert f"s3://{BUCKET}/for-good" in line, line
        assert "what was committed stays" in line, line
    assert main(given) == 0
    assert_equal(store, "for-good", local, tmp_path)


@pytest.mark.usefixtures("hasty")
def test_a_store_that_does_not_answer_has_no_damaged_files(
    store: Store, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = s3.keys(store, BUCKET, "whole/")
    for kind, key in (("GET", "commits"), ("LIST", "whole"), ("GET", "transcripts"), ("GET", "run.json")):
        for command, *given in ((verify.main, "--retract"), (status.main,), (report.main,)):
            with store.failing(Fault(kind, key, "500", times=None)) as _:
                code = command([whole, *given])
            said = capsys.readouterr()
            assert code == (0 if (kind, key, command) == ("GET", "transcripts", status.main) else 1), (kind, key, said)
            if code:
                one_line(said.err)
    assert set(s3.keys(store, BUCKET, "whole/")) == set(before)


@pytest.mark.usefixtures("hasty")
def test_a_login_that_is_refused_is_one_line_without_the_secret(
    store: Store, whole: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    filesystem(place(whole)).clear_instance_cache()  # type: ignore[arg-type]
    for run_dir, faults, expected in (
        (f"s3://{BUCKET}/refused", [Fault(".*", "refused", "403", times=None)], "check the name of the bucket"),
        ("s3://no-such-bucket/run", [], "there is no such bucket; check its name"),
    ):
        with store.failing(*faults):
            assert main([*GIVEN, f"run_dir={run_dir}"]) == 2
        line = one_line(capsys.readouterr().err)
        assert run_dir in line
        assert expected in line
        assert not any(secret in line for secret in (ACCESS_KEY, SECRET_KEY, TOKEN))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    filesystem(place(whole)).clear_instance_cache()  # type: ignore[arg-type]
    assert main([*GIVEN, f"run_dir=s3://{BUCKET}/anonymous"]) == 2
    assert "Unable to locate credentials" in one_line(capsys.readouterr().err)
    filesystem(place(whole)).clear_instance_cache()  # type: ignore[arg-type]


def test_no_object_and_no_message_has_a_secret(
    store: Store, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    its = s3.client(store)
    contents = [its.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in s3.keys(store, BUCKET)]
    assert len(contents) > 10
    for secret in (ACCESS_KEY, SECRET_KEY, TOKEN):
        assert [content for content in contents if secret.encode() in content] == []


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("action", ["500", "503", "cut", "lost"])
def test_a_copy_or_an_upload_that_fails_once_is_repeated(store: Store, tmp_path: Path, action: str) -> None:
    files, path = ObjectFiles(place(f"s3://{BUCKET}/moved-{action}")), tmp_path / "large"  # type: ignore[arg-type]
    files.write("a", b"1")
    path.write_bytes(bytes(11 << 20))
    with store.failing(Fault("COPY", "moved", action), Fault("COMPLETE", "moved", action)) as _:
        files.rename("a", "b")
        files.stage("large", path)
        assert [fault.met >= 1 for fault in store.faults] == [True, True]
    assert {name: entry.size for name, entry in files.entries("").items()} == {"b": 1, "large": 11 << 20}


@pytest.mark.parametrize("action", ["hang", "half"])
def test_a_store_that_stalls_ends_in_one_line_after_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    import fsspec.config

    impatient = {"config_kwargs": {"read_timeout": 0.5, "retries": {"mode": "standard", "total_max_attempts": 1}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", impatient)
    monkeypatch.setattr("pipeline.runtime.places._S3_TRIES", 1)
    files = ObjectFiles(place(f"s3://{BUCKET}/stalls"))  # type: ignore[arg-type]
    files.write("commits/a", bytes(1000))
    asked: dict[str, Any] = {
        "GET": lambda: files.read("commits/a"),
        "LIST": lambda: files.names("commits"),
        **(
            {"PUT": lambda: files.write("run.json", b"1"), "HEAD": lambda: files.size("commits/a")}
            if action == "hang"
            else {}
        ),
    }
    for kind, ask in asked.items():
        with (
            store.failing(Fault(kind, "stalls", action, times=None)),
            pytest.raises(StoreError, match=rf"s3://{BUCKET}/stalls/.*what was committed stays"),
        ):
            ask()


# --- stops, and disks of this machine


@pytest.fixture
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)


def uploads(store: Store) -> list[Any]:
    found: list[Any] = s3.client(store).list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return found


@pytest.mark.usefixtures("hasty", "_small_parts")
def test_of_an_upload_in_parts_nothing_is_left_when_it_fails_or_is_stopped(store: Store, tmp_path: Path) -> None:
    files, path = ObjectFiles(place(f"s3://{BUCKET}/large")), tmp_path / "large"  # type: ignore[arg-type]
    path.write_bytes(bytes(11 << 20))
    with store.failing(Fault("PART", "large", "500", after=1, times=None)), pytest.raises(StoreError, match="large/a"):
        files.stage("a", path)
    assert uploads(store) == []
    assert path.exists()

    def stop() -> None:
        assert wait_until(lambda: store.faults[0].met > 0, 30)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        store.hanging.set()

    def upload() -> None:
        with store.failing(Fault("PART", "large", "hang", after=1)), signals.handling_signals():
            threading.Thread(target=stop).start()
            files.stage("a", path)

    with pytest.raises((signals.Stopped, StoreError)):
        upload()
    assert uploads(store) == []


def test_stopped_by_ctrl_c_while_it_commits_the_run_ends_as_in_a_folder(
    store: Store, local: Path, tmp_path: Path
) -> None:
    given = (*GIVEN, f"run_dir=s3://{BUCKET}/stopped")
    with store.failing(Fault("PUT", "stopped/transcripts", "hang")):
        process = start(*given, cwd=tmp_path)
        assert wait_until(lambda: store.faults[0].met > 0)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.2)
        store.hanging.set()
        _, said = process.communicate(60)
    assert process.returncode == 130, said
    assert "what was committed stays" in said.splitlines()[-1]
    assert f"s3://{BUCKET}/stopped/.staging/lock" not in s3.keys(store, BUCKET, "stopped/")
    done = run(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_equal(store, "stopped", local, tmp_path)


def test_a_disk_for_temporary_files_that_is_full_ends_the_run_with_one_line(
    store: Store, local: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = f"""{OWN_MOUNTS}
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", {str(small)!r}], check=True)
open({str(small / "filler")!r}, "wb").write(bytes(470_000))
from pipeline.stages import infer
infer.check_disk = lambda *_: None
"""
    given = (*GIVEN, f"run_dir=s3://{BUCKET}/small-disk")
    ended = run_prepared(mounted, *given, cwd=tmp_path, TMPDIR=str(small))
    if ended.returncode == 77:
        pytest.skip("a small disk needs user namespaces, not permitted here")
    assert ended.returncode == 1, ended.stderr
    line = one_line(ended.stderr)
    assert "No space left on device" in line
    assert str(small) in line, line


# --- several processes


def test_parts_at_the_same_time_give_the_tables_of_one_run_and_a_second_run_is_refused(
    store: Store, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = f"s3://{BUCKET}/parts"
    given = (*GIVEN, f"run_dir={run_dir}")
    with store.failing(Fault("PUT", "parts/transcripts/shard-00000", "hang")):
        first = start(*given, "executor.part=1/2", cwd=tmp_path)
        assert wait_until(lambda: store.faults[0].met > 0)
        assert main([*given, "executor.part=2/2"]) == 0
        assert "part 2/2: done; other parts of the run are at work" in capsys.readouterr().out
        assert main(given) == 2
        line = one_line(capsys.readouterr().err)
        assert f"run_dir={run_dir}: locked by part 1/2, process {first.pid} on " in line
        assert status.main([run_dir]) == 0
        said = capsys.readouterr().out
        assert "at work  part 1/2" in said
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(60)
    again = run(*given, "executor.part=1/2", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "all parts are done: 24 of 24 utterances" in again.stdout
    assert_equal(store, "parts", local, tmp_path)


def test_a_store_that_creates_twice_is_refused_for_parts_and_not_for_a_whole_run(
    store: Store, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*GIVEN, f"run_dir=s3://{BUCKET}/twice"]
    with store.failing(Fault("CREATE", "twice", "twice", times=None)):
        assert main([*given, "executor.part=1/2"]) == 2
        assert "this store creates an object twice" in one_line(capsys.readouterr().err)
        assert s3.keys(store, BUCKET, "twice/") == []
        assert main(given) == 0
    assert_equal(store, "twice", local, tmp_path)


def test_processes_on_this_machine_and_jobs_of_slurm(
    store: Store,
    local: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_workers_warm(monkeypatch)
    given = [*GIVEN, f"run_dir=s3://{BUCKET}/workers"]
    assert main([*given, "executor=slurm", "executor.tasks=1"]) == 2
    assert "must be a folder that all nodes share" in one_line(capsys.readouterr().err)
    assert main([*given, "executor.workers=2"]) == 0
    assert_equal(store, "workers", local, tmp_path)


def test_a_run_that_was_paused_until_another_took_its_lease_writes_nothing_more(
    store: Store,
    local: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.storage.lease.EXPIRES_S", 0.5)
    monkeypatch.setattr("pipeline.storage.lease._LOOK_S", 0.1)
    for point in ("table:1", "renaming:1", "renamed:1", "committed:1", "scores"):
        name = f"paused-{point.split(':')[0]}"
        given = (*GIVEN, f"run_dir=s3://{BUCKET}/{name}")
        paused = start(*given, cwd=tmp_path, PIPELINE_FAILPOINT=f"{point}=stop", TMPDIR=str(tmp_path))
        assert wait_until(lambda process=paused: is_stopped(process.pid))  # type: ignore[misc]
        capsys.readouterr()
        assert main(given) == 0
        said = capsys.readouterr().out
        assert f"waiting for process {paused.pid} on " in said
        before = versions(store, name)
        os.kill(paused.pid, signal.SIGCONT)
        _, errors = paused.communicate(60)
        assert paused.returncode == 1, (point, errors)
        assert "was removed, or taken over while this process was paused" in one_line(errors)
        assert versions(store, name) == before, point
        assert_equal(store, name, local, tmp_path)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def versions(store: Store, name: str) -> dict[str, Any]:
    """When each object of a run was written."""
    its = s3.client(store)
    return {key: its.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in s3.keys(store, BUCKET, f"{name}/")}
