"""The usual names of columns, the same in every format, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lists import dataset, read, refused

from pipeline.datasets import manifest

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet")


def listed(folder: Path, format_: str, columns: dict[str, list[Any]]) -> manifest.Dataset:
    """The same list in any format; the values of CSV and TSV are text."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    name = f"list.{format_}"
    if format_ == "parquet":
        pq.write_table(pa.table(columns), folder / name)
        return manifest.Dataset(manifest.Options(path=str(folder / name)))
    if format_ == "jsonl":
        return dataset(folder, "".join(json.dumps(row) + "\n" for row in rows), name)
    if format_ == "json":
        return dataset(folder, json.dumps(rows, indent=1), name)
    delimiter = "," if format_ == "csv" else "\t"
    lines = [columns, *(map(str, row.values()) for row in rows)]
    return dataset(folder, "".join(delimiter.join(line) + "\n" for line in lines), name)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("audio_filepath", "text"),
        ("file_name", "transcription"),
        ("Path", "Text"),
        (" path", " text"),
        ("FileName", "Sentence"),
        ("wav_filename", "transcript"),
        ("Audio File", "Normalized-Text"),
        ("wav", "wrd"),
        ("#Path", "TRANSCR\u0130PT"),  # Turkish capitals
        ("\uff50\uff41\uff54\uff48", "\u200btext"),  # full width, and a character that cannot be seen
        ("audio.path", "raw.text"),
    ],
)
def test_the_same_names_are_usual_in_every_format(tmp_path: Path, format_: str, path: str, text: str) -> None:
    given = listed(tmp_path, format_, {path: ["a.wav"], text: ["one"], "ID": ["u1"], "room": ["hall"]})
    (utterance,) = given.utterances()
    assert (utterance.id, utterance.reference, utterance.columns) == ("u1", "one", {"room": "hall"})
    assert utterance.path == str(tmp_path / "a.wav")


@pytest.mark.parametrize("format_", ["json", "jsonl"])
def test_the_path_may_stand_in_an_object(tmp_path: Path, format_: str) -> None:
    audio = {"path": "a.wav", "bytes": None, "sampling_rate": 16000}
    (utterance,) = listed(tmp_path, format_, {"audio": [audio], "sentence": ["one"]}).utterances()
    assert (utterance.id, utterance.path, utterance.reference) == ("a.wav", str(tmp_path / "a.wav"), "one")


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet"])
def test_times_are_found_in_every_format(tmp_path: Path, format_: str) -> None:
    for start, end in (("start", "end"), ("Start_Time", "End_Time"), ("offset", "end_s"), ("begin", "End")):
        (utterance,) = listed(tmp_path, format_, {"path": ["a.wav"], start: [0.5], end: [1.5]}).utterances()
        assert utterance.id == "a.wav#500-1500"


@pytest.mark.parametrize(
    ("header", "reference", "own"),
    [
        ("path,text,Text", "1", {"Text": "2"}),
        ("path,Text,text", "2", {"Text": "1"}),
        ("path,transcription,raw_transcription", "1", {"raw_transcription": "2"}),
        ("path,raw_text,normalized_text", "2", {"raw_text": "1"}),
        ("path,text,transcript", "1", {"transcript": "2"}),
        ("path,Text,sentence", "2", {"Text": "1"}),
    ],
)
def test_the_more_usual_name_wins(tmp_path: Path, header: str, reference: str, own: dict[str, str]) -> None:
    (utterance,) = read(tmp_path, f"{header}\na.wav,1,2\n")
    assert utterance.reference == reference
    assert {name: str(value) for name, value in utterance.columns.items()} == own


def test_two_equally_usual_names_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, "path,sentence,transcript\na.wav,1,2\n")
    assert "columns transcript and sentence may both hold the text; set dataset.columns.text=transcript" in said


def test_a_given_name_is_found_without_case_or_by_number(tmp_path: Path) -> None:
    for given in ("Said It", "said_it", "2"):
        (utterance,) = read(tmp_path, "path,Said It\na.wav,x\n", columns={"text": given})
        assert utterance.reference == "x"


def test_the_lines_of_a_json_list_may_have_different_keys(tmp_path: Path) -> None:
    text = '{"file": "a.wav"}\n{"file": "b.wav", "Transcript": "x", "start": 1, "end": 2}\n'
    first, second = read(tmp_path, text, "l.jsonl")
    assert (first.reference, second.reference, second.id) == (None, "x", "b.wav#1000-2000")


VALUES = {
    "int64": [["7", "-2"], ["0", ""], [str(2**62), "1"]],
    "float64": [["1.5", "2"], ["1e-07", "-0.5"]],
    "string": [
        ["007", "1"], ["1.10", "2"], ["12e3", "1"], ["+1", "2"], ["nan", "1.5"], ["inf", "1.5"], ["-0", "1"],
        ["true", "false"], ["1_000", "1"], ["1.", "2"], [".5", "1"], [str(2**63), "1"], ["9007199254740993", "1.5"],
        [" 1", "2"], ["1e400", "1"], ["x", "1"], ["", ""],
    ],
}  # fmt: skip


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("type_", "values"), [(type_, values) for type_, many in VALUES.items() for values in many])
def test_texts_have_the_same_type_and_spelling_in_every_format(
    tmp_path: Path, format_: str, type_: str, values: list[str]
) -> None:
    given = listed(tmp_path, format_, {"path": ["a.wav", "b.wav"], "x": values})
    assert given.columns() == {"x": type_}
    got = [utterance.columns["x"] for utterance in given.utterances()]
    if type_ == "string":
        assert [value or "" for value in got] == values
    else:
        assert [None if value is None else float(value) for value in got] == [float(v) if v else None for v in values]


@pytest.mark.parametrize(("number", "type_"), [("1.10", "string"), ("12e3", "string"), ("1.5", "float64")])
def test_a_json_number_stays_as_written(tmp_path: Path, number: str, type_: str) -> None:
    given = dataset(tmp_path, f'{{"path": "a.wav", "x": {number}, "text": {number}}}\n', "l.jsonl")
    (utterance,) = given.utterances()
    assert given.columns() == {"x": type_}
    assert str(utterance.columns["x"]) == utterance.reference == number


def test_a_list_says_how_it_was_read(tmp_path: Path) -> None:
    given = dataset(tmp_path, "Wav,Text,room\na.wav,one,hall\n")
    assert given.reading(1) == "list.csv read as csv: path from 'Wav', reference from 'Text', own columns 'room'"
    given = dataset(tmp_path, "path,start,dur,duration\na.wav,1,2,3\n", columns={"duration": ""})
    assert (
        given.reading(0) == "list.csv read as csv: path from 'path', start from 'start', own columns 'dur', 'duration'"
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (
            "path,what_was_said,room\na.wav,one,hall\n",
            "'what_was_said' may hold them: set dataset.columns.text=what_was_",
        ),
        ("path,x,when\na.wav,good morning,2024-01-01 12:00\n", "'x' may hold them: set dataset.columns.text=x"),
        ("a.wav|7|good morning\n", "'column3' may hold them: set dataset.columns.text=column3"),
        ("path,it was said\na.wav,yes\n", "'it was said' may hold them: set 'dataset.columns.text=it was said'"),
        ("path,text,sentence\na.wav,,yes\n", "'sentence' may hold them: set dataset.columns.text=sentence"),
        ("path,room\na.wav,hall\n", None),
    ],
)
def test_a_column_that_looks_like_references_is_named(tmp_path: Path, text: str, hint: str | None) -> None:
    said = dataset(tmp_path, text).reading(0)
    assert (f"no references, but {hint}" in said) if hint else ("no references" not in said)


def test_references_in_a_nested_list_are_named(tmp_path: Path) -> None:
    entry = {"path": "a.wav", "segments": [{"start": 0, "end": 1, "text": "one"}]}
    said = dataset(tmp_path, json.dumps(entry) + "\n", "l.jsonl").reading(0)
    assert said.endswith(
        "no references, but the objects in 'segments' may hold them: write each as a line, with its path and times"
    )


def test_a_list_without_references_by_choice_gets_no_advice(tmp_path: Path) -> None:
    assert "no references" not in dataset(tmp_path, "path,text\na.wav,x\n", columns={"text": ""}).reading(0)
