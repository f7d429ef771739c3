"""Right and wrong lists of recordings in JSON lines, and the ids of their utterances."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.waveforms import read_waveform
from pipeline.datasets import Connector, manifest
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.stages.build_manifest import build as build_manifest
from pipeline.storage import tables

LIBRIVOX = Path(__file__).parents[1] / "data" / "librivox"
SPEECH = "sense_and_sensibility_01_austen_64kb-0880.wav"


def listed(folder: Path, *entries: dict[str, Any], name: str = "list.jsonl") -> manifest.Dataset:
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / name).write_text(text, encoding="utf-8")
    return manifest.Dataset(manifest.Options(path=str(folder / name)))


def one(folder: Path, **entry: Any) -> Utterance:
    (utterance,) = listed(folder, {"audio_filepath": "a.wav"} | entry).utterances()
    return utterance


def test_a_nemo_list_of_real_recordings(tmp_path: Path) -> None:
    shutil.copy(LIBRIVOX / SPEECH, tmp_path / "a.wav")
    dataset: Connector = listed(
        tmp_path,
        {"audio_filepath": "a.wav", "duration": 2.99, "text": " he was not an ill disposed young man "},
        {"audio_filepath": "./a.wav", "offset": 0.5, "duration": 1.25, "speaker": "karen"},
        {"audio_filepath": "a.wav", "offset": 1},
    )
    whole, segment, rest = dataset.utterances()
    assert (dataset.run_name, dataset.notice) == ("manifest", None)
    assert dataset.columns() == {"speaker": "string"}
    assert whole.id == "a.wav"
    assert whole.reference == "he was not an ill disposed young man"
    assert (whole.start_s, whole.end_s) == (None, None)
    assert whole.columns == {}
    assert (segment.id, segment.start_s, segment.end_s) == ("a.wav#500-1750", 0.5, 1.75)
    assert segment.columns == {"speaker": "karen"}
    assert (rest.id, rest.start_s, rest.end_s) == ("a.wav#1000-", 1.0, None)
    samples, rate = read_waveform(segment.path, start_s=segment.start_s, end_s=segment.end_s)
    assert len(samples) == 1.25 * rate


def test_the_order_is_the_lists(tmp_path: Path) -> None:
    dataset = listed(tmp_path, *({"audio_filepath": name} for name in ("b.wav", "a.wav", "c.wav")))
    assert [utterance.id for utterance in dataset.utterances()] == ["b.wav", "a.wav", "c.wav"]


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    dataset = listed(tmp_path / "lists", {"audio_filepath": "../calls//x.wav"}, {"audio_filepath": "y.wav"})
    first, second = dataset.utterances()
    assert first.id == "../calls/x.wav"
    assert os.path.realpath(first.path) == str(tmp_path / "calls" / "x.wav")
    assert (second.id, second.path) == ("y.wav", str(tmp_path / "lists" / "y.wav"))


def test_ids_do_not_depend_on_where_everything_lies(tmp_path: Path) -> None:
    per_machine = []
    for machine in ("one", "another/much deeper"):
        base = tmp_path / machine
        (base / "lists").mkdir(parents=True)
        paths = ["lists/in.wav", "calls/2024/a.wav", "calls/2025/b.wav", "calls/2025/b.wav"]
        entries: list[dict[str, Any]] = [{"audio_filepath": str(base / path)} for path in paths]
        entries[3]["offset"] = 2
        dataset = listed(base / "lists", *entries)
        per_machine.append([utterance.id for utterance in dataset.utterances()])
    assert per_machine[0] == per_machine[1] == ["in.wav", "2024/a.wav", "2025/b.wav", "2025/b.wav#2000-"]


def test_the_lists_own_id_stands(tmp_path: Path) -> None:
    assert one(tmp_path, id="call-7", offset=1, duration=2).id == "call-7"
    assert one(tmp_path, id=7).id == "7"
    assert one(tmp_path, id=None).id == "a.wav"


@pytest.mark.parametrize(
    ("values", "arrow_type", "expected"),
    [
        ([True, False], "bool", [True, False]),
        ([1, 2], "int64", [1, 2]),
        ([1, 2.5], "float64", [1.0, 2.5]),
        ([1.0, None], "float64", [1.0, None]),
        ([None, None], "string", [None, None]),
        (["a", None], "string", ["a", None]),
        ([1, "a"], "string", ["1", "a"]),
        ([1, True], "string", ["1", "true"]),
        ([2**70, 1], "string", [str(2**70), "1"]),
        ([{"b": 1, "a": "ü"}, [1, 2]], "string", ['{"a": "ü", "b": 1}', "[1, 2]"]),
        (["\ud800", "x"], "string", ["\ufffd", "x"]),
    ],
)
def test_column_types_are_inferred_from_all_lines(
    tmp_path: Path, values: list[Any], arrow_type: str, expected: list[Any]
) -> None:
    dataset = listed(tmp_path, *({"audio_filepath": f"{i}.wav", "x": value} for i, value in enumerate(values)))
    assert dataset.columns() == {"x": arrow_type}
    got = [utterance.columns["x"] for utterance in dataset.utterances()]
    assert got == expected
    assert [type(value) for value in got] == [type(value) for value in expected]


def test_a_missing_key_is_null(tmp_path: Path) -> None:
    dataset = listed(tmp_path, {"audio_filepath": "a.wav", "x": 1}, {"audio_filepath": "b.wav"})
    assert [utterance.columns.get("x") for utterance in dataset.utterances()] == [1, None]


def test_taken_names_get_a_prefix(tmp_path: Path) -> None:
    utterance = one(tmp_path, path="p", wer=0.5, meta_wer="own", **{"": "nameless"})
    assert utterance.columns == {"path": "p", "wer": 0.5, "meta_wer": "own", "": "nameless"}
    dataset = manifest.Dataset(manifest.Options(path=str(tmp_path / "list.jsonl")))
    table = build_manifest(dataset, 1.0).table
    assert {field.name: str(field.type) for field in tables.own_columns(table.schema)} == {
        "meta_": "string", "meta_wer": "string", "meta_path": "string", "meta_meta_wer": "double"
    }  # fmt: skip
    (row,) = table.select(["meta_path", "meta_meta_wer", "meta_wer", "meta_"]).to_pylist()
    assert row == {"meta_path": "p", "meta_meta_wer": 0.5, "meta_wer": "own", "meta_": "nameless"}


@pytest.mark.parametrize("name", ["calls.jsonl.gz", "calls.gz", "calls"])
def test_gzipped_lists_are_read_whatever_their_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b'{"audio_filepath": "a.wav"}\n'))
    dataset = manifest.Dataset(manifest.Options(path=str(tmp_path / name)))
    assert [utterance.id for utterance in dataset.utterances()] == ["a.wav"]


def test_byte_order_mark_blank_lines_and_crlf_are_fine(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_bytes(b'\xef\xbb\xbf{"audio_filepath": "a.wav"}\r\n\r\n  \n{"audio_filepath": "b.wav"}')
    dataset = manifest.Dataset(manifest.Options(path=str(tmp_path / "l.json")))
    assert [utterance.id for utterance in dataset.utterances()] == ["a.wav", "b.wav"]


def test_escaped_bytes_of_a_name_lead_to_the_file(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    shutil.copy(LIBRIVOX / SPEECH, os.fsdecode(raw))
    utterance = one(tmp_path, audio_filepath="caf%E9.wav")
    assert utterance.id == "caf%E9.wav"
    assert os.fsencode(utterance.path) == raw


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", r"not JSON \("),
        (b"[1]", "not an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{}", "audio_filepath is missing"),
        (b'{"audio_filepath": 7}', "audio_filepath=7: must be a path"),
        (b'{"audio_filepath": ""}', "audio_filepath='': must be a path"),
        (b'{"audio_filepath": "a", "offset": true}', "offset=True: must be a number"),
        (b'{"audio_filepath": "a", "offset": NaN}', "offset=nan: must be a number"),
        (b'{"audio_filepath": "a", "offset": 1e999}', "offset=inf: must be a number"),
        (b'{"audio_filepath": "a", "offset": -1}', "offset=-1: must not be negative"),
        (b'{"audio_filepath": "a", "offset": 1e305}', r"offset=1e\+305: must be a number of seconds, 1e\+08 at most"),
        (b'{"audio_filepath": "a", "offset": 0, "duration": 1e308}', r"duration=1e\+308: must be a number"),
        (b'{"audio_filepath": "a\\u0000b"}', "must be a path"),
        (b'{"audio_filepath": "a", "id": true}', "id=True: must be a string or a number"),
    ],
)
def test_a_wrong_line_fails_with_its_number_and_costs_no_other(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "l.json").write_bytes(b'{"audio_filepath": "a.wav"}\n\n' + line + b"\n")
    good, bad = manifest.Dataset(manifest.Options(path=str(tmp_path / "l.json"))).utterances()
    assert (good.id, good.error) == ("a.wav", None)
    assert bad.id in ("line 3", "a#line 3")
    assert re.search(rf"dataset\.path=.*l\.json: line 3: .*{reason}", str(bad.error))
    assert "\n" not in str(bad.error)


def test_what_a_row_can_do_without_is_null_and_counted(tmp_path: Path) -> None:
    long = "x" * (2**20 + 1)
    dataset = listed(
        tmp_path,
        {"audio_filepath": "a.wav", "text": ["b"], "age": 7},
        {"audio_filepath": "b.wav", "text": long, "age": float("nan")},
        {"audio_filepath": "c.wav", "text": "c", "age": 8, "note": long},
        {"audio_filepath": "d.wav", "text": float("nan"), "duration": "soon"},
    )
    assert dataset.columns() == {"age": "int64", "note": "string"}
    rows = list(dataset.utterances())
    assert [row.error for row in rows] == [None] * 4
    assert [row.reference for row in rows] == [None, None, "c", None]
    assert [row.columns.get("age") for row in rows] == [7, None, 8, None]
    assert rows[2].columns.get("note") is None
    references, values = dataset.warnings()
    assert references == (
        "references that cannot be used, so that the utterance has none: 2; the first: line 1: reference=['b']: "
        "must be a string"
    )
    assert values.startswith("values of column 'note' that cannot be used, and are null: 1; the first: line 3: 'xxx")
    assert len(values) < 250


def test_numbers_may_be_written_as_texts(tmp_path: Path) -> None:
    row = one(tmp_path, offset="1", duration=" 0.50", channel="2", id=1.0)
    assert (row.id, row.start_s, row.end_s, row.channel) == ("1.0", 1.0, 1.5, 2)
    assert one(tmp_path, offset="0", duration="", id="").id == "a.wav#0-"
    assert one(tmp_path, channel=2.0).channel == 2


def test_a_failed_row_is_named_by_its_id_its_path_or_its_line(tmp_path: Path) -> None:
    entries = [{"audio_filepath": "a.wav"}, {"audio_filepath": "a.wav", "offset": "x"}, {"offset": 1}]
    dataset = listed(tmp_path, *entries, {"audio_filepath": "https://me:hunter2@host/a.wav", "id": "u"})
    rows = list(dataset.utterances())
    assert [row.id for row in rows] == ["a.wav", "a.wav#line 2", "line 3", "u"]
    assert [row.path for row in rows] == [str(tmp_path / "a.wav")] * 2 + ["", ""]
    assert "hunter2" not in str(rows)
    assert dataset.warnings() == [
        "rows that cannot be used, each of them a failure: 3; the first: line 2: offset='x': must be a number of "
        "seconds, 1e+08 at most"
    ]


def test_a_path_in_another_spelling_is_read_where_only_that_exists(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    for name in ("calls/a.wav", unicodedata.normalize("NFD", "calls/\u00e4.wav"), "calls/b\\c.wav"):
        (tmp_path / name).touch()
    names = ["calls\\a.wav", "calls/\u00e4.wav", "$data_root/calls/a.wav", "calls/b\\c.wav", "gone\\a.wav"]
    dataset = listed(tmp_path, *({"audio_filepath": name, "id": str(at)} for at, name in enumerate(names)))
    found = [os.path.relpath(row.path, tmp_path) for row in dataset.utterances()]
    assert found == ["calls/a.wav", "calls/a\u0308.wav", "calls/a.wav", "calls/b\\c.wav", "gone\\a.wav"]
    (said,) = dataset.warnings()
    assert said.endswith("which was read: 3; the first: line 1: 'calls\\\\a.wav' as 'calls/a.wav'")
    assert one(tmp_path, audio_filepath="calls\\a.wav").id == "calls/a.wav"


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "utf-8-sig"])
def test_a_list_may_have_another_encoding(tmp_path: Path, format_: str, encoding: str) -> None:
    text = "path,text\na.wav,früh\n" if format_ == "csv" else '{"path": "a.wav", "text": "früh"}\n'
    for packed in (bytes, gzip.compress):
        (tmp_path / f"l.{format_}").write_bytes(packed(text.encode(encoding)))
        named = None if encoding in ("utf-16", "utf-8-sig") else encoding
        options = manifest.Options(path=str(tmp_path / f"l.{format_}"), encoding=named)
        (row,) = manifest.Dataset(options).utterances()
        assert (row.id, row.reference) == ("a.wav", "früh")


def test_a_list_in_an_unknown_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("path,text\na.wav,früh\n".encode("cp1252"))
    for encoding, reason in (
        (None, r"line 2: not UTF-8 \(byte 0xfc after 8 bytes\); save the list as UTF-8, or name its encoding"),
        ("ascii", "line 2: not ASCII"),
        ("rot13", r"dataset\.encoding=rot13: no such encoding"),
    ):
        with pytest.raises(UserError, match=reason):
            list(manifest.Dataset(manifest.Options(path=str(tmp_path / "l.csv"), encoding=encoding)).utterances())


def test_lists_that_are_not_there_or_not_whole_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b'{"audio_filepath": "a.wav"}\n' * 999)[:-20])
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bytes(99))
    for path, reason in (
        ("/nope.jsonl", "no such file; give"),
        ("", "required"),
        ("???", "required"),
        (str(tmp_path), "not a file"),
        ("/dev/zero", "not a file"),
        (str(tmp_path / "cut.gz"), "cannot be read"),
        (str(tmp_path / "bad.gz"), "cannot be read"),
    ):
        with pytest.raises(UserError, match=reason):
            manifest.Dataset(manifest.Options(path=path)).columns()


def test_a_text_that_says_nothing_is_no_reference_and_a_number_is_one(tmp_path: Path) -> None:
    texts = ["", "  ", None, 42]
    dataset = listed(tmp_path, *({"audio_filepath": f"{n}.wav", "text": text} for n, text in enumerate(texts)))
    assert [utterance.reference for utterance in dataset.utterances()] == [None, None, None, "42"]


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lists no recordings"):
        list(listed(tmp_path).utterances())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(st.dictionaries(st.sampled_from(["x", "wer", "meta_wer", "text", "ü"]), JSON), min_size=1, max_size=5))
@settings(deadline=None)
def test_any_columns_fit_the_types_they_are_said_to_have(
    tmp_path_factory: pytest.TempPathFactory, extras: list[dict[str, Any]]
) -> None:
    entries = [extra | {"audio_filepath": f"{i}.wav", "text": None} for i, extra in enumerate(extras)]
    dataset = listed(tmp_path_factory.getbasetemp(), *entries)
    names = tables.own_column_names(dataset.columns())
    schema = tables.manifest_schema({names[name]: kind for name, kind in dataset.columns().items()})
    assert len(set(schema.names)) == len(schema.names)
    for utterance in dataset.utterances():
        for name, value in utterance.columns.items():
            pa.array([value], schema.field(names[name]).type)
