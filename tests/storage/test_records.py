"""The index of the records in a store: it saves requests, and never says anything else than the records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from memory_store import MemoryStore, use_memory

from pipeline.runtime.places import Url
from pipeline.storage import records
from pipeline.storage.object_files import ObjectFiles
from pipeline.storage.records import INDEX, Records

COUNT = 8


def parse(name: str, content: bytes) -> str | None:
    """A record says its own name; anything else is damage."""
    return content.decode() if content.startswith(name.encode()) else None


def name_of(number: int) -> str:
    return f"shard-{number:05d}.json"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    monkeypatch.setattr(records, "_MANY", 4)
    store = use_memory(monkeypatch, tmp_path)
    files = ObjectFiles(Url("s3", "bucket/run"))
    for number in range(COUNT):
        files.write(f"commits/{name_of(number)}", name_of(number).encode())
    return store


@pytest.fixture
def files(store: MemoryStore) -> ObjectFiles:
    return ObjectFiles(Url("s3", "bucket/run"))


@pytest.fixture
def asked(files: ObjectFiles, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the records that are read one by one."""
    found: list[str] = []
    read_each = ObjectFiles.read_each

    def noting(self: ObjectFiles, names: object) -> object:
        found.extend(each := [*names])  # type: ignore[call-overload]
        return read_each(self, each)

    monkeypatch.setattr(ObjectFiles, "read_each", noting)
    return found


def read(files: ObjectFiles) -> dict[str, str | None]:
    """What a process finds that begins now."""
    return Records(files, "commits", parse).read()


def write_index(files: ObjectFiles) -> None:
    its = Records(files, "commits", parse)
    its.read()
    its.write_index()


def test_with_an_index_only_new_and_changed_records_are_read(files: ObjectFiles, asked: list[str]) -> None:
    write_index(files)
    files.write(f"commits/{name_of(1)}", f"{name_of(1)} renewed".encode())
    files.write(f"commits/{name_of(COUNT)}", name_of(COUNT).encode())
    files.remove(f"commits/{name_of(2)}")
    asked.clear()
    found = read(files)
    assert sorted(asked) == [f"commits/{name_of(1)}", f"commits/{name_of(COUNT)}"]
    assert found[name_of(1)] == f"{name_of(1)} renewed"
    assert {*found} == {name_of(number) for number in range(COUNT + 1) if number != 2}


@pytest.mark.parametrize("damage", ["gone", "cut", "another run's", "of damaged records"])
def test_an_index_that_cannot_be_used_changes_nothing(
    files: ObjectFiles, asked: list[str], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    wanted = read(files)
    if damage == "of damaged records":
        with monkeypatch.context() as patch:  # as if the store had given other bytes
            patch.setattr(ObjectFiles, "read", lambda *_: b"else")
            patch.setattr(ObjectFiles, "read_each", lambda _, names: ((name, b"else") for name in names))
            its = Records(files, "commits", lambda *_: "any")
            its.read()
            its.write_index()
    elif damage == "another run's":
        other = ObjectFiles(Url("s3", "bucket/other"))
        for number in range(COUNT):
            other.write(f"commits/{name_of(number)}", f"{name_of(number)} of another".encode())
        write_index(other)
        files.write(f"commits/{INDEX}", other.read(f"commits/{INDEX}"))
    elif damage == "cut":
        write_index(files)
        files.write(f"commits/{INDEX}", files.read(f"commits/{INDEX}")[:-9])
    asked.clear()
    assert read(files) == wanted
    assert len(asked) == COUNT


def test_a_process_that_commits_writes_the_index_now_and_then(files: ObjectFiles, asked: list[str]) -> None:
    its = Records(files, "commits", parse)
    for _ in range(3):
        its.committed()
    assert not files.exists(f"commits/{INDEX}")
    its.committed()
    asked.clear()
    assert len(read(files)) == COUNT
    assert asked == []


def test_few_records_and_a_folder_of_this_machine_have_no_index(
    files: ObjectFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.storage.local_files import LocalFiles

    (tmp_path / "run" / "commits").mkdir(parents=True)
    for number in range(COUNT):
        (tmp_path / "run" / "commits" / name_of(number)).write_text(name_of(number))
    write_index(LocalFiles(tmp_path / "run", ".staging"))  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "commits" / INDEX).exists()
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setattr(records, "_MANY", COUNT + 1)
    write_index(files)
    assert not files.exists(f"commits/{INDEX}")
