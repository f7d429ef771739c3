"""A Parquet list that is read as columns gives the same utterances as one that is read row by row."""

from __future__ import annotations

from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import manifest
from pipeline.datasets.formats.columnar import UtteranceColumns
from pipeline.datasets.formats.mapping import Columns
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError

USUAL: dict[str, Any] = {
    "id": ["a", "b é", "c"],
    "path": ["/no/a.wav", "sub/b.wav", "./c d.wav"],
    "duration": [1.5, 2.0, 70.25],
    "text": [" hello\u2003", "", None],
    "speaker": ["1089", "", "1220"],
    "room": pa.array(["rm1", None, "rm1"]).dictionary_encode(),
    "score": pa.array([1.5, float("nan"), None], pa.float32()),
    "mic": pa.array([1, None, 3], pa.uint8()),
    "clean": [True, None, False],
    "none": pa.nulls(3),
}


def written(folder: Path, columns: dict[str, Any], **options: Any) -> manifest.Dataset:
    path = folder / "list.parquet"
    pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), path)
    given = Columns(**options.pop("columns", {}))
    return manifest.Dataset(manifest.Options(path=str(path), columns=given, read_headers=False, **options))


def utterances(block: Any) -> list[Utterance]:
    """The utterances of a block."""
    if not isinstance(block, UtteranceColumns):
        return [*block]
    own = pa.RecordBatch.from_pydict(dict(block.own)).to_pylist() if block.own else [{}] * len(block.known)
    return [Utterance(**known, columns=each) for known, each in zip(block.known.to_pylist(), own, strict=True)]


def read(dataset: manifest.Dataset) -> tuple[list[bool], list[Utterance]]:
    """Whether each block was read as columns, and the utterances."""
    blocks = [*dataset.blocks()]
    return [isinstance(block, UtteranceColumns) for block in blocks], [u for block in blocks for u in utterances(block)]


def assert_same(folder: Path, columns: dict[str, Any], *, as_columns: bool, **options: Any) -> None:
    dataset = written(folder, columns, **options)
    kinds, found = read(dataset)
    plain = manifest.Dataset(manifest.Options(path=dataset.path, columns=dataset._options.columns, **options))
    plain._options.read_headers = False
    plain.__dict__["_columns"] = None  # row by row
    rows = [*plain.utterances()]
    assert dataset.columns() == plain.columns()
    for field in fields(Utterance):
        assert [getattr(each, field.name) for each in found] == [getattr(each, field.name) for each in rows], field.name
    assert kinds == [as_columns] * len(kinds)
    assert dataset.warnings() == plain.warnings()
    assert dataset.reading(0) == plain.reading(0)


def test_usual_values_are_read_as_columns(tmp_path: Path) -> None:
    assert_same(tmp_path, USUAL, as_columns=True)
    types = written(tmp_path, USUAL).columns()
    assert (types["speaker"], types["room"], types["none"], types["mic"]) == ("int64", "string", "string", "int16")


def test_segments_and_channels_are_read_as_columns(tmp_path: Path) -> None:
    times = {
        "start": [0.5, None, 1.0],
        "end": [None, 3.5, 2.25],
        "channel": [1, None, 2],
        "duration": [1.25, None, 7.0],
    }
    assert_same(tmp_path, USUAL | times, as_columns=True)


@pytest.mark.parametrize(
    "unusual",
    [
        {"path": ["a.wav", "b\\c.wav", "c.wav"]},
        {"path": ["a.wav", "é.wav", "c.wav"]},
        {"path": ["a.wav", "$root/b.wav", "c.wav"]},
        {"path": ["a.wav", " b.wav", "%41.wav"]},
        {"path": ["a.wav", "https://host/b.wav", "c.wav"]},
        {"path": ["a.wav", "", None]},
        {"id": ["a", "", None]},
        {"id": [1, 2, 3]},
        {"duration": [1.5, None, 2.0]},
        {"duration": ["1.5", "2.5", "3.5"]},
        {"duration": [1.5, -1.0, float("nan")]},
        {"start": [1.0, -2.0, 2.0], "end": [3.0, 4.0, 1.0]},
        {"start": [1.0, 2.0, 2.0], "end": [None, 4.0, 1.0], "duration": None},
        {"channel": [1, 0, 40_000]},
        {"text": ["a" * (2**20 + 1), "b", "c"]},
        {"text": [1, 2, 3]},
    ],
    ids=lambda columns: "-".join(columns),
)
def test_unusual_values_are_read_row_by_row(tmp_path: Path, unusual: dict[str, Any]) -> None:
    assert_same(tmp_path, USUAL | unusual, as_columns=False)


def test_only_the_batch_with_an_unusual_value_is_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.datasets.formats.parquet._BATCH_ROWS", 1)
    columns = {"id": ["a", "b", None], "path": ["/no/a.wav", "\\no\\b.wav", "/no/x/c.wav"], "duration": [1.0, 2.0, 3.0]}
    kinds, found = read(written(tmp_path, columns))
    assert kinds == [True, False, False]
    assert [each.id for each in found] == ["a", "b", "x/c.wav"]


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"id": ["a"], "tags": [["x"]]},
        {"id": ["a"], "day": [date(2026, 11, 28)]},
        {"id": ["a"], "big": pa.array([2**63], pa.uint64())},
    ],
    ids=["no id", "list", "date", "uint64"],
)
def test_lists_that_are_read_row_by_row(tmp_path: Path, columns: dict[str, Any]) -> None:
    dataset = written(tmp_path, {"path": ["/no/a.wav"], "duration": [1.0], **columns})
    assert not dataset.by_columns
    assert [each.duration_s for each in dataset.utterances()] == [1.0]


@pytest.mark.parametrize("ids", [[], [None]])
def test_a_list_without_a_usable_row_is_refused(tmp_path: Path, ids: list[None]) -> None:
    columns = {
        "id": pa.array(ids, pa.string()),
        "path": pa.array(ids, pa.string()),
        "duration": pa.array(ids, pa.float64()),
    }
    with pytest.raises(UserError, match=r"lists no recordings|no other row can be used"):
        read(written(tmp_path, columns))
