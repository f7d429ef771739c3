"""What annotators save, as the tools of their files write it, finds its utterances."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pympi
import pytest
from praatio import textgrid
from praatio.utilities.constants import Interval

from pipeline.export.exporting import export
from pipeline.results import open_run
from pipeline.runtime.errors import UserError
from pipeline.stages.corrections.matching import Matched, Utterances
from pipeline.stages.corrections.reading import read
from pipeline.storage.run_directory import RunDirectory

FIRST, LATER = "día/talk 1.wav#0-3000", "día/talk 1.wav#3000-6000"
LEFT, RIGHT = "calls/a#1%C3.wav#c1", "calls/a#1%C3.wav#c2"
ODD_TASK = (
    '[{"data": {"utterances": [{"region": ["r"], "id": 5}]}, '
    '"annotations": [{"result": [{"type": "textarea", "id": ["r"], "value": {"text": "a", "start": %s}}]}]}]'
)


@pytest.fixture
def matched(odd_run: Path) -> Callable[[Path], Matched]:
    manifest = RunDirectory(odd_run).manifest.read()
    root = str(odd_run.parent)
    return lambda path: Utterances(manifest, root).match(read(path))


def saved(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("format", ["long_textgrid", "short_textgrid"])
def test_what_praat_saves_comes_back(
    format: str, odd_run: Path, tmp_path: Path, matched: Callable[[Path], Matched]
) -> None:
    export(odd_run, "textgrid", out=tmp_path / "tiers")
    for name, tier, number, text in (
        ("talk_1", "utterances", 1, 'good "evening" 12 <p>'),
        ("a_1_C3", "c2 - utterances", 0, "high"),
    ):
        path = str(tmp_path / "tiers" / f"{name}.TextGrid")
        grid = textgrid.openTextgrid(path, includeEmptyIntervals=False)
        old = grid.getTier(tier).entries[number]
        grid.getTier(tier).insertEntry(Interval(old.start, old.end, text), collisionMode="replace")
        grid.save(path, format=format, includeBlankSpaces=True)
    found = matched(tmp_path / "tiers")
    assert found.texts == {
        FIRST: 'it\'s <b> "so"', LATER: 'good "evening" 12 <p>', LEFT: "hello bye", RIGHT: "high",
    }  # fmt: skip
    assert found.warnings.lines() == []


def test_what_elan_saves_comes_back_and_stretches_of_an_utterance_are_joined(
    odd_run: Path, tmp_path: Path, matched: Callable[[Path], Matched]
) -> None:
    export(odd_run, "elan", out=tmp_path / "tiers")
    path = str(tmp_path / "tiers" / "talk_1.eaf")
    eaf = pympi.Elan.Eaf(path)
    eaf.remove_annotation("utterances", 4500)
    eaf.add_annotation("utterances", 4400, 5500, "day")
    eaf.add_annotation("utterances", 3100, 4300, "good")
    eaf.to_file(path)
    assert matched(Path(path)).texts == {FIRST: 'it\'s <b> "so"', LATER: "good day"}


def test_what_label_studio_exports_comes_back(
    odd_run: Path, tmp_path: Path, matched: Callable[[Path], Matched]
) -> None:
    """Annotators move a region, cancel an annotation, and add a region of their own."""
    export(odd_run, "labelstudio", out=tmp_path / "tasks")
    path = tmp_path / "tasks" / "tasks.json"
    tasks = {task["data"]["recording"]: task for task in json.loads(path.read_text())}

    def annotated(task: dict[str, Any], texts: list[str], **more: Any) -> dict[str, Any]:
        areas = [each for each in task["predictions"][0]["result"] if each["type"] == "textarea"]
        result = [each | {"value": each["value"] | {"text": [t]}} for each, t in zip(areas, texts, strict=False)]
        return {"result": result, **more}

    talk, call = tasks["talk_1"], tasks["a_1_C3"]
    moved = annotated(talk, ["it is so", "good night"])
    moved["result"][1]["value"] |= {"start": 0.5, "end": 0.6}
    talk["annotations"] = [annotated(talk, ["old", "old"]), moved, annotated(talk, ["no"], was_cancelled=True)]
    own = {"type": "textarea", "id": "new", "value": {"start": 1.0, "end": 2.0, "channel": 1, "text": "hi there"}}
    call["annotations"] = [{"result": [own]}]
    assert matched(saved(path, json.dumps([talk, call]))).texts == {
        FIRST: "it is so", LATER: "good night", RIGHT: "hi there",
    }  # fmt: skip
    with pytest.raises(UserError, match="no task has an annotation; export the project"):
        matched(saved(path, json.dumps([tasks["noise"]])))


def test_a_table_names_utterances_by_id_or_by_path_and_time(tmp_path: Path, matched: Callable[[Path], Matched]) -> None:
    rows = f"id,text,reference\n{FIRST},said,so it is\nnoise.wav,,\nnobody,x,y\n{FIRST},said,so it was\n"
    found = matched(saved(tmp_path / "a.csv", rows))
    assert found.texts == {FIRST: "so it was"}
    assert [line.partition(";")[0] for line in found.warnings.lines()] == [
        "empty corrections, which change nothing: 1",
        "corrections that belong to no utterance of the run, or to several: 1",
        "utterances with several corrections, of which the last counts: 1",
    ]
    rows = "path\tstart\tend\ttext\ndía/talk 1.wav\t3.1\t5\tevening\nnoise.wav\t\t\tpsst\ncalls/a#1%C3.wav\t\t\twho\n"
    found = matched(saved(tmp_path / "b.tsv", rows))
    assert found.texts == {LATER: "evening", "noise.wav": "psst"}
    assert len(found.warnings.lines()) == 1  # both channels of the call may be meant
    found = matched(saved(tmp_path / "c.csv", "id,path,start,reference\n,noise.wav,0.1,007\nnoise.wav,,,\n"))
    assert found.texts == {"noise.wav": "007"}


def test_stretches_are_joined_in_one_document_and_of_several_documents_the_last_counts(
    odd_run: Path, tmp_path: Path, matched: Callable[[Path], Matched]
) -> None:
    """A folder holds two states of a recording, and Label Studio has a task twice."""
    area = {"type": "textarea", "from_name": "transcription", "value": {"start": 3.1, "end": 4, "text": ["old"]}}
    notes = area | {"from_name": "notes", "value": area["value"] | {"text": ["loud"]}}
    later = area | {"value": {"start": 5, "end": 5.5, "text": ["new"]}}
    audio = "/data/local-files/?d=d%C3%ADa/talk%201.wav"
    tasks = [{"data": {"audio": audio}, "annotations": [{"result": each}]} for each in ([area, notes], [area, later])]
    found = matched(saved(tmp_path / "a.json", json.dumps(tasks)))
    assert found.texts == {LATER: "old new"}
    (line,) = found.warnings.lines()
    assert line.startswith("utterances with several corrections, of which the last counts: 1")
    export(odd_run, "textgrid", out=tmp_path / "tiers")
    (tmp_path / "a.json").rename(tmp_path / "tiers" / "a.json")
    found = matched(tmp_path / "tiers")
    assert found.texts[LATER] == "good morning"  # talk_1.TextGrid is behind a.json
    assert len(found.warnings.lines()) == 1


def test_notes_beside_the_tiers_of_an_export_are_not_read(
    odd_run: Path, tmp_path: Path, matched: Callable[[Path], Matched]
) -> None:
    export(odd_run, "textgrid", out=tmp_path / "tiers")
    path = str(tmp_path / "tiers" / "talk_1.TextGrid")
    grid = textgrid.openTextgrid(path, includeEmptyIntervals=False)
    grid.addTier(textgrid.IntervalTier("notes", [Interval(1.0, 2.0, "laughs")], minT=0, maxT=6))
    grid.save(path, format="short_textgrid", includeBlankSpaces=True)
    assert matched(Path(path)).texts == {FIRST: 'it\'s <b> "so"', LATER: "good morning"}
    grid.renameTier("utterances", "mine")
    grid.removeTier("notes")
    grid.save(path, format="short_textgrid", includeBlankSpaces=True)
    assert matched(Path(path)).texts == {FIRST: 'it\'s <b> "so"', LATER: "good morning"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.docx", "", r"the ending \.docx is not one of \.json"),
        ("a.csv", "id,words\na,b\n", "no column is known to hold the reference; its columns are 'id', 'words'"),
        ("a.csv", "speaker,text\na,b\n", "no column is known to hold the path"),
        ("a.csv", "id,reference\n", "has no row; give a table with a column id or path"),
        (
            "a.csv",
            "path;start;reference\nnoise.wav;0,5;a\n",
            r"row 1: start='0,5': .* write the decimal comma as a point",
        ),
        (
            "a.csv",
            "path,channel,reference\nnoise.wav,0,a\n",
            "row 1: channel=0: must be a channel number, counted from 1",
        ),
        ("a.json", ODD_TASK % '"x"', "item 1: start='x': must be a number of seconds"),
        ("a.json", ODD_TASK % "NaN", "item 1: start=nan: must be a number of seconds"),
        ("a.TextGrid", "p\0a\0t\0h\0", "line 1: has NUL characters; save the list as UTF-8$"),
        ("a.TextGrid", "nothing", "TextGrid: cannot be read; save it again in Praat"),
        ("a.eaf", "<a>", "EAF: cannot be read"),
        ("a.eaf", '<!DOCTYPE a [<!ENTITY b "c">]><a/>', "EAF: has a document type"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    name: str, content: str, reason: str, tmp_path: Path, matched: Callable[[Path], Matched]
) -> None:
    with pytest.raises(UserError, match=reason):
        matched(saved(tmp_path / name, content))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no file that ends in"):
        matched(tmp_path / "empty")


def test_the_run_of_these_tests_is_as_expected(odd_run: Path) -> None:
    assert {FIRST, LATER, LEFT, RIGHT} < {*open_run(odd_run).manifest["id"]}
