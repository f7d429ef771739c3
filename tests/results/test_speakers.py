"""Words get the speakers of an RTTM file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_run import Spoken, make_run
from praatio import textgrid

from pipeline.export.exporting import export
from pipeline.results import open_run
from pipeline.results.speakers import read_speakers
from pipeline.runtime.errors import UserError
from pipeline.stages.corrections.matching import Utterances
from pipeline.stages.corrections.reading import read
from pipeline.storage.run_directory import RunDirectory

TURNS = """\
;; who speaks when
SPEAKER meeting 1 0.00 1.00 <NA> <NA> alice <NA> <NA>
SPEAKER meeting 1 0.80 1.00 <NA> <NA> bob <NA> <NA>
SPEAKER meeting 1 1.80 0.40 <NA> <NA> alice <NA> <NA>
SPEAKER elsewhere 1 0.00 1.00 <NA> <NA> carol <NA> <NA>
"""


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    """`both` lies where two speakers overlap by as much, `later` where bob has more, `nobody` in silence."""
    words = [("mine", 0, 20, 1.0), ("both", 40, 50, 1.0), ("later", 45, 70, 1.0), ("nobody", 120, 140, 1.0)]
    call = [Spoken(f"call.wav#c{n}", [("hi", 0, 10, 1.0)], path="/x/call.wav", columns={"channel": n}) for n in (1, 2)]
    spoken = [Spoken("meeting.wav", words, path="/x/meeting.wav", num_frames=150), *call]
    return make_run(tmp_path / "run", [spoken], {"channel": "int16"}, ["transcripts"])


def rttm(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "turns.rttm"
    path.write_text(content)
    return path


def test_a_word_is_said_by_whom_it_overlaps_most_and_overlapping_speech_is_marked(
    meeting: Path, tmp_path: Path
) -> None:
    run = open_run(meeting).with_speakers(rttm(tmp_path, TURNS))
    words = run.words.set_index("word")
    assert words.speaker[["mine", "both", "later"]].tolist() == ["alice", "alice", "bob"]
    assert words.speaker.isna()[["nobody", "hi"]].all()
    assert words.overlap[["mine", "both", "later", "nobody"]].tolist() == [False, True, True, False]
    assert run.select(["meeting.wav"]).words.speaker.notna().sum() == 3
    assert "speaker" not in open_run(meeting).words


def test_the_channels_of_a_file_have_speakers_of_their_own(meeting: Path, tmp_path: Path) -> None:
    lines = [f"SPEAKER call {side} 0 1 <NA> <NA> {name} <NA> <NA>\n" for side, name in (("A", "ann"), ("B", "ben"))]
    words = open_run(meeting).with_speakers(rttm(tmp_path, "".join(lines))).words
    assert words[words.word == "hi"].speaker.tolist() == ["ann", "ben"]


def test_a_mixture_of_channels_has_the_speakers_of_all_and_a_word_without_length_has_one(tmp_path: Path) -> None:
    content = "SPEAKER talk 1 0 1 <NA> <NA> ann <NA> <NA>\nSPEAKER talk 2 1 1 <NA> <NA> ben <NA> <NA>\n"
    speakers = read_speakers(rttm(tmp_path, content), ["/x/talk.wav"])
    words = [(0.0, 1.0), (0.5, 2.0), (1.0, 1.0), (2.0, 2.0)]
    said = {channel: [each for each, _ in speakers.of("/x/talk.wav", channel, words)] for channel in (None, 1, 2, 3)}
    assert said[None] == ["ann", "ben", "ben", None]
    assert (said[1], said[2]) == (["ann", "ann", None, None], [None, "ben", "ben", None])
    assert said[3] == [None] * 4


def test_tiers_of_a_call_with_named_speakers_come_back_by_their_channels(meeting: Path, tmp_path: Path) -> None:
    lines = [f"SPEAKER call {side} 0 1 <NA> <NA> {name} <NA> <NA>\n" for side, name in ((1, "ann"), (2, "ben"))]
    turns = rttm(tmp_path, "".join(lines))
    utterances = Utterances(RunDirectory(meeting).manifest.read(), "/x")
    for format, ending in (("textgrid", "TextGrid"), ("elan", "eaf")):
        export(meeting, format, out=tmp_path / format, rttm=turns)
        path = tmp_path / format / f"call.{ending}"
        assert "c2 - ben - utterances" in path.read_text()
        assert utterances.match(read(path)).texts == {"call.wav#c1": "hi", "call.wav#c2": "hi"}


def test_tiers_of_segments_that_overlap_lose_no_text_and_come_back(tmp_path: Path) -> None:
    times = {"a": (0, 4), "b": (1, 2), "c": (2, 5)}
    spoken = [
        Spoken(f"x.wav#{name}", [(name, 5, 9, 1.0)], path="/x/x.wav", start_s=start, num_frames=50 * (end - start))
        for name, (start, end) in times.items()
    ]
    touching = [
        Spoken(f"y.wav#{n}", [("y", 1, 5, 1.0)], path="/x/y.wav", start_s=s, num_frames=10)
        for n, s in enumerate((0.1, 0.3))  # 0.1 + 0.2 > 0.3
    ]
    run = make_run(tmp_path / "run", [spoken, touching], outputs=["transcripts"])
    export(run, "textgrid", out=tmp_path / "out")
    assert (tmp_path / "out" / "y.TextGrid").read_text().count("name = ") == 2
    grid = textgrid.openTextgrid(str(tmp_path / "out" / "x.TextGrid"), includeEmptyIntervals=False)
    assert grid.tierNames == ("utterances", "words", "utterances 2", "words 2")
    found = {each.label: (each.start, each.end) for name in grid.tierNames[::2] for each in grid.getTier(name).entries}
    assert found == times
    found = {each.label for name in grid.tierNames[1::2] for each in grid.getTier(name).entries}
    assert found == {*times}
    read_back = Utterances(RunDirectory(run).manifest.read(), "/x").match(read(tmp_path / "out"))
    assert read_back.texts == {f"x.wav#{name}": name for name in times} | {"y.wav#0": "y", "y.wav#1": "y"}
    assert read_back.warnings.lines() == []


def test_an_export_has_a_tier_and_a_turn_for_each_speaker(meeting: Path, tmp_path: Path) -> None:
    turns = rttm(tmp_path, TURNS)
    said = export(meeting, "stm", out=tmp_path / "all.stm", rttm=turns)
    assert "; 2 words during which somebody else speaks" in said
    lines = [line.split()[2:] for line in (tmp_path / "all.stm").read_text().splitlines() if "meeting" in line]
    assert lines == [
        ["alice", "0.000", "1.000", "mine", "both"],
        ["bob", "0.900", "1.400", "later"],
        ["unknown", "2.400", "2.800", "nobody"],
    ]


def test_annotators_get_a_region_for_each_turn_which_come_back_as_one_reference(meeting: Path, tmp_path: Path) -> None:
    export(meeting, "labelstudio", out=tmp_path / "tasks", rttm=rttm(tmp_path, TURNS))
    path = tmp_path / "tasks" / "tasks.json"
    tasks = json.loads(path.read_text())
    (task,) = (each for each in tasks if each["data"]["recording"] == "meeting")
    texts = [each for each in task["predictions"][0]["result"] if each["type"] == "textarea"]
    assert [each.get("meta") for each in texts] == [{"text": ["alice"]}, {"text": ["bob"]}, None]
    task["annotations"] = [{"result": texts[::-1]}]
    path.write_text(json.dumps([task]))
    utterances = Utterances(RunDirectory(meeting).manifest.read(), "/x")
    assert utterances.match(read(path)).texts == {"meeting.wav": "mine both later nobody"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("SPEAKER other 1 0 1 <NA> <NA> ann <NA> <NA>\n", "no line names a recording of the run; the first line names"),
        (";; nothing\n", "no line names a recording of the run, for it has no SPEAKER line"),
        ("SPEAKER meeting 1 0\n", "line 1: 4 fields"),
    ],
)
def test_a_file_that_names_nobody_is_refused(meeting: Path, tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        open_run(meeting).with_speakers(rttm(tmp_path, content))


def test_a_name_that_may_be_any_of_several_recordings_is_refused(tmp_path: Path) -> None:
    spoken = [Spoken(f"{folder}/meeting.wav", path=f"/{folder}/meeting.wav") for folder in "ab"]
    run = make_run(tmp_path / "run", [spoken], outputs=["transcripts"])
    with pytest.raises(UserError, match="'meeting' matches both"):
        open_run(run).with_speakers(rttm(tmp_path, TURNS))
