"""Runs and recordings in the stores of Google and of Azure, as in that of Amazon (`test_object_store`)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import az
import gs
import pandas as pd
import pytest
from packing import recordings
from running import SHORT, assert_accounting, assert_same_tables, main, read, run
from s3 import Fault

from pipeline import status
from pipeline.compare import __main__ as compare
from pipeline.export import __main__ as export
from pipeline.results import open_run
from pipeline.runtime.errors import RunError, StoreError, UserError
from pipeline.runtime.places import Url
from pipeline.storage import lease
from pipeline.storage.lock import Locked
from pipeline.storage.names import LOCK, Part
from pipeline.storage.object_files import ObjectFiles
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import __main__ as verify

BUCKET = "tests-of-stores"
GIVEN = (*SHORT, "loader.workers=0", "threads=1", "stages=[manifest,infer,score]", "shard.hours=0.003")
STORES: dict[str, Any] = {"gs": gs, "az": az}
pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture(scope="module", params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def store(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The server, which the environment names."""
    with pytest.MonkeyPatch.context() as patch, STORES[kind].serving(BUCKET) as found:
        for name, value in found.environment().items():
            patch.setenv(name, value)
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))
        patch.setattr("tempfile.tempdir", None)
        yield found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder."""
    out = tmp_path_factory.mktemp("local") / "run"
    assert main([*GIVEN, f"run_dir={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def whole(kind: str, store: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same run in the store, which was killed once and started again. For reading only."""
    run_dir = f"{kind}://{BUCKET}/runs/whole"
    killed = run(*GIVEN, f"run_dir={run_dir}", cwd=tmp_path_factory.mktemp("cwd"), PIPELINE_FAILPOINT="renaming@2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert main([*GIVEN, f"run_dir={run_dir}"]) == 0
    return run_dir


def test_a_run_that_was_killed_has_the_tables_of_a_local_one(
    store: Any, whole: str, local: Path, tmp_path: Path
) -> None:
    for name, content in store.contents(BUCKET, "runs/whole/").items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = tmp_path / "runs" / "whole"
    assert_accounting(found)
    assert_same_tables(found, local)
    names = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    assert names == {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()} - {LOCK}
    assert (found / "logs" / "run.log").read_text().count("run_dir ") == 2
    secrets = [value for name, value in store.environment().items() if len(value) > 8 and "HOST" not in name]
    assert not [
        name for name, content in store.contents(BUCKET).items() for each in secrets if each.encode() in content
    ]


def test_every_command_reads_it(
    whole: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = open_run(whole), open_run(local)
    assert ours.transcripts.equals(theirs.transcripts)
    id_ = theirs.transcripts.id[0]
    assert (ours.emission(id_) == theirs.emission(id_)).all()
    commands: list[tuple[Any, list[str], int, str]] = [
        (status.main, [whole], 0, "done     24 of 24 utterances"),
        (verify.main, [whole, "--retract"], 0, "2 shards sound"),
        (compare.main, [whole, str(local)], 0, ""),
        (export.main, [whole, "--format", "ctm"], 0, "24 utterances of 24 recordings in whole.ctm"),
        (main, [*GIVEN, f"run_dir={whole}"], 0, "complete already"),
    ]
    for command, arguments, code, expected in commands:
        found = command(arguments)
        said = capsys.readouterr()
        assert found == code, (arguments, said.err)
        assert expected in said.out, (arguments, said.out)
        assert said.err == ""


def test_recordings_and_lists_are_read_from_the_store(
    kind: str, store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ObjectFiles(Url(kind, f"{BUCKET}/calls"))
    for name, data in recordings(3).items():
        files.write(f"monday/{name}", data)
    (tmp_path / "calls" / "monday").mkdir(parents=True)
    for name, data in recordings(3).items():
        (tmp_path / "calls" / "monday" / name).write_bytes(data)
    model = ("model=digits", "outputs=[transcripts]", "stages=[manifest,infer]", "loader.workers=1")
    places = {"there": f"{kind}://{BUCKET}/calls", "here": f"{tmp_path}/calls"}
    for name, root in places.items():
        assert main(["dataset=folder", f"dataset.root={root}", *model, f"run_dir={tmp_path / name}"]) == 0
    ours, theirs = (read(tmp_path / name, "transcripts").drop_columns(["path"]) for name in places)
    assert ours.equals(theirs)
    ids = pd.Series(ours["id"].to_pylist())
    files.write("list.csv", ("path\n" + "\n".join(ids) + "\nmonday/none.flac\n").encode())
    capsys.readouterr()
    given = ["dataset=manifest", f"dataset.path={kind}://{BUCKET}/calls/list.csv", *model]
    assert main([*given, f"run_dir={tmp_path / 'listed'}"]) == 3
    assert read(tmp_path / "listed", "failures")["error"].to_pylist() == ["not_found"]
    assert len(read(tmp_path / "listed", "transcripts")) == 3


def test_names_sizes_and_contents_are_those_of_a_folder(kind: str, store: Any) -> None:
    files = ObjectFiles(Url(kind, f"{BUCKET}/files/run"))
    ObjectFiles(Url(kind, f"{BUCKET}/files/run-2")).write("a/x", b"another run")
    for name, content in {"a/x": b"12", "a/y[1]": b"345", "run.json": b""}.items():
        files.write(name, content)
    assert files.names() == ["a", "run.json"]
    assert files.names("b") == []
    assert {name: entry.size for name, entry in files.entries("a").items()} == {"x": 2, "y[1]": 3}
    assert files.present(["a/x", "a/xy", "b/x"]) == {"a/x"}
    assert dict(files.read_each(["a/x", "b/x", "a/y[1]"])) == {"a/x": b"12", "b/x": None, "a/y[1]": b"345"}
    with files.open("a/y[1]") as source:
        source.seek(1)
        assert source.read() == b"45"
    before = files.entries("a")["x"].version
    files.write("a/x", b"21")
    assert files.entries("a")["x"].version not in (before, None)
    files.rename("a/x", "a/z")
    assert files.names("a") == ["y[1]", "z"]
    files.remove_folder("a")
    assert files.names() == ["run.json"]


def test_an_object_is_created_once_and_a_lost_lease_is_noticed(
    kind: str, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("BEAT_S", 0.2), ("EXPIRES_S", 60.0), ("_LOOK_S", 0.1)):
        monkeypatch.setattr(lease, name, seconds)
    root = Url(kind, f"{BUCKET}/leases")
    files, directory = ObjectFiles(root), RunDirectory(root)
    files.create("commits/shard-00000.json", b"mine")
    files.create("commits/shard-00000.json", b"mine")
    with pytest.raises(FileExistsError):
        files.create("commits/shard-00000.json", b"theirs")
    with RunDirectory(root, Part(1, 2)).lock_part(print):
        pass
    with directory.lock(), pytest.raises(Locked, match=f"run_dir={root}: locked by process"), RunDirectory(root).lock():
        pass
    assert not directory.is_locked()

    def lose() -> None:
        with directory.lock():
            assert directory.is_locked()
            age_s = files.age_s(LOCK)
            assert age_s is not None
            assert abs(age_s) < 5
            files.write(LOCK, b'{"said": "process 1 on elsewhere since now", "token": "theirs"}')
            directory.write("config.yaml", b"too late")

    with pytest.raises(RunError, match="taken over while this process was paused"):
        lose()
    assert "config.yaml" not in files.names()


def test_what_is_refused_is_one_line_without_the_secret(
    kind: str, store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*GIVEN, f"run_dir={kind}://no-such-bucket-of-ours/run"]) == 2
    assert "there is no such bucket" in capsys.readouterr().err
    files = ObjectFiles(Url(kind, f"{BUCKET}/refused"))
    if kind == "az":
        wrong = "d3Jvbmcgc2VjcmV0IG9mIHRoZSB0ZXN0cw=="
        for key, expected in ((wrong, "failed to authenticate"), ("no-base64", "")):
            monkeypatch.setenv(
                "AZURE_STORAGE_CONNECTION_STRING", store.environment(key)["AZURE_STORAGE_CONNECTION_STRING"]
            )
            az.forget_clients()
            with pytest.raises(UserError, match=f"the store refuses this .*{expected}") as caught:
                files.read("x")
            assert key not in str(caught.value)
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
        az.forget_clients()
        with pytest.raises(UserError, match="set the credentials in the environment"):
            files.read("x")
        monkeypatch.undo()
        az.forget_clients()
    else:
        for status_ in ("401", "403"):
            with (
                store.failing(Fault(".*", "refused", status_, times=None)),
                pytest.raises(UserError, match="the store refuses this"),
            ):
                files.read("x")
    assert capsys.readouterr().err == ""


def test_a_store_that_is_busy_or_cut_off_is_asked_again_and_one_that_fails_for_good_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def at_once(_: float) -> None:
        """Wait for nothing between two requests."""

    with gs.serving(BUCKET) as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        files = ObjectFiles(Url("gs", f"{BUCKET}/busy"))
        monkeypatch.setattr("gcsfs.retry.asyncio.sleep", at_once)
        monkeypatch.setattr("pipeline.storage.object_files.time.sleep", lambda _: None)
        faults = [Fault("CREATE", "x", "409"), Fault("CREATE", "x", "503"), Fault("GET", "x", "cut")]
        with store.failing(*faults):
            files.create("x", b"1")
            assert files.read("x") == b"1"
        assert [fault.met for fault in faults] == [3, 2, 2]
        with (
            store.failing(Fault("PUT", "y", "503", times=None)),
            pytest.raises(StoreError, match=f"gs://{BUCKET}/busy/y: .*what was committed stays"),
        ):
            files.write("y", b"1")
    assert capsys.readouterr().err == ""
