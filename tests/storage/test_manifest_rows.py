"""How the rows of a manifest are collected and read, and how many of them memory holds twice."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage import manifest as manifests
from pipeline.storage import run_directory, tables
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


def test_a_manifest_is_written_in_row_groups_and_read_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "_ROW_GROUP_ROWS", 2)
    columns = {"id": ["a", "b", "c", "d", "e"], "path": ["/no"] * 5, "shard": [0, 0, 1, 1, 2]}
    table = pa.table({f.name: pa.array(columns.get(f.name, [None] * 5), f.type) for f in tables.manifest_schema({})})
    table = table.cast(tables.manifest_schema({}))
    directory = RunDirectory(tmp_path / "run")
    manifests.write(directory, Manifest(table, digest_of(table)), {"dataset": "folder"})
    assert pq.ParquetFile(tmp_path / "run" / "manifest.parquet").num_row_groups == 3
    manifest, made_with = manifests.read(directory.manifest)
    assert manifest.table.equals(table)
    assert manifest.recomputed() == manifest.digest
    assert made_with == {"dataset": "folder"}
    assert [*(tmp_path / "run" / ".staging").iterdir()] == []
