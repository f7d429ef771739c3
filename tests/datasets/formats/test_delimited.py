"""CSV, TSV and Parquet lists, and the meaning of their columns."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lists import dataset, failed, read, refused
from running import DATA

from pipeline.datasets import manifest
from pipeline.datasets.formats.mapping import Columns
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.stages.build_manifest import build

FSDD = DATA / "fsdd"


def parquet(folder: Path, table: pa.Table, **options: Any) -> manifest.Dataset:
    path = folder / "list.parquet"
    pq.write_table(table, path, row_group_size=2)
    columns = Columns(**options.pop("columns", {}))
    return manifest.Dataset(manifest.Options(path=str(path), columns=columns, **options))


def test_every_column_of_a_csv(tmp_path: Path) -> None:
    text = (
        "path,start,end,text,channel,id,room,take,loud,level,code\r\n"
        'a.wav,0.5,1.25,"one, ""two""\r\nthree",2,u1,kitchen,3,True,-1.5e1,007\r\n'
        "b.wav,,,,,,,,,,\r\n"
        "c.wav,,2.5,,1,,,,,,\r\n"
    )
    given = dataset(tmp_path, text)
    assert given.columns() == {
        "room": "string", "take": "int64", "loud": "string", "level": "string", "code": "string"
    }  # fmt: skip
    first, second, third = given.utterances()
    assert first == Utterance(
        id="u1",
        path=str(tmp_path / "a.wav"),
        reference='one, "two"\r\nthree',
        start_s=0.5,
        end_s=1.25,
        columns={"room": "kitchen", "take": 3, "loud": "True", "level": "-1.5e1", "code": "007"},
        channel=2,
    )
    assert second == Utterance("b.wav", str(tmp_path / "b.wav"), columns=dict.fromkeys(given.columns()))
    assert (third.id, third.start_s, third.end_s, third.channel) == ("c.wav#0-2500#c1", 0.0, 2.5, 1)


@pytest.mark.parametrize(
    ("header", "id_"),
    [("start,end", "a.wav#500-1500"), ("offset,duration", "a.wav#500-2000"), ("start_s,other", "a.wav#500-")],
)
def test_a_segment_is_start_and_end_or_offset_and_duration(tmp_path: Path, header: str, id_: str) -> None:
    (utterance,) = read(tmp_path, f"audio_filepath,{header}\na.wav,0.5,1.5\n")
    assert utterance.id == id_


def test_a_duration_alone_makes_no_segment(tmp_path: Path) -> None:
    (utterance,) = read(tmp_path, "path,duration\na.wav,3.5\n")
    assert (utterance.id, utterance.start_s, utterance.end_s) == ("a.wav", None, None)


def test_columns_mean_what_a_person_says(tmp_path: Path) -> None:
    text = "wav path;von;bis;Satz;text;channel\na.wav;1;2;guten Tag;x;mono\n"
    columns = {"path": "wav path", "start": "von", "end": "bis", "text": "Satz", "channel": ""}
    given = dataset(tmp_path, text, columns=columns)
    (utterance,) = given.utterances()
    assert (utterance.id, utterance.reference, utterance.channel) == ("a.wav#1000-2000", "guten Tag", None)
    assert utterance.columns == {
        "text": "x",
        "channel": "mono",
    }


def test_keys_of_json_lines_mean_what_a_person_says(tmp_path: Path) -> None:
    line = json.dumps({"wav": "a.wav", "from": 1, "to": 2.5, "side": 2, "text": "x", "transcript": "y"}) + "\n"
    columns = {"path": "wav", "start": "from", "end": "to", "channel": "side", "text": "transcript"}
    (utterance,) = read(tmp_path, line, "list.jsonl", columns=columns)
    assert (utterance.id, utterance.reference, utterance.channel) == ("a.wav#1000-2500#c2", "y", 2)
    assert utterance.columns == {"text": "x"}
    said = refused(tmp_path, line, "list.jsonl", columns=columns | {"text": "transcritp"})
    assert said.startswith("dataset.columns.text=transcritp: ")
    assert "has no such column; its columns are 'wav', 'from'" in said


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_of_the_first_line(tmp_path: Path, delimiter: str) -> None:
    lines = [["path", "text", "note"], ["a.wav", "yes", 'a "b" c']]
    text = "".join(delimiter.join(cells) + "\n" for cells in lines)
    (utterance,) = read(tmp_path, text)
    assert (utterance.reference, utterance.columns) == ("yes", {"note": 'a "b" c'})


def test_a_delimiter_can_be_said(tmp_path: Path) -> None:
    (utterance,) = read(tmp_path, "path;a,b,c\nx.wav;1,2,3\n", delimiter="semicolon")
    assert utterance.columns == {"a,b,c": "1,2,3"}
    assert "dataset.delimiter=;: not allowed; there are auto, comma" in refused(tmp_path, "", delimiter=";")


def test_quotes_of_a_tsv_are_text_unless_said_otherwise(tmp_path: Path) -> None:
    text = 'path\ttext\na.wav\t"she said\nb.wav\t"no"\n'
    assert [row.reference for row in read(tmp_path, text, "l.tsv")] == ['"she said', '"no"']
    (utterance,) = read(tmp_path, 'path\ttext\na.wav\t"one\ttwo"\n', "l.tsv", quotes=True)
    assert utterance.reference == "one\ttwo"


@pytest.mark.parametrize("name", ["l.csv", "l.csv.gz", "l"])
def test_byte_order_mark_gzip_and_no_ending_are_fine(tmp_path: Path, name: str) -> None:
    text = b"\xef\xbb\xbfpath,text\n\na.wav,x\n"
    (utterance,) = read(tmp_path, gzip.compress(text) if name.endswith("gz") else text, name)
    assert (utterance.id, utterance.reference) == ("a.wav", "x")


def test_a_reference_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    (utterance,) = read(tmp_path, f"path,text\na.wav,{'word ' * 100_000}\n")
    assert len(utterance.reference or "") == 499_999


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,text\na.wav,x,y\n", "line 2: 3 values instead of 2"),
        ('path,text\na.wav,"x\n\n', "line 2: cannot be read as delimited text"),
        ('path,text\na.wav,"x"y\n', "set dataset.quotes=false"),
        ("path,text\r\na.wav,x\rb.wav,y\n", "line 2: cannot be read"),
        (
            'path,text\n"a.wav","1\n2"\nb.wav,\xff\n'.encode("latin-1"),
            "line 4: not UTF-8 (byte 0xff after 6 bytes)",
        ),
        (
            "path\n".encode("utf-16-le"),
            "line 1: has NUL characters; save the list as UTF-8, or set",
        ),
        ('path,text\na.wav,"x\nb.wav,"y\nc.wav,z\n', "line 2: cannot be read as delimited text"),
        ("path,start\na.wav,nan\n", "line 2: start='nan': must be a number of seconds"),
        ("path,start\na.wav,inf\n", "start='inf': must be a number of seconds"),
        ("path,start\na.wav,1e999\n", "start=inf: must be a number of seconds"),
        ("path,start\na.wav,-1\n", "start=-1: must not be negative"),
        (
            'path,start\na.wav,"3,5"\n',
            "1e+08 at most; write the decimal comma as a point, 3.5",
        ),
        ("path,end\na.wav,-0.5\n", "end=-0.5: must not be negative"),
        ("path,channel\na.wav,0\n", "channel=0: must be a channel number, counted from 1"),
        ("path,channel\na.wav,left\n", "channel='left': must be a channel"),
        ("path,text\n,x\n", "line 2: path=None: must be a path"),
        ("path\nhttps://me:hunter2@host/a.wav\n", "line 2: path: a URL"),
        ("wave,text\na.wav,x\n", "its columns are 'wave', 'text'; set dataset.columns.path=..."),
        ("path,file\na.wav,x\n", "columns path and file may both hold the path; set dataset.columns.path=path"),
        ("path,x, x\na.wav,1,2\n", "column 'x' appears twice"),
        ("wave,text\na.wav,x\n", "or dataset.header=false if the first line is a recording"),
        ("", "lists no recordings"),
        ("path,text\n", "lists no recordings"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(tmp_path: Path, text: str | bytes, reason: str) -> None:
    said = refused(tmp_path, text)
    assert said.startswith(f"dataset.path={tmp_path / 'list.csv'}: ")
    assert reason in said
    assert "hunter2" not in said


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    said = refused(tmp_path, "path,txt\na.wav,x\n", columns={"text": "text"})
    assert said.startswith("dataset.columns.text=text: ")
    assert "its columns are 'path', 'txt'" in said


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("hello\n")
    for options, reason in (
        ({"format": "xml"}, "dataset.format=xml: not allowed; there are auto, jsonl, csv"),
        ({"format": "kaldi"}, "not a folder"),
        ({"audio_root": "/nope"}, "dataset.audio_root=/nope: no such folder"),
        ({"extensions": []}, r"dataset.extensions=\[\]"),
        ({}, "the format cannot be recognised; set dataset.format="),
        ({"format": "rttm", "columns": Columns(path="x")}, "dataset.columns.path=x: the format rttm has fixed names"),
    ):
        with pytest.raises(UserError, match=reason):
            manifest.Dataset(manifest.Options(path=str(tmp_path / "l"), **options)).columns()


def test_a_wrong_guess_can_be_corrected(tmp_path: Path) -> None:
    (utterance,) = read(tmp_path, "path,text\na.wav,x\n", "list.json", format="csv")
    assert utterance.reference == "x"


def test_relative_paths_can_have_another_root(tmp_path: Path) -> None:
    inside = FSDD / "7_theo_1.wav"
    first, second = read(tmp_path, f"path\n7_theo_1.wav\n{inside}\n", audio_root=str(FSDD))
    assert (first.id, first.path) == ("7_theo_1.wav", str(inside))
    assert (second.id, second.path) == ("7_theo_1.wav", str(inside))


def test_the_columns_of_a_parquet_file_keep_their_types(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    columns = {
        "path": pa.array(["a.wav", "b.wav", "c.wav"]),
        "start": pa.array([decimal.Decimal("0.5"), None, None], pa.decimal128(5, 2)),
        "end": pa.array([1.5, None, None], pa.float32()),
        "small": pa.array([1, None, 3], pa.int8()),
        "count": pa.array([1, 2**32 - 1, None], pa.uint32()),
        "big": pa.array([2**63, None, 1], pa.uint64()),
        "flag": pa.array([True, None, False]),
        "kind": pa.array(["x", None, "x"]).dictionary_encode(),
        "day": pa.array([day, None, day]),
        "when": pa.array([datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), None, None]),
        "tags": pa.array([["a", "ü"], None, []]),
        "who": pa.array([{"name": "k", "age": 3}, None, None]),
        "nothing": pa.array([None, None, None], pa.int32()),
    }
    given = parquet(tmp_path, pa.table(columns))
    assert given.columns() == {
        "small": "int16", "count": "int64", "big": "string", "flag": "bool", "kind": "string", "day": "string",
        "when": "string", "tags": "string", "who": "string", "nothing": "int32",
    }  # fmt: skip
    first, second, _ = given.utterances()
    assert (first.id, second.id) == ("a.wav#500-1500", "b.wav")
    assert first.columns == {
        "small": 1, "count": 1, "big": str(2**63), "flag": True, "kind": "x", "day": "2024-02-29",
        "when": "2024-02-29T12:00:00+00:00", "tags": '["a", "ü"]', "who": '{"age": 3, "name": "k"}', "nothing": None,
    }  # fmt: skip
    assert {name for name, value in second.columns.items() if value is not None} == {"count"}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"path": [None, None]}, "row 1: path=None: must be a path"),
        ({"path": ["a.wav"], "start": [float("nan")]}, "row 1: start=nan: must be a number of seconds"),
        ({"path": [1]}, "row 1: path=1: must be a path"),
        ({"audio": [b"RIFF"], "wav": [b"RIFF"]}, "columns audio and wav may both hold the path"),
        ({"path": ["a.wav"], "data": [{"bytes": b"RIFF"}]}, "column 'data' holds bytes"),
        ({"x": [1]}, "its columns are 'x'"),
        ({"path": pa.array([], pa.string())}, "lists no recordings"),
    ],
)
def test_a_wrong_parquet_list_is_refused(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        list(parquet(tmp_path, pa.table(columns)).utterances())
    assert reason in str(caught.value)


def test_a_damaged_parquet_file_is_refused_or_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.wav"] * 9, "x": range(9)}), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for cut in (4, 8, len(whole) // 2, len(whole) - 1):
        assert "not a readable Parquet file" in refused(tmp_path, whole[:cut], "list.parquet")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_list_becomes_a_manifest(tmp_path: Path, kind: str) -> None:
    names = ["0_theo_0.wav", "1_theo_1.wav", "gone.wav"]
    if kind == "parquet":
        given = parquet(tmp_path, pa.table({"path": names, "text": ["zero", "one", None], "take": [0, 1, 2]}))
        path = given.path
    else:
        delimiter = "," if kind == "csv" else "\t"
        rows = [["path", "text", "take"], [names[0], "zero", "0"], [names[1], "one", "1"], [names[2], "", "2"]]
        text = "".join(delimiter.join(row) + "\n" for row in rows)
        path = dataset(tmp_path, text, f"l.{kind}").path
    table = build(manifest.Dataset(manifest.Options(path=path, audio_root=str(FSDD))), shard_hours=1).table
    assert table["id"].to_pylist() == names
    assert table["reference"].to_pylist() == ["zero", "one", None]
    assert table["take"].to_pylist() == [0, 1, 2]
    assert [duration is None for duration in table["duration_s"].to_pylist()] == [False, False, True]


# --- whether the first line names the columns

FLEURS = "1\t10001.wav\tOne, two.\tone two\tFEMALE\n2\t10002.wav\tThree.\tthree\tMALE\n"


def test_a_list_without_a_header_loses_no_record(tmp_path: Path) -> None:
    given = dataset(tmp_path, FLEURS, "l.tsv", columns={"text": "4", "id": "1"})
    first, second = given.utterances()
    assert (first.id, first.reference, second.id, second.reference) == ("1", "one two", "2", "three")
    assert first.columns == {"column3": "One, two.", "column5": "FEMALE"}
    assert [row.id for row in read(tmp_path, FLEURS, "l.tsv")] == ["10001.wav", "10002.wav"]


def test_a_value_of_the_first_record_is_not_the_name_of_a_column(tmp_path: Path) -> None:
    said = refused(tmp_path, FLEURS, "l.tsv", columns={"path": "10001.wav", "text": "one two"})
    assert "has no header, so it has no such column; its columns are 'column1', 'column2'" in said


@pytest.mark.parametrize(
    ("text", "options", "ids"),
    [
        ("a.wav\nb.wav\n", {}, ["a.wav", "b.wav"]),
        ("a.WAV|x\nb.WAV|y\n", {}, ["a.WAV", "b.WAV"]),
        ("one|two\nthree|four\n", {"header": "false", "columns": {"path": "2"}}, ["two", "four"]),
        ("a.wav|x\nb.wav|y\n", {"header": "true", "columns": {"path": "1"}}, ["b.wav"]),
        ("path,text\na.wav,x\n", {"header": "false", "columns": {"path": "1"}}, ["path", "a.wav"]),
        ("path,text\na.wav,x\n", {"columns": {"path": "1", "text": "2"}}, ["a.wav"]),
    ],
)
def test_whether_the_first_line_is_a_record(tmp_path: Path, text: str, options: dict[str, Any], ids: list[str]) -> None:
    assert [row.id for row in read(tmp_path, text, "l.txt", **options)] == ids


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("utt1|hello\n", {"columns": {"path": "1"}}, "line 1: 'utt1', 'hello' may name the columns, or be a recording"),
        ("a.wav|b.wav\n", {}, "column1 and column2 both hold the path of the recording; set dataset.columns.path= to"),
        ("a|b\n", {"header": "false"}, "no column seems to hold the path of the recording"),
        ("a.wav|b\n", {"columns": {"text": "3"}}, "dataset.columns.text=3: "),
        ("a.wav|b\n", {"header": "maybe"}, "dataset.header=maybe: not allowed; there are auto, true, false"),
    ],
)
def test_a_list_without_a_header_is_refused_where_it_is_unclear(
    tmp_path: Path, text: str, options: dict[str, Any], reason: str
) -> None:
    assert reason in refused(tmp_path, text, **options)


def test_pipes_separate_although_the_text_has_more_commas(tmp_path: Path) -> None:
    (utterance,) = read(tmp_path, "a.wav|one, two, three, four\n", columns={"text": "2"})
    assert utterance.reference == "one, two, three, four"


def test_blanks_after_the_delimiters_are_no_part_of_values(tmp_path: Path) -> None:
    (utterance,) = read(tmp_path, 'text, path, room\none, a.wav, "a, b"\n')
    assert (utterance.id, utterance.reference, utterance.columns) == ("a.wav", "one", {"room": "a, b"})


@pytest.mark.parametrize("text", ["path;text\ra.wav;one\rb.wav;two\r", "\n \r\npath;text\na.wav;one\n\nb.wav;two"])
def test_blank_lines_and_old_line_ends_are_read(tmp_path: Path, text: str) -> None:
    assert [(row.id, row.reference) for row in read(tmp_path, text)] == [("a.wav", "one"), ("b.wav", "two")]


def test_a_column_without_a_name_has_its_number(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ",path,text,,\n0,a.wav,one,,\n")
    assert (row.reference, row.columns) == ("one", {"column1": 0, "column4": None, "column5": None})


def test_blanks_around_a_path_do_not_hide_the_recording(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (row,) = read(tmp_path, "path\ttext\n a.wav \tone\n", "l.tsv")
    assert (row.path, row.reference) == (str(tmp_path / "a.wav"), "one")


def test_the_line_that_excel_writes_for_the_delimiter(tmp_path: Path) -> None:
    assert read(tmp_path, '"sep=;"\npath;text\na.wav;x\n')[0].reference == "x"
    (utterance,) = read(tmp_path, "sep=;\r\npath;text\r\na,b.wav;x\r\n")
    assert (utterance.id, utterance.reference) == ("a,b.wav", "x")
    assert "line 4: 1 values instead of 2" in failed(tmp_path, "sep=;\npath;text\na;x\nb\n")
