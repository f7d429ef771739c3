"""The bytes that the digest of a manifest is taken over."""

from __future__ import annotations

import json

import pyarrow as pa

from pipeline.storage.json_rows import json_rows

COLUMNS = {
    "text": (
        pa.string(),
        ["plain", 'a "quote"', "back\\slash", "tab\tline\n\x00\x1f\x7f", "é 漢字 😀\u2028", "", None],
    ),
    "float": (pa.float64(), [0.0, -0.0, 1e22, 1e-7, 123456789.123, float("nan"), float("-inf")]),
    "whole": (pa.int64(), [0, -1, 2**62, None, 4, 5, 6]),
    "short": (pa.int16(), [None] * 7),
    "flag": (pa.bool_(), [True, False, None, True, False, None, True]),
    'own "é"': (pa.string(), [None] * 7),
}


def test_rows_are_written_as_the_json_module_writes_them() -> None:
    table = pa.table({name: pa.array(values, type_) for name, (type_, values) in COLUMNS.items()})
    expected = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) for row in table.to_pylist())
    assert b"".join(json_rows(table)).decode() == expected


def test_a_part_of_a_table_gives_its_rows_alone() -> None:
    table = pa.table({"id": [f"utterance-{number}" for number in range(20)], "shard": list(range(20))})
    expected = "".join(json.dumps(row, sort_keys=True) for row in table.slice(7, 5).to_pylist())
    assert b"".join(json_rows(table.slice(7, 5))).decode() == expected
    assert b"".join(json_rows(table.slice(0, 0))) == b""
