"""What making a manifest does with utterances that are nearly right, and with those that cannot be used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from lists import dataset
from running import DATA, assert_accounting, main

from pipeline.datasets import Warnings, folder, manifest
from pipeline.results import open_run
from pipeline.stages.build_manifest import build
from pipeline.storage.manifest import Manifest

SEVEN, TWO = DATA / "fsdd" / "7_theo_1.wav", DATA / "fsdd" / "2_jackson_1.wav"
SEVEN_S = 0.3615
COMMAND = ("dataset=manifest", "dataset.path=list.csv", "model=digits", "outputs=[transcripts]", "run_dir=out")


def built(given: manifest.Dataset | folder.Dataset) -> tuple[Manifest, list[str]]:
    warnings = Warnings()
    return build(given, 1.0, warnings=warnings), warnings.lines()


def test_an_end_a_little_after_the_recording_is_cut_and_one_far_after_it_fails(tmp_path: Path) -> None:
    text = "path,start,end\n" + "".join(f"{SEVEN},{start},{end}\n" for start, end in ((0, 0.36), (0, 0.8), (0.1, 1)))
    made, warnings = built(dataset(tmp_path, text))
    assert made.table["end_s"].to_pylist() == [0.36, SEVEN_S, 1.0]
    assert list(made.rejected.values()) == [
        ("truncated", "the segment ends at 1.0 s, but the recording ends at 0.3615 s, more than 0.5 s before")
    ]
    assert warnings == [
        "segments that end up to 0.5 s after their recording, and are cut: 1; "
        "the first: 7_theo_1.wav#0-800 ends at 0.8 s, its recording at 0.3615 s"
    ]
    made, warnings = built(dataset(tmp_path, text, segment_slack_s=0.0))
    assert (len(made.rejected), warnings) == (2, [])
    made, _ = built(dataset(tmp_path, text, segment_slack_s=2.0))
    assert made.table["end_s"].to_pylist() == [0.36, SEVEN_S, SEVEN_S]


def test_an_id_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    rows = [("a", SEVEN), ("b", TWO), ("a", SEVEN), ("a#2", TWO), ("a", TWO)]
    made, warnings = built(dataset(tmp_path, "id,path\n" + "".join(f"{id_},{path}\n" for id_, path in rows)))
    assert made.table["id"].to_pylist() == ["a", "b", "a#3", "a#2", "a#4"]
    assert warnings == ["ids that another utterance has, so that a number is added: 2; the first: 'a' becomes 'a#3'"]


def test_a_name_that_the_tables_write_like_another_file_fails(tmp_path: Path) -> None:
    shutil.copy(SEVEN, os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav"))
    shutil.copy(TWO, tmp_path / "%FF.wav")
    made, _ = built(folder.Dataset(folder.Options(root=str(tmp_path))))
    assert made.table["id"].to_pylist() == ["%FF.wav", "%FF.wav#2"]
    assert list(made.rejected) == ["%FF.wav#2"]  # reading it would read the other file
    assert made.rejected["%FF.wav#2"][1].endswith("%FF.wav', which is another file; rename one of the two")


def test_wrong_rows_are_failures_beside_the_results_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{SEVEN},0,,x,seven", f"{SEVEN},soon,,y,", ",,,,", f"{SEVEN},0,0.7,z,", "too,few", ",1,,v,"]
    Path("list.csv").write_text("path,start,end,id,text\n" + "\n".join(rows))
    assert main([*COMMAND, "dataset.segment_slack_s=0.35"]) == 3
    said = capsys.readouterr().out
    assert "5 utterances, 0.7 s of audio, 1 shard\n" in said  # no header of a wrong row counts as unreadable
    assert "warning: rows that cannot be used, each of them a failure: 3; the first: line 3: start='soon': must" in said
    assert "warning: segments that end up to 0.35 s after their recording, and are cut: 1; the first: z ends" in said
    assert "warning: rows that cannot be used" in Path("out/logs/run.log").read_text()
    opened = open_run("out")
    assert_accounting(Path("out"), ["transcripts"])
    assert opened.transcripts.text.tolist() == ["SEVEN", "SEVEN"]
    failures = opened.failures.set_index("id")
    assert set(zip(failures.stage, failures.error, strict=True)) == {("manifest", "unreadable")}
    assert failures.message.to_dict() == {
        "y": "dataset.path=list.csv: line 3: start='soon': must be a number of seconds, 1e+08 at most",
        "line 6": "dataset.path=list.csv: line 6: 2 values instead of 5; write one for every column, or set "
        "dataset.quotes=false if quotes are part of the text",
        "v": "dataset.path=list.csv: line 7: path=None: must be a path",
    }


def test_a_corpus_of_which_nothing_exists_is_refused_before_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("calls/mon").mkdir(parents=True)
    for listed, hint in (
        ("calls/tue/1.wav", f"the paths of the list are relative to {tmp_path}; set dataset.audio_root= to the folder"),
        ("$root/1.wav", "set dataset.audio_root= to the folder of the recordings, for which '$root/' stands"),
        (f"{tmp_path}/calls/tue/1.wav", "the paths of the list are absolute; mount their disk, or write them relative"),
    ):
        Path("list.csv").write_text(f"path\n{listed}\ngone.wav\n")
        assert main([*COMMAND]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: dataset=manifest: not one of its recordings exists; the first is ")
        assert f"of which '{tmp_path / 'calls' if 'calls' in listed else tmp_path}' exists; " in said
        assert hint in said
        assert "\n" not in said
        assert not Path("out").exists()


def test_a_run_in_which_nothing_succeeded_is_planned_again_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in (("bad", b"no audio"), ("good", SEVEN.read_bytes())):
        Path(name).mkdir()
        Path(name, "a.wav").write_bytes(data)
    Path("list.csv").write_text("path,text\na.wav,seven\n")
    assert main([*COMMAND, "dataset.audio_root=bad"]) == 3
    assert main([*COMMAND, "dataset.audio_root=bad"]) == 3
    assert "complete already" in capsys.readouterr().out
    assert main([*COMMAND, "dataset.audio_root=bad", "chunk.seconds=30"]) == 3
    assert "complete already" not in capsys.readouterr().out
    assert main([*COMMAND, "dataset.audio_root=good"]) == 0
    assert_accounting(Path("out"), ["transcripts"])
    assert open_run("out").transcripts.text.tolist() == ["SEVEN"]
    assert main([*COMMAND, "dataset.audio_root=good", "chunk.seconds=30"]) == 2
    assert "was made with other settings" in capsys.readouterr().err
