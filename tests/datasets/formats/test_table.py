"""Tables whose rows need not name recordings."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.formats.table import read_table
from pipeline.runtime.errors import UserError


def read(root: Path, text: str | bytes, name: str = "table.csv") -> pa.Table:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(str(root / name))


def test_columns_have_the_types_that_a_list_gives_its_own(tmp_path: Path) -> None:
    found = read(tmp_path, "id,age,code,share,none, \n7,30,007,0.5,,x\n8,,8,1,,\n")
    assert dict(zip(found.column_names, map(str, found.schema.types), strict=True)) == {
        "id": "int64", "age": "int64", "code": "string", "share": "double", "none": "string", "column6": "string"
    }  # fmt: skip
    assert found.to_pylist()[1] == {"id": 8, "age": None, "code": "8", "share": 1.0, "none": None, "column6": None}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("id;age\na;1\nb;2\n", "table.csv"),
        ("id\tage\na\t1\nb\t2\n", "table.tsv"),
        ("\ufeffid,age\r\na,1\r\nb,2\r\n", "table.txt"),
        ('{"id": "a", "age": 1}\n{"age": 2, "id": "b"}\n', "table.jsonl"),
        ('[{"id": "a", "age": 1}, {"id": "b", "age": 2}]', "table.json"),
        ("id,age\na,1\nb,2\n".encode("utf-16"), "table.csv"),
    ],
)
def test_every_format_gives_the_same_table(tmp_path: Path, text: str | bytes, name: str) -> None:
    expected = pa.table({"id": ["a", "b"], "age": [1, 2]})
    assert read(tmp_path, text, name).equals(expected)
    pq.write_table(expected, tmp_path / "table.parquet")
    assert read_table(str(tmp_path / "table.parquet")).equals(expected)


def test_a_key_that_some_objects_lack_is_null_there(tmp_path: Path) -> None:
    found = read(tmp_path, '{"id": "a"}\n{"id": "b", "tags": ["x"]}\n', "table.jsonl")
    assert found.to_pylist() == [{"id": "a", "tags": None}, {"id": "b", "tags": '["x"]'}]


def test_what_is_wrong_is_named_with_its_line(tmp_path: Path) -> None:
    for text, name, reason in (
        ("id,age\na\n", "table.csv", "line 2: 1 values instead of 2"),
        ("id,age,id\na,1,b\n", "table.csv", "line 1: column 'id' appears twice"),
        ('{"id": "a"}\n7\n', "table.jsonl", "line 2: not an object"),
        ("PAR1", "table.parquet", "not a readable Parquet file"),
        (";; a comment\n", "table.rttm", "read as rttm; give CSV, TSV, JSON lines or Parquet"),
    ):
        with pytest.raises(UserError, match=reason):
            read(tmp_path, text, name)
