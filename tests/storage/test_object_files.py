"""Files in an object store: names, sizes and contents, and commits of the same shard at the same moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore, use_memory

from pipeline.runtime.digests import sha256_of
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Url, place
from pipeline.storage import object_files
from pipeline.storage.object_files import ObjectFiles
from pipeline.storage.run_directory import RunDirectory
from tests.storage.test_run_directory import commit_twice

RUN = Url("s3", "bucket/run")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    return use_memory(monkeypatch, tmp_path)


@pytest.fixture
def files(store: MemoryStore) -> ObjectFiles:
    return ObjectFiles(RUN)


def fill(files: ObjectFiles, contents: Mapping[str, bytes]) -> None:
    for name, data in contents.items():
        files.write(name, data)


def test_what_is_written_is_found_by_name_size_and_folder(files: ObjectFiles) -> None:
    fill(files, {"a/x": b"12", "a/y": b"345", "run.json": b""})
    assert files.names() == ["a", "run.json"]
    assert files.names("a") == ["x", "y"]
    assert files.names("b") == []
    assert {name: entry.size for name, entry in files.entries("a").items()} == {"x": 2, "y": 3}
    assert {*files.entries("")} == {"run.json"}
    assert files.entries("b") == {}
    assert [files.size(name) for name in ("a/x", "a", "b/x")] == [2, None, None]
    assert files.present(["a/x", "a/xy", "b/x", "b/y"]) == {"a/x"}
    assert files.present([]) == set()
    assert dict(files.read_each(["a/x", "b/x", "a/y"])) == {"a/x": b"12", "b/x": None, "a/y": b"345"}
    assert dict(files.read_each(["run.json"])) == {"run.json": b""}
    files.rename("a/x", "a/z")
    files.remove("a/y")
    files.remove("a/y")
    assert files.names("a") == ["z"]
    with pytest.raises(FileNotFoundError, match="s3://bucket/run/a/y"):
        files.read("a/y")


def test_an_object_is_created_once_and_the_same_content_is_no_conflict(files: ObjectFiles) -> None:
    files.create("commits/shard-00000.json", b"mine")
    files.create("commits/shard-00000.json", b"mine")
    with pytest.raises(FileExistsError):
        files.create("commits/shard-00000.json", b"theirs")
    assert files.read("commits/shard-00000.json") == b"mine"


def test_a_folder_for_unfinished_files_that_is_not_ours_is_refused(
    files: ObjectFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    files.scratch.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"is no folder of this user.*set TMPDIR to another folder"):
        files.prepare()
    (tmp_path / "file").touch()
    monkeypatch.setattr(object_files.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written.*set TMPDIR to another folder"):
        ObjectFiles(RUN).prepare()


def test_a_log_that_a_killed_run_left_here_goes_on_and_another_machine_goes_on_with_the_one_in_the_store(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(line: str) -> ObjectFiles:
        files = ObjectFiles(RUN)
        with open(files.log("logs/run.log"), "a") as log:
            log.write(line)
        return files

    write("killed\n")
    write("here\n").keep_log("logs/run.log", end=True)
    assert store.cat_file("bucket/run/logs/run.log") == b"killed\nhere\n"
    monkeypatch.setattr(object_files.tempfile, "gettempdir", lambda: str(tmp_path / "other"))
    write("there\n").keep_log("logs/run.log")
    assert store.cat_file("bucket/run/logs/run.log") == b"killed\nhere\nthere\n"


@pytest.mark.parametrize("text", ["ftp://host/x", "s3://", "s3:///key"])
def test_a_url_without_a_bucket_or_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"not known|names no bucket"):
        place(text)


@given(order=st.lists(st.integers(0, 1), max_size=30), same=st.booleans())
@settings(max_examples=40, deadline=None)
def test_of_two_processes_that_commit_a_shard_at_the_same_time_one_counts_or_none(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], same: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_memory(patch, tmp_path_factory.mktemp("scratch"))
        directory = RunDirectory(RUN)
        returned = commit_twice(patch, directory, order, same, object_files)
        done = directory.committed({"mark"})
        for file in done[0].records[0].files.values() if done else ():
            with directory.open(file.path) as source:
                assert (source.size(), sha256_of(source)) == (file.size, file.sha256)
        assert done or not same
        assert not done or done[0].records[0] in returned.values()


def test_a_table_is_read_in_ranges(files: ObjectFiles) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["a", "b"], "n": [1, 2]}), sink)
    files.write("t.parquet", memoryview(sink.getvalue()))
    with files.open("t.parquet") as source, pq.ParquetFile(source) as file:
        assert file.read(["n"]).to_pydict() == {"n": [1, 2]}
