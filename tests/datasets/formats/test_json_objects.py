"""JSON documents in place of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lists import failed, read, refused

from pipeline.datasets.formats import json_objects

A, B = {"audio_filepath": "a.wav", "text": "one"}, {"audio_filepath": "b.wav", "text": "two"}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "document",
    [
        [A, B],
        {"data": [A, B]},
        {"version": 1, "name": "calls", "utterances": [A, B]},
        {"a": {"wav": "a.wav", "words": "x", "text": "one"}, "b": {"wav": "b.wav", "text": "two"}},
    ],
)
def test_a_document_is_read_like_lines(tmp_path: Path, document: Any, indent: int | None) -> None:
    utterances = read(tmp_path, json.dumps(document, indent=indent), "l.json")
    assert [(utterance.path, utterance.reference) for utterance in utterances] == [
        (str(tmp_path / "a.wav"), "one"), (str(tmp_path / "b.wav"), "two")
    ]  # fmt: skip


def test_the_keys_of_a_document_of_objects_are_the_ids(tmp_path: Path) -> None:
    utterances = read(tmp_path, '{"u1": {"wav": "a.wav"}, "u2": {"wav": "b.wav", "id": "own"}}', "l.json")
    assert [utterance.id for utterance in utterances] == ["u1", "own"]


def test_an_array_of_cuts_or_recordings_is_lhotses(tmp_path: Path) -> None:
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "duration": 1.0}
    for text in (json.dumps([recording], indent=1), json.dumps(recording)):
        (utterance,) = read(tmp_path, text, "l.json")
        assert (utterance.id, utterance.path) == ("r", str(tmp_path / "a.wav"))


def test_one_recording_with_a_list_in_it_is_no_document(tmp_path: Path) -> None:
    entry = A | {"words": [{"word": "one", "start": 0.1}]}
    for indent in (None, 2):
        (utterance,) = read(tmp_path, json.dumps(entry, indent=indent), "l.json")
        assert (utterance.id, utterance.reference) == ("a.wav", "one")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"path": ""}, 7]', "item 1: path='': must be a path"),
        (
            '[{"path": "a.wav"},\n',
            "not JSON (Expecting value at line 2, column 1); write one object a line, or one JSON",
        ),
        ('{"audios": [{"path": "a"}], "speakers": [{"name": "b"}]}', "several lists ('audios', 'speakers'); write the"),
        ('{\n"version": 1\n}', "its columns are 'version'"),
        ("[]", "lists no recordings"),
    ],
)
def test_a_wrong_document_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refused(tmp_path, text, "l.json")


def test_a_wrong_item_costs_no_other(tmp_path: Path) -> None:
    assert failed(tmp_path, '[{"path": "a.wav"}, 7]', "l.json").endswith(
        'item 2: 7 is not an object; expected {"audio_filepath": ..., ...}'
    )
    assert "line 2: not JSON" in failed(tmp_path, '{"path": "a.wav"}\n{"path": "b.w', "l.jsonl")


def test_a_document_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_objects, "MAX_DOCUMENT_BYTES", 20)
    assert "jq -c '.[]'" in refused(tmp_path, json.dumps([A, B]), "l.json")
