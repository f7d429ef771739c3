"""A list that is read as columns gives the same utterances as one that is read row by row."""

from __future__ import annotations

from dataclasses import fields, replace
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
    kinds = kinds_of(written(folder, columns, **options), **options)
    assert kinds == [as_columns] * len(kinds)


def kinds_of(dataset: manifest.Dataset, **options: Any) -> list[bool]:
    """Whether each block is read as columns, after a comparison with the list that is read row by row."""
    kinds, found = read(dataset)
    plain = manifest.Dataset(manifest.Options(path=dataset.path, columns=dataset._options.columns, **options))
    plain._options.read_headers = False
    plain.__dict__["_columns"] = None  # row by row
    types = plain.columns()
    assert dataset.columns() == types
    found, rows = (  # what a row lacks is null in the manifest
        [replace(each, columns={name: each.columns.get(name) for name in types}) for each in some]
        for some in (found, plain.utterances())
    )
    for field in fields(Utterance):
        assert [getattr(each, field.name) for each in found] == [getattr(each, field.name) for each in rows], field.name
    assert dataset.warnings() == plain.warnings()
    assert dataset.reading(0) == plain.reading(0)
    return kinds


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
    texts = {name: [None if each is None else f"{each:g}" for each in values] for name, values in times.items()}
    assert_same(tmp_path, USUAL | texts, as_columns=True)


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
        {"duration": ["1.5", " 2.5", "3.5"]},
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


CSV_USUAL = [
    "id,path,duration,text,speaker,score,mic,none",
    'a,/no/a.wav,1.5,"hello, ""you""",007,1.5,1,',
    'b é,sub/b.wav,2,"",1089,,"2",',
    "c,./c d.wav,70.25, three ,1220,1e5,3,",
]


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        (CSV_USUAL, [True]),
        ([line.replace("lo, ", "lo ").replace(",", "\t").replace('"', "") for line in CSV_USUAL], [True]),
        ([f"{line}\r" for line in CSV_USUAL], [True]),
        (["sep=;", *(line.replace(",", ";") for line in CSV_USUAL)], [True]),
        ([*CSV_USUAL, "d,d.wav,-1,wrong,x,x,x,x"], [True, False]),
        ([*CSV_USUAL, "d,d.wav,1,too few"], [True, False]),
        ([*CSV_USUAL, "", ",,,,,,,", "d,d.wav,1,four,7,1.5,4,"], [True, False]),
        ([*CSV_USUAL[:3], 'c,c.wav,3,"over', "two blocks, and", 'more",1,1,1,', *CSV_USUAL[3:]], [False, True]),
        ([*CSV_USUAL, 'd,d.wav,1,a "quote" inside,7,1.5,4,'], [True, False]),
        ([*CSV_USUAL, 'd,d.wav,1,"a quote" ,7,1.5,4,'], [True, False]),
        ([*CSV_USUAL, "d,d.wav,1,carriage\rreturn,7,1.5,4,"], [True, False]),
        ([*CSV_USUAL, "d,d.wav,1,nul \0,7,1.5,4,"], [True, False]),
        ([*CSV_USUAL, "d,d.wav,+1,sign,7,1.5,4,", "e,e.wav,,none,7,1.5,4,"], [True, False]),
    ],
)
def test_a_delimited_list_is_read_as_columns_where_it_is_regular(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], kinds: list[bool]
) -> None:
    monkeypatch.setattr("pipeline.datasets.formats.delimited._BLOCK_LINES", 3)
    path = tmp_path / ("list.tsv" if "\t" in lines[0] else "list.csv")
    path.write_bytes("\n".join([*lines, ""]).encode())
    assert kinds_of(manifest.Dataset(manifest.Options(path=str(path), read_headers=False))) == kinds


def test_a_delimited_list_without_a_header_is_read_as_columns(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("a,a.wav,1.5\nb,b.wav,2.5\n")
    columns = Columns(id="1", path="2", duration="3")
    options = manifest.Options(path=str(path), read_headers=False, header="false", columns=columns)
    assert kinds_of(manifest.Dataset(options), header="false") == [True]


JSON_USUAL = [
    '{"id": "a", "path": "/no/a.wav", "duration": 1.5, "text": " hello ", "n": 1, "spelled": 1.10, "clean": true}',
    '{"id": 7, "path": "sub/b.wav", "duration": 2, "text": 12.50, "n": -3, "score": 0.1, "clean": null, "none": null}',
    '{"path": "./c d.wav", "duration": "70.25", "id": "c", "n": null, "spelled": 2.5, "score": 1e-05}',
]


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        (JSON_USUAL, [True]),
        ([*JSON_USUAL, '{"id": "d", "path": "d.wav", "duration": 1, "clean": "yes", "n": 0.5}'], [True, True]),
        ([*JSON_USUAL, '{"id": "d", "path": "d.wav", "duration": -1, "n": "wrong"}'], [True, False]),
        ([*JSON_USUAL, '{"id": "d", "path": "d.wav", "duration": 1, "n": NaN}'], [True, False]),
        ([*JSON_USUAL, '{"id": "d", "path": "d.wav", "duration": 1, "score": Infinity}'], [True, False]),
        ([*JSON_USUAL, '{"id": "d", "path": "d.wav", "duration": 1, "n": 123456789012345678901}'], [True, True]),
        ([*JSON_USUAL, '{"id": "d", "path": "d.wav", "duration": 1, "n": [1, {"a": 2}]}'], [True, False]),
        ([*JSON_USUAL, '{"id": "d", "path": "d.wav", "duration": 1, "word": "\\ud800"}'], [True, False]),
        ([*JSON_USUAL, '{"id": "d", "path": 5, "duration": 1}', "not JSON", "[1]"], [True, False]),
        ([*JSON_USUAL, "", '{"id": true, "path": "d.wav", "duration": 1}'], [True, False]),
        ([*JSON_USUAL, '{"id": "d", "path": {"path": "d.wav"}, "duration": 1, "text": true}'], [True, False]),
    ],
)
def test_json_lines_are_read_as_columns_where_they_are_regular(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], kinds: list[bool]
) -> None:
    monkeypatch.setattr("pipeline.datasets.formats.jsonl._BLOCK_ROWS", 3)
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(lines))
    assert kinds_of(manifest.Dataset(manifest.Options(path=str(path), read_headers=False))) == kinds
