"""Kaldi data folders of real recordings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import DATA

from pipeline.datasets import manifest
from pipeline.datasets.formats.keyed import Repeated
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.stages.build_manifest import build

FSDD = DATA / "fsdd"


def folder(root: Path, **files: str) -> Path:
    """A data folder; a double underscore in a name stands for a dot."""
    data = root / "data"
    data.mkdir(exist_ok=True)
    for name, text in files.items():
        (data / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return data


def read(data: Path, audio_root: Path | None = None) -> list[Utterance]:
    options = manifest.Options(path=str(data), audio_root=None if audio_root is None else str(audio_root))
    return list(manifest.Dataset(options).utterances())


def refused(data: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_recordings_with_texts_and_speakers_in_any_order(tmp_path: Path) -> None:
    data = folder(
        tmp_path,
        wav__scp=f"theo-7 {FSDD}/7_theo_1.wav\nlucas-3\t{FSDD}/3_lucas_2.wav \n\nnobody gone with spaces.wav\n",
        text="lucas-3 three\u3000drei\nother left out\ntheo-7   seven\nnobody\n",
        utt2spk="theo-7 theo\nlucas-3 lucas\n",
        spk2gender="theo m\n",
    )
    assert read(data) == [
        Utterance("theo-7", f"{FSDD}/7_theo_1.wav", "seven", columns={"gender": "m", "speaker": "theo"}),
        Utterance("lucas-3", f"{FSDD}/3_lucas_2.wav", "three\u3000drei", columns={"gender": None, "speaker": "lucas"}),
        Utterance("nobody", f"{data}/gone with spaces.wav", None, columns={"gender": None, "speaker": None}),
    ]


def test_segments_are_rows(tmp_path: Path) -> None:
    data = folder(
        tmp_path,
        wav__scp="jfk long/jfk.flac\n",
        segments="jfk-1 jfk 0.5 3.25\njfk-2 jfk 3.25 -1\njfk-3 jfk 1 2 1\njfk-4 jfk 2 1\n",
        text="jfk-1 and so my fellow americans\n",
    )
    rows = read(data, DATA)
    assert {row.path for row in rows} == {str(DATA / "long" / "jfk.flac")}
    assert [(row.id, row.start_s, row.end_s, row.channel) for row in rows] == [
        ("jfk-1", 0.5, 3.25, None),
        ("jfk-2", 3.25, None, None),
        ("jfk-3", 1.0, 2.0, 2),  # Kaldi counts channels from 0
        ("jfk-4", 2.0, 1.0, None),  # this row fails when its recording is read
    ]
    assert [row.reference for row in rows] == ["and so my fellow americans", None, None, None]


def test_sides_of_a_call_are_channels_where_both_are_one_file(tmp_path: Path) -> None:
    sides = "call-A call A\ncall-B call B\nalone-B alone B\nodd-1 odd 1\nodd-2 odd 2\n"
    scp = "call-A call.wav\ncall-B call.wav\nalone-B alone-B.wav\nodd-1 odd.wav\nodd-2 odd.wav\n"
    rows = read(folder(tmp_path, wav__scp=scp, reco2file_and_channel=sides))
    assert [row.channel for row in rows] == [1, 2, None, 1, 2]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("touch canary |", "a command, and this project executes none; write the command's output to a file"),
        ("sph2pipe -f wav x.sph|", "a command"),
        ("| touch canary", "a command"),
        ("-", "standard input"),
        ("raw.ark:1234", "a position in a Kaldi archive"),
        ("raw.ark:1234[0:10]", "a position in a Kaldi archive"),
        ("http://host/a.wav", "a URL"),
    ],
)
@pytest.mark.parametrize("segments", [False, True])
def test_what_is_no_file_is_refused_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, reason: str, segments: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    data = folder(tmp_path, wav__scp=f"ok a.wav\nbad {value}\n")
    if segments:
        folder(tmp_path, segments="u1 ok 0 1\nu2 bad 0 1\n")
    good, bad = read(data)
    said = str(bad.error)
    assert good.error is None
    assert (bad.id, bad.path) == ("u2" if segments else "bad", "")
    assert f": {'segments' if segments else 'wav.scp'}: line 2: " in said
    assert reason in said
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"wav__scp": "a\n"}, "wav.scp: line 1: has no path"),
        ({"wav__scp": "\n"}, "lists no recordings"),
        ({"wav__scp": "a a.wav\n", "segments": ""}, "lists no recordings"),
        ({"wav__scp": "a a.wav\n", "segments": "u a 0\n"}, "segments: line 1: 3 fields"),
        (
            {"wav__scp": "a a.wav\n", "segments": "\nu b 0 1\n"},
            "segments: line 2: recording 'b' has no path",
        ),
        ({"wav__scp": "a a.wav\n", "segments": "u a x 1\n"}, "start='x': must be a number of seconds"),
        ({"wav__scp": "a a.wav\n", "segments": "u a nan 1\n"}, "start='nan': must be"),
        ({"wav__scp": "a a.wav\n", "segments": "u a -1 1\n"}, "start=-1: must not be negative"),
        ({"wav__scp": "a a.wav\n", "segments": "u a 0 -2\n"}, "end=-2: must not be negative"),
        ({"wav__scp": "a a.wav\n", "segments": "u a 0 1 x\n"}, "channel='x': must be a channel number, counted from 0"),
        ({"wav__scp": "a a.wav\n", "text": "a one\nb two\na three\n"}, "'a' appears twice in text; keep one"),
        (
            {"wav__scp": "a a.wav\n", "text": "a one\rb two\r"},
            "text: lines end in carriage returns alone; save it with",
        ),
        ({"wav__scp": "a a.wav\na b.wav\n", "segments": "u a 0 1\n"}, "'a' appears twice in wav.scp; keep one"),
    ],
)
def test_a_wrong_folder_is_refused_with_the_file_and_the_line(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    assert reason in refused(folder(tmp_path, **files))


def test_a_wrong_line_costs_no_other(tmp_path: Path) -> None:
    files = {"wav__scp": "a a.wav\nb a.wav\nc c.wav\n", "text": "c one\nc one\na 1\na 2\n"}
    first, second, third = read(folder(tmp_path, **files, reco2file_and_channel="a a A\nb a X\n"))
    assert "wav.scp: line 1: 'a' appears twice in text" in str(first.error)
    assert "wav.scp: line 2: channel in reco2file_and_channel=" in str(second.error)
    assert (third.reference, third.error) == ("one", None)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    data = folder(tmp_path, wav__scp="a a.wav\n")
    (data / "text").write_bytes(b"b fine\na caf\xe9\n")
    assert "text: line 2: not UTF-8" in refused(data)
    (data / "text").unlink()
    os.mkfifo(data / "text")
    assert "text: not a file" in refused(data)


def test_paths_below_the_working_directory_are_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(tmp_path, wav__scp="a fsdd/7_theo_1.wav\nb fsdd/gone.wav\n")
    assert [row.path for row in read(data)] == [f"{data}/fsdd/7_theo_1.wav", f"{data}/fsdd/gone.wav"]
    monkeypatch.chdir(DATA)
    assert "below the working directory; set dataset.audio_root=. if paths are relative to" in refused(data)
    assert [row.path for row in read(data, DATA)] == [str(FSDD / "7_theo_1.wav"), str(FSDD / "gone.wav")]


def test_a_folder_that_is_no_data_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a b\n")
    assert "not a file, but a folder without wav.scp" in refused(tmp_path)


def test_a_data_folder_becomes_a_manifest(tmp_path: Path) -> None:
    data = folder(tmp_path, wav__scp=f"seven {FSDD}/7_theo_1.wav\ngone gone.wav\n", text="seven seven\n")
    table = build(manifest.Dataset(manifest.Options(path=str(data))), shard_hours=1).table
    assert table["id"].to_pylist() == ["seven", "gone"]
    assert table["num_samples"].to_pylist() == [2892, None]


def test_repeated_keys_are_found() -> None:
    repeated = Repeated(f"k{number % 700}" for number in range(1000))
    assert [f"k{number}" in repeated for number in (0, 299, 300, 699, 700)] == [True, True, False, False, False]
    assert "x" not in Repeated(())
