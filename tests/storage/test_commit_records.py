"""Commit records are read once, because a request to a remote file system takes a while."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from make_run import Spoken, make_run

from pipeline.storage import stored_run
from pipeline.storage.files import Files
from pipeline.storage.names import COMMITS
from pipeline.storage.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(
        make_run(tmp_path / "run", [[Spoken(f"u{shard}")] for shard in range(5)], outputs=["transcripts"])
    )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    found: Counter[str] = Counter()
    read = Files.read

    def counted(self: Files, name: str) -> bytes:
        found[name] += 1
        return read(self, name)

    monkeypatch.setattr(Files, "read", counted)
    return found


def test_each_record_is_read_once_however_often_it_is_asked_for(directory: RunDirectory, reads: Counter[str]) -> None:
    for _ in range(2):
        assert directory.has_results()
        assert [*directory.commits()] == [0, 1, 2, 3, 4]
        assert len([*directory.records()]) == 5
    assert {name: number for name, number in reads.items() if name.startswith(COMMITS)} == {
        f"{COMMITS}/shard-{shard:05d}.json": 1 for shard in range(5)
    }


def test_a_record_that_is_replaced_or_removed_is_noticed(directory: RunDirectory, reads: Counter[str]) -> None:
    directory.commits()
    directory.write(directory.commit_name(1), b"damaged")
    directory.retract(2)
    assert [*directory.commits()] == [0, 3, 4]
    assert reads[directory.commit_name(0)] == 1


def test_a_table_of_another_size_is_noticed(directory: RunDirectory) -> None:
    directory.commits()
    directory.locate("transcripts/shard-00003.parquet").write_bytes(b"cut")
    assert [*directory.commits()] == [0, 1, 2, 4]


def test_some_shards_are_found_by_their_files_and_by_the_listing(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [1, 3, 7]
    by_files = directory.commits(asked)
    monkeypatch.setattr(stored_run, "_FEW_SHARDS", 0)
    assert directory.commits(asked) == by_files
    assert [*by_files] == [1, 3]
