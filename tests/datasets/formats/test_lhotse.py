"""Manifests of the recordings in `data/`, written by lhotse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import DATA

from pipeline.datasets import manifest
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.stages.build_manifest import build

SOURCES = [{"type": "file", "channels": [0, 1], "source": "a.wav"}]
RECORDING = {"id": "r", "sources": SOURCES, "sampling_rate": 16000, "num_samples": 32000, "duration": 2.0}
CUT = {"id": "c", "type": "MonoCut", "start": 0, "duration": 2.0, "channel": 0, "recording": RECORDING}


def read(path: Path, **options: Any) -> list[Utterance]:
    return list(manifest.Dataset(manifest.Options(path=str(path), **options)).utterances())


def written(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path, format="lhotse")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recording_is_a_row_and_each_of_several_files_is_one() -> None:
    rows = read(DATA / "lhotse" / "recordings.jsonl.gz", audio_root=str(DATA))
    theo, lucas = str(DATA / "fsdd" / "7_theo_1.wav"), str(DATA / "fsdd" / "3_lucas_2.wav")
    assert rows == [
        Utterance("7_theo_1", theo),
        Utterance("3_lucas_2", lucas),
        Utterance("jfk", str(DATA / "long" / "jfk.flac")),
        Utterance("call#c1", theo),
        Utterance("call#c2", lucas),
    ]


def test_a_cut_is_a_row_and_a_segment_unless_it_is_the_whole_recording() -> None:
    rows = {row.id: row for row in read(DATA / "lhotse" / "cuts.jsonl.gz", audio_root=str(DATA))}
    assert [(id_, row.start_s, row.end_s, row.channel) for id_, row in rows.items()] == [
        ("7_theo_1", None, None, None),
        ("3_lucas_2", None, None, None),
        ("jfk", None, None, None),
        ("s3", 0.2, 3.2, None),
        ("s4", 3.2, 6.2, None),
        ("jfk-right", 1.5, 3.75, 2),
        ("call-b", None, None, None),
    ]
    assert rows["7_theo_1"].reference == "seven"
    assert rows["7_theo_1"].columns == {
        "recording_id": "7_theo_1", "speaker": "theo", "gender": "male", "language": "English", "take": 1
    }  # fmt: skip
    assert rows["jfk"].reference == "and so my fellow americans ask not"
    assert rows["3_lucas_2"].reference is None
    assert rows["call-b"].path == str(DATA / "fsdd" / "3_lucas_2.wav")
    assert rows["call-b"].columns["recording_id"] == "call"


def test_what_is_no_stretch_of_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reasons = {
        "mixed": "a MixedCut, which is not a segment of one recording",
        "padded": "a MixedCut",
        "7_theo_1_sp1.1": "has transforms, which this project does not apply",
        "silence": "a PaddingCut",
        "command": "a source of type 'command': this project executes and downloads nothing",
        "url": "a source of type 'url': this project executes and downloads nothing",
    }
    lines = (DATA / "lhotse" / "refused.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(reasons)
    for line, reason in zip(lines, reasons.values(), strict=True):
        good, bad = read(written(tmp_path, CUT, json.loads(line)))
        assert (good.error, bad.id) == (None, json.loads(line)["id"])
        said = str(bad.error)
        assert ": line 2: " in said
        assert reason in said
        assert "hunter2" not in said
    assert not (tmp_path / "canary").exists()
    assert "neither a recording nor a cut" in refused(DATA / "lhotse" / "supervisions.jsonl")


def test_a_refusal_escapes_what_cannot_be_seen(tmp_path: Path) -> None:
    said = refused(written(tmp_path, CUT | {"type": "Mono\ufeff\u202e\x07Cut"}))
    assert r"a Mono\ufeff\u202e\x07Cut, which is not a segment of one recording" in said


def test_its_lines_are_told_from_nemos(tmp_path: Path) -> None:
    assert [row.id for row in read(written(tmp_path, CUT))] == ["c"]
    (row,) = read(written(tmp_path, {"audio_filepath": "a.wav", "type": "Cut", "sources": 3}))
    assert row.columns == {"sources": 3, "type": "Cut"}
    with pytest.raises(UserError, match="no column is known to hold the path"):
        read(written(tmp_path, CUT), format="jsonl")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recording": None}, "has no recording"),
        ({"id": 7}, "id=7: must be a string"),
        ({"start": -1}, "start=-1: must not be negative"),
        ({"duration": None}, "duration is missing"),
        ({"duration": "1"}, "duration='1': must be a number"),
        ({"channel": None}, "channel=None: must be a channel"),
        ({"channel": [True]}, "channel=True: must be a channel"),
        ({"channel": [0, 2]}, "channels [0, 2] of [0, 1]"),
        ({"channel": []}, "channels [] of [0, 1]"),
        ({"supervisions": [7]}, "supervisions=[7]: must be a list of objects"),
        ({"recording": RECORDING | {"sources": []}}, "names no file"),
        ({"recording": RECORDING | {"duration": None}}, "has no duration"),
        ({"recording": RECORDING | {"sampling_rate": 0}}, "no sampling_rate"),
        ({"recording": RECORDING | {"sources": [SOURCES[0] | {"channels": 0}]}}, "channels=0: must be a list"),
        ({"recording": RECORDING | {"sources": [SOURCES[0] | {"source": ""}]}}, "source='': must be a path"),
        ({"recording": RECORDING | {"sources": [SOURCES[0] | {"source": "http://a:hunter2@b"}]}}, "source: a URL"),
    ],
)
def test_a_wrong_line_fails_with_its_number(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good, bad = read(written(tmp_path, CUT, CUT | {"id": "d"} | change), format="lhotse")
    said = str(bad.error)
    assert (good.error, bad.id) == (None, str(change.get("id", "d")))
    assert "list.jsonl: line 2: " in said
    assert reason in said
    assert "hunter2" not in said


def test_several_files_with_several_channels_are_refused(tmp_path: Path) -> None:
    both = RECORDING | {"sources": [SOURCES[0], SOURCES[0] | {"channels": [2]}]}
    assert "list cuts instead" in refused(written(tmp_path, both))


def test_cuts_become_a_manifest() -> None:
    path = DATA / "lhotse" / "cuts.jsonl.gz"
    table = build(manifest.Dataset(manifest.Options(path=str(path), audio_root=str(DATA))), shard_hours=1).table
    durations = dict(zip(table["id"].to_pylist(), table["duration_s"].to_pylist(), strict=True))
    assert durations["jfk-right"] == 2.25
    assert durations["call-b"] == pytest.approx(0.584)
    assert table["speaker"].to_pylist()[-1] == "lucas"
