"""A list that describes the recordings of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.datasets import folder
from pipeline.runtime.errors import UserError


def opened(root: Path, text: str, name: str = "meta.csv", *recordings: str) -> folder.Dataset:
    for recording in recordings or ("mon/1.wav", "tue/2.wav"):
        (root / "calls" / recording).parent.mkdir(parents=True, exist_ok=True)
        (root / "calls" / recording).touch()
    (root / name).write_text(text)
    return folder.Dataset(folder.Options(root=str(root / "calls"), metadata=str(root / name)))


def refused(dataset: folder.Dataset) -> str:
    with pytest.raises(UserError) as caught:
        list(dataset.utterances())
    return str(caught.value)


@pytest.mark.parametrize("key", ["path", "id", "file_name"])
@pytest.mark.parametrize("named", ["mon/1.wav", "mon/1", "./mon//1.wav", "1.wav", "1", " mon/1.wav ", "mon\\1.wav"])
def test_a_row_is_found_by_path_or_id(tmp_path: Path, key: str, named: str) -> None:
    dataset = opened(tmp_path, f"{key},Text,age,start\n{named},good morning,30,9\n")
    first, second = dataset.utterances()
    assert dataset.columns() == {"folder1": "string", "age": "int64", "start": "int64"}
    assert (first.id, first.reference) == ("mon/1.wav", "good morning")
    assert first.columns == {"folder1": "mon", "age": 30, "start": 9}
    assert (second.reference, second.columns) == (None, {"folder1": "tue"})
    assert dataset.reading(1) == (
        "folder-calls: own columns 'folder1', 'age', 'start'; meta.csv: 1 of 1 rows belong to a recording"
    )


def test_either_unicode_form_of_a_name_is_found(tmp_path: Path) -> None:
    *_, umlaut = opened(tmp_path, "path,age\nw\u00f6d/3.wav,30\n", "m.csv", "mon/1.wav", "wo\u0308d/3.wav").utterances()
    assert umlaut.columns["age"] == 30


def test_an_absolute_path_and_json_lines(tmp_path: Path) -> None:
    line = json.dumps({"audio_filepath": str(tmp_path / "calls" / "mon" / "1.wav"), "age": 30})
    first, _ = opened(tmp_path, line, "meta.jsonl").utterances()
    assert first.columns["age"] == 30


def test_the_list_wins_over_the_file_beside_the_recording(tmp_path: Path) -> None:
    dataset = opened(tmp_path, "path,text\nmon/1.wav,listed\ntue/2.wav,\n")
    for name in ("mon/1.txt", "tue/2.txt"):
        (tmp_path / "calls" / name).write_text("beside")
    assert [utterance.reference for utterance in dataset.utterances()] == ["listed", "beside"]


def test_what_belongs_to_no_or_to_two_recordings_is_refused(tmp_path: Path) -> None:
    assert "name recordings as 'x.wav', but their paths in dataset.root are like 'tue/2.wav'" in refused(
        opened(tmp_path, "path,age\nx.wav,30\n")
    )
    two = opened(tmp_path, "path,age\n1.wav,30\n", "two.csv", "mon/1.wav", "wed/1.wav")
    assert "'1.wav' matches both 'mon/1.wav' and 'wed/1.wav'; give the path relative to dataset.root" in refused(two)
    assert "read as rttm; give CSV, TSV, JSON lines or Parquet" in refused(opened(tmp_path, "", "meta.rttm"))
    with pytest.raises(UserError, match=r"dataset.metadata=/gone.csv: no such file; give a list"):
        folder.Dataset(folder.Options(root=str(tmp_path), metadata="/gone.csv"))


def test_wrong_and_repeated_rows_cost_no_other(tmp_path: Path) -> None:
    dataset = opened(tmp_path, "path,age,text\nmon/1.wav,30,a\nmon/1.wav,31,b\ntue/2.wav,32,c\n,33,d\nx,34\n")
    assert [(each.reference, each.columns.get("age")) for each in dataset.utterances()] == [(None, None), ("c", 32)]
    twice, wrong = dataset.warnings()
    assert twice.endswith("none is used: 1; the first: line 3: 'mon/1.wav'")
    assert wrong.startswith("rows of dataset.metadata that cannot be used: 2; the first: line 5: path=None: must be")


def test_a_path_may_be_relative_to_the_folder_of_the_list(tmp_path: Path) -> None:
    first, _ = opened(
        tmp_path, "file_name,age\n1.wav,30\n", "calls/mon/metadata.csv", "mon/1.wav", "tue/1.wav"
    ).utterances()
    assert first.columns == {"folder1": "mon", "age": 30}


def test_the_id_counts_where_the_path_is_of_elsewhere(tmp_path: Path) -> None:
    text = "id,path,age\nmon/1.wav,/gone/1.wav,30\n2,/gone/2.wav,31\nx,tue/3.wav,32\nx,tue/4.wav,33\n"
    names = ("mon/1.wav", "tue/3.wav", "tue/4.wav", "x.wav")
    ages = [row.columns.get("age") for row in opened(tmp_path, text, "meta.csv", *names).utterances()]
    assert ages == [30, 32, 33, None]
