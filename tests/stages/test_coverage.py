"""The stage `vad` over finished tables: what of the speech became text, and what of the text is no speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
from make_run import Spoken, make_run
from running import DATA, main

from pipeline.audio.reader import read_header
from pipeline.audio.waveforms import Extent
from pipeline.config.run_config import load
from pipeline.report.coverage import read_section
from pipeline.results import open_run
from pipeline.runtime.errors import UserError
from pipeline.stages import coverage
from pipeline.storage import manifest as manifests
from pipeline.storage.run_directory import RunDirectory
from pipeline.vad.silero import Detector, Options

RATE = 16000
TALK, RATE_OF_TALK = soundfile.read(DATA / "librivox" / "sense_and_sensibility_01_austen_64kb-0870.wav")
QUIET = 0.001 * np.random.default_rng(3).standard_normal(6 * RATE)
WORDS = [("A", frame, frame + 10, 0.9) for frame in range(50, 290, 20)]


def recording(path: Path, *parts: np.ndarray) -> str:
    soundfile.write(path, np.concatenate(parts), RATE)
    return str(path)


def speech_in(path: str) -> list[tuple[float, float]]:
    return Detector(Options()).stretches(Extent(path), read_header(path), lambda: None)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose recordings are known, with its coverage; and what was said."""
    folder = tmp_path_factory.mktemp("coverage")
    assert RATE_OF_TALK == RATE
    paths = {name: recording(folder / f"{name}.wav", TALK) for name in ("missed", "failed", "gone")}
    paths["invented"] = recording(folder / "invented.wav", QUIET)
    paths["half"] = recording(folder / "half.wav", TALK, QUIET, TALK)
    paths["changed"] = recording(folder / "changed.wav", QUIET)
    frames = round(len(TALK) / RATE / 0.02)
    every = [("A", frame, frame + 20, 0.9) for frame in range(0, frames - 20, 25)]
    rows = [
        [
            Spoken("changed"),
            Spoken("gone"),
            Spoken("half#0", every, start_s=0.0),
            Spoken("missed#0", every, start_s=0.0),
        ],
        [Spoken("half#9", WORDS[:0], start_s=9.0), Spoken("invented", WORDS), Spoken("missed")],
        [Spoken("failed", failed=True)],
    ]
    for row in (row for shard in rows for row in shard):
        row.path = paths[row.id.partition("#")[0]]
    out = make_run(folder / "out", rows, outputs=("transcripts",))
    directory = RunDirectory(out)
    manifest, made_with = manifests.read(directory.manifest)
    headers = [read_header(path) for path in manifest.table["path"].to_pylist()]
    ids = manifest.table["id"].to_pylist()
    # There was another file in the place of missed.wav before.
    sizes = [5 if id_ == "missed#0" else header.file_size for id_, header in zip(ids, headers, strict=True)]
    measured = {
        "num_samples": pa.array([each.num_samples for each in headers], pa.int64()),
        "file_size": pa.array(sizes, pa.int64()),
        "end_s": pa.array([{"half#0": len(TALK) / RATE, "half#9": 9.5}.get(i) for i in ids]),
    }
    table = manifest.table
    for name, values in measured.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    manifest = manifests.Manifest(table, manifest.digest)
    with directory.lock():
        manifests.write(directory, manifest, made_with)
    Path(paths["gone"]).unlink()
    recording(Path(paths["changed"]), TALK)
    config = load(
        ["dataset=folder", f"dataset.root={folder}", "model=digits", f"run_dir={out}", "vad=silero", "stages=[vad]"]
    )
    with directory.lock():
        said = coverage.cover(config, directory, manifest, directory.commits(), lambda what: None)
    return out, said


@pytest.fixture(scope="module")
def rows(audited: tuple[Path, str]) -> pd.DataFrame:
    frame = open_run(audited[0]).coverage
    return frame.set_index(frame["path"].map(lambda path: Path(path).stem))


def test_speech_without_text_and_text_without_speech_are_told_apart(rows: pd.DataFrame) -> None:
    speech = sum(end_s - start_s for start_s, end_s in speech_in(rows.loc["missed", "path"]))
    assert speech > 1.0
    for name, column in (("missed", "speech_without_text_s"), ("failed", "speech_failed_s")):
        assert rows.loc[name, ["speech_s", column]].tolist() == pytest.approx([speech, speech])
        assert rows.loc[name, "speech_with_text_s"] == 0.0
    invented = rows.loc["invented"]
    assert (invented.speech_s, invented.duration_s, invented.decoded_s) == (0.0, 6.0, 6.0)
    assert invented.text_without_speech_s == invented.text_s == pytest.approx(12 * 0.2)


def test_a_recording_whose_segments_are_in_two_shards_has_one_row(rows: pd.DataFrame) -> None:
    half = rows.loc["half"]
    talk = len(TALK) / RATE
    assert half.duration_s == pytest.approx(2 * talk + 6.0)
    assert half.decoded_s == pytest.approx(talk + 0.5)
    assert half.utterances == 2
    first, second = ([s for s in speech_in(half.path) if (s[0] < talk) is begin] for begin in (True, False))
    assert half.speech_with_text_s == pytest.approx(sum(end_s - start_s for start_s, end_s in first), abs=0.3)
    assert half.speech_left_out_s == pytest.approx(sum(end_s - start_s for start_s, end_s in second))


def test_the_sums_close(rows: pd.DataFrame) -> None:
    searched = rows[rows["error"].isna()]
    assert len(searched) == 4
    for frame in (searched, searched.sum(numeric_only=True).to_frame().T):
        for whole, parts in (
            ("duration_s", ("decoded_s", "failed_s", "left_out_s")),
            ("speech_s", [f"speech_{part}_s" for part in ("with_text", "without_text", "failed", "left_out")]),
            ("text_s", ("text_with_speech_s", "text_without_speech_s")),
        ):
            np.testing.assert_allclose(frame[[*parts]].sum(axis=1), frame[whole], atol=1e-9)


def test_a_recording_that_is_gone_or_was_replaced_is_no_recording_without_speech(rows: pd.DataFrame) -> None:
    assert rows.loc["gone", "error"] == "not_found: No such file or directory"
    assert rows.loc["changed", "error"].startswith("changed: the file has ")
    assert rows.loc[["gone", "changed"], ["speech_s", "speech_without_text_s"]].isna().all(axis=None)
    assert rows["utterances"].sum() == 7
    assert rows["failures"].sum() == 1


def test_the_worst_is_said_and_stands_first_in_the_report(audited: tuple[Path, str], rows: pd.DataFrame) -> None:
    out, said = audited
    assert said.startswith("speech: ")
    worst = (rows["speech_s"] - rows["speech_with_text_s"]).idxmax()
    assert f"; most speech that did not become text: {rows.loc[worst, 'path']}; 2 recordings could not be" in said
    section = read_section(RunDirectory(out))
    assert section is not None
    assert (section.recordings, section.unsearched) == (6, 2)
    missed, invented = section.worst
    assert {Path(each.name).stem for each in missed[1]} == {"missed", "failed", "half"}
    assert Path(missed[1][0].name).stem == worst
    assert [Path(each.name).stem for each in invented[1]] == ["invented"]
    assert report_size(out) > 0
    assert "Speech and text" in (out / "report" / "index.html").read_text()


def report_size(out: Path) -> int:
    from pipeline.config.schema import ReportSettings
    from pipeline.report import write_report

    directory = RunDirectory(out)
    with directory.lock():
        return write_report(directory, ReportSettings()).stat().st_size


def test_a_selection_has_the_recordings_of_its_utterances(audited: tuple[Path, str]) -> None:
    opened = open_run(audited[0])
    assert [Path(path).stem for path in opened.select(["half#0", "missed"]).coverage["path"]] == ["half", "missed"]


def test_a_run_is_audited_whatever_made_its_utterances_and_again_only_when_it_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "calls"
    root.mkdir()
    recording(root / "a.wav", TALK)
    given = [
        "dataset=folder",
        f"dataset.root={root}",
        "model=digits",
        "outputs=[transcripts]",
        f"run_dir={tmp_path / 'out'}",
    ]
    assert main([*given, "stages=[manifest,infer]"]) == 0
    assert open_run(tmp_path / "out").coverage.empty
    capsys.readouterr()
    assert main([*given, "stages=[vad]", "vad=silero"]) == 0
    assert "speech: " in capsys.readouterr().out
    audited = open_run(tmp_path / "out").coverage
    assert audited["speech_s"].tolist() == pytest.approx([sum(e - s for s, e in speech_in(str(root / "a.wav")))])
    monkeypatch.setattr(Detector, "prepare", lambda self: pytest.fail("searched again"))
    assert main([*given, "stages=[vad]", "vad=silero"]) == 0
    pd.testing.assert_frame_equal(open_run(tmp_path / "out").coverage, audited)
    recording(root / "b.wav", QUIET)
    assert main([*given, "stages=[manifest,infer]"]) == 0
    assert open_run(tmp_path / "out").coverage.empty  # it is not of the run as it is now


def test_a_run_without_transcripts_is_refused(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", [[Spoken("a")]], outputs=("emissions",))
    directory = RunDirectory(out)
    config = load(
        ["dataset=folder", f"dataset.root={tmp_path}", "model=digits", f"run_dir={out}", "vad=silero", "stages=[vad]"]
    )
    manifest, _ = manifests.read(directory.manifest)
    with directory.lock(), pytest.raises(UserError, match="compares speech with transcripts, and none is committed"):
        coverage.cover(config, directory, manifest, directory.commits(), print)
