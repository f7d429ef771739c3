"""How the rows of a manifest are collected and read, and how many of them memory holds twice."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runtime.errors import UserError
from pipeline.storage import manifest as manifests
from pipeline.storage import run_directory, tables
from pipeline.storage.files import StoredTable
from pipeline.storage.manifest import Manifest, Rows, digest_of
from pipeline.storage.run_directory import RunDirectory

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("number", pa.int64())])


def batch(first: int, rows: int = 3) -> pa.RecordBatch:
    numbers = range(first, first + rows)
    return pa.RecordBatch.from_arrays([pa.array([f"u{n}" for n in numbers]), pa.array(numbers)], schema=SCHEMA)


def test_rows_become_columns_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_JOINED_ROWS", 6)
    rows = Rows(SCHEMA)
    most = 0
    for first in range(0, 30, 3):
        rows.add(batch(first))
        most = max(most, len(rows._small))
    assert most < 2  # the rest is joined
    assert len(rows) == 30
    table = rows.table()
    assert [column.num_chunks for column in table.columns] == [1, 1]
    assert table.equals(pa.Table.from_batches([batch(0, 30)]))
    assert Rows(SCHEMA).table().equals(SCHEMA.empty_table())


def written(folder: Path, rows: int) -> tuple[RunDirectory, pa.Table]:
    """A run directory with a manifest of so many rows, and the rows."""
    columns = {"id": [f"u{n:05d}" for n in range(rows)], "path": ["/no"] * rows, "shard": [n // 2 for n in range(rows)]}
    schema = tables.manifest_schema({})
    table = pa.table([pa.array(columns.get(each.name, [None] * rows), each.type) for each in schema], schema=schema)
    directory = RunDirectory(folder)
    manifests.write(directory, Manifest(table, digest_of(table)), {"dataset": "folder"})
    return directory, table


def test_a_manifest_is_written_in_row_groups_and_read_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "_ROW_GROUP_ROWS", 2)
    directory, table = written(tmp_path / "run", 5)
    assert pq.ParquetFile(tmp_path / "run" / "manifest.parquet").num_row_groups == 3
    manifest, made_with = manifests.read(directory.manifest)
    assert manifest.table.equals(table)
    assert manifest.recomputed() == manifest.digest
    assert made_with == {"dataset": "folder"}
    assert [*(tmp_path / "run" / ".staging").iterdir()] == []


def test_a_manifest_is_opened_without_its_rows_and_pickled_without_them(tmp_path: Path) -> None:
    directory, table = written(tmp_path / "run", 5_000)
    read: list[Sequence[str]] = []

    class Watched(StoredTable):
        @contextmanager
        def open(self, **options: object) -> Iterator[pq.ParquetFile]:
            with super().open(**options) as file:
                iterate = file.iter_batches
                file.iter_batches = lambda rows, columns: (read.append(columns), iterate(rows, columns=columns))[1]
                yield file

    manifest, _ = manifests.read(Watched(directory.manifest.files, directory.manifest.name))
    assert (len(manifest), manifest.schema) == (5_000, table.schema)
    assert not read
    assert manifest.num_shards == 2_500
    assert read == [["shard"]]
    manifest = manifests.read(directory.manifest)[0]
    assert manifest.table.equals(table)
    sent = pickle.dumps(manifest)
    assert len(sent) < 10_000  # the rows are 60 kB
    assert pickle.loads(sent).table.equals(table)


def test_a_manifest_with_other_rows_than_when_it_was_opened_is_refused(tmp_path: Path) -> None:
    directory, _ = written(tmp_path / "run", 5)
    manifest, _ = manifests.read(directory.manifest)
    written(tmp_path / "run", 6)
    with pytest.raises(UserError, match=r"manifest\.parquet: not a readable manifest \(it has 6 rows now, and had 5\)"):
        _ = manifest.table
