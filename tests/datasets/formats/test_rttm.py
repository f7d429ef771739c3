"""RTTM files: who spoke when."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from running import DATA

from pipeline.datasets import manifest
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.stages.build_manifest import build

JFK = DATA / "long" / "jfk.flac"


def read(folder: Path, text: str | bytes, **options: Any) -> list[Utterance]:
    (folder / "list.rttm").write_bytes(text.encode() if isinstance(text, str) else text)
    return list(manifest.Dataset(manifest.Options(path=str(folder / "list.rttm"), **options)).utterances())


def turn(
    file: str = "jfk", channel: object = 1, start: object = 0.5, duration: object = 2, speaker: str = "john"
) -> str:
    return f"SPEAKER {file} {channel} {start} {duration} <NA> <NA> {speaker} <NA> <NA>\n"


def test_every_turn_is_a_segment_of_the_recording_found_below_the_root(tmp_path: Path) -> None:
    text = (
        ";; made by hand\nSPKR-INFO jfk 1 <NA> <NA> <NA> adult_male john <NA> <NA>\n\n"
        + turn(start="0.50", duration="2.750")
        + turn(start=3, duration=2, speaker="<NA>").replace(" ", "\t")
        + turn(start=3.5, duration=2.5, speaker="crowd")
    )
    first, second, third = read(tmp_path, text, audio_root=str(DATA))
    columns = {"speaker": "john"}
    assert first == Utterance("jfk#500-3250", str(JFK), start_s=0.5, end_s=3.25, columns=columns)
    assert (second.id, second.columns) == ("jfk#3000-5000", {"speaker": None})
    assert (third.id, third.start_s, third.end_s) == ("jfk#3500-6000", 3.5, 6.0)


def test_a_recording_lies_beside_the_list_unless_another_root_is_given(tmp_path: Path) -> None:
    shutil.copy(JFK, tmp_path / "jfk.FLAC")
    (row,) = read(tmp_path, turn())
    assert row.path == str(tmp_path / "jfk.FLAC")


def test_an_extension_may_be_longer(tmp_path: Path) -> None:
    (tmp_path / "amicorpus" / "ES2004a" / "audio").mkdir(parents=True)
    for microphone in ("Mix-Headset", "Array1-01"):
        (tmp_path / f"amicorpus/ES2004a/audio/ES2004a.{microphone}.wav").touch()
    (row,) = read(tmp_path, turn("ES2004a"), extensions=["Mix-Headset.wav"])
    assert row.path.endswith("/ES2004a.Mix-Headset.wav")
    (row,) = read(tmp_path, turn("ES2004a"))
    assert not os.path.exists(row.path)


def test_a_name_that_fits_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jfk.wav").touch()
    (tmp_path / "jfk.flac").touch()
    with pytest.raises(UserError, match=r"'jfk' matches both 'jfk.flac' and 'jfk.wav' .* narrow dataset.audio_root"):
        read(tmp_path, turn())


def test_a_channel_means_one_only_where_there_are_several(tmp_path: Path) -> None:
    text = turn("a") + turn("b", 1) + turn("b", 2) + turn("c", "<NA>")
    assert [(row.id, row.channel) for row in read(tmp_path, text)] == [
        ("a#500-2500", None), ("b#500-2500#c1#john", 1), ("b#500-2500#c2#john", 2), ("c#500-2500", None)
    ]  # fmt: skip
    good, bad = read(tmp_path, turn("a") + turn("a", "x"))
    assert (good.error, bad.id) == (None, "a.wav#line 2")
    assert "line 2: channel='x': must be a channel number, counted from 1" in str(bad.error)


def test_two_who_speak_at_the_same_time_have_two_ids(tmp_path: Path) -> None:
    text = turn(speaker="a") + turn(start=9) + turn(speaker="b")
    assert [row.id for row in read(tmp_path, text)] == ["jfk#500-2500#a", "jfk#9000-11000", "jfk#500-2500#b"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello\n", "'hello' is not a line type of RTTM; expected SPEAKER"),
        ("SPEAKER jfk 1 0\n", "4 fields; expected SPEAKER file channel start duration"),
        (turn(start="x"), "start='x': must be a number of seconds"),
        (turn(start="nan"), "start='nan': must be"),
        (turn(start="-1"), "start=-1: must not be negative"),
        (turn(duration="inf"), "duration='inf': must be"),
        (turn("../../etc/passwd"), "without folders"),
        (turn("/etc/passwd"), "without folders"),
    ],
)
def test_a_wrong_line_fails_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    good, bad = read(tmp_path, turn() + line)
    assert (good.error, bad.id, bad.path) == (None, "line 2", "")
    assert "list.rttm: line 2: " in str(bad.error)
    assert reason in str(bad.error)


def test_a_list_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list\.rttm: line 2: not UTF-8"):
        read(tmp_path, turn().encode() + b"SPEAKER caf\xe9 1 0 1 <NA> <NA> x <NA> <NA>\n")


def test_a_list_without_turns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lists no recordings"):
        read(tmp_path, ";; nothing\nLEXEME jfk 1 0 1 and lex john 1 <NA>\n")


def test_turns_become_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "l").write_text(turn() + turn("gone") + turn(start=10, duration=5))
    given = manifest.Dataset(manifest.Options(path=str(tmp_path / "l"), audio_root=str(DATA)))
    table = build(given, shard_hours=1).table
    assert table["id"].to_pylist() == ["jfk#500-2500", "gone#500-2500", "jfk#10000-15000"]
    assert table["duration_s"].to_pylist() == [2.0, None, 1.0]
    assert table["speaker"].to_pylist() == ["john"] * 3
