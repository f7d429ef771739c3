"""`vad=silero` makes segments: which recordings are split, what stays whole, and what is searched again."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import DATA, assert_accounting, main

from pipeline.results import open_run
from pipeline.stages import speech
from pipeline.storage.speech import SpeechStore
from pipeline.vad.silero import Detector
from pipeline.verify import __main__ as verify

GIVEN = ("dataset=folder", "model=digits", "device=cpu", "outputs=[transcripts]", "vad=silero")
STAGES = "stages=[manifest,vad,infer]"
WARNED = (
    "recordings with a reference, which stay whole with vad=silero, because it cannot be split: 1; the first: known",
    "recordings without speech, which make no utterance: 1; the first: quiet.wav",
    "recordings that cannot be searched for speech, and stay whole: 1; the first: damaged.flac: truncated: ",
)


def digit(number: int) -> np.ndarray:
    return soundfile.read(DATA / "fsdd" / f"{number}_george_1.wav", dtype="float32")[0]


def pause(seconds: float) -> np.ndarray:
    return 0.001 * np.random.default_rng(1).standard_normal(int(8000 * seconds)).astype(np.float32)


def call(path: Path, *numbers: int) -> Path:
    """A recording of digits with pauses of a second around each."""
    parts = [pause(1.0), *(part for number in numbers for part in (digit(number), pause(1.0)))]
    soundfile.write(path, np.concatenate(parts), 8000)
    return path


def fill(root: Path) -> None:
    root.mkdir()
    call(root / "a.wav", 3, 7)
    call(root / "b.wav", 9)
    soundfile.write(root / "quiet.wav", pause(3.0), 8000)
    shutil.copy(DATA / "fsdd" / "2_theo_1.wav", root / "known.wav")
    (root / "known.txt").write_text("two")
    shutil.copy(DATA / "broken" / "bad.wav", root)
    damaged = bytearray((DATA / "long" / "jfk.flac").read_bytes())
    damaged[600_000:600_200] = bytes(200)
    (root / "damaged.flac").write_bytes(damaged)  # its header is right


def run(folder: Path, *changed: str) -> int:
    return main([*GIVEN, STAGES, f"dataset.root={folder / 'calls'}", f"run_dir={folder / 'out'}", *changed])


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Takes the names of the recordings whose speech is stored from now on."""
    names: list[str] = []
    add = SpeechStore.add

    def noting(self: SpeechStore, found) -> None:
        names.extend(os.path.basename(recording.path) for recording, _ in found)
        add(self, found)

    monkeypatch.setattr(SpeechStore, "add", noting)
    return names


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `calls` and the run `out` over them; for reading only."""
    folder = tmp_path_factory.mktemp("segments")
    fill(folder / "calls")
    assert run(folder) == 3
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The recordings and the run, to be changed; the recordings are where they were."""
    shutil.copytree(made / "out", tmp_path / "out")
    (tmp_path / "calls").symlink_to(made / "calls")
    return tmp_path


def test_stretches_of_speech_become_utterances_and_what_has_none_is_told(made: Path) -> None:
    opened = open_run(made / "out")
    rows = opened.manifest.set_index("id")
    split = [id_ for id_ in rows.index if "#" in id_]
    assert [id_.partition("#")[0] for id_ in split] == ["a.wav", "a.wav", "b.wav"]
    for id_ in split:
        start_s, end_s = rows.loc[id_, "start_s"], rows.loc[id_, "end_s"]
        assert id_.endswith(f"#{round(1000 * start_s)}-{round(1000 * end_s)}")
        assert rows.loc[id_, "duration_s"] == pytest.approx(end_s - start_s, abs=1 / 8000)
    assert {*rows.index} - {*split} == {"bad.wav", "damaged.flac", "known.wav"}
    assert rows.loc[["bad.wav", "damaged.flac", "known.wav"], "start_s"].isna().all()
    texts = opened.transcripts.set_index("id")["text"]
    assert texts[split].tolist() == ["THREE", "SEVEN", "NINE"]
    assert texts["known.wav"] == "TWO"
    assert sorted(opened.failures["id"]) == ["bad.wav", "damaged.flac"]
    assert_accounting(made / "out", ["transcripts"])
    covered = opened.coverage.set_index(opened.coverage["path"].map(os.path.basename))
    assert sorted(covered.index) == ["a.wav", "b.wav", "bad.wav", "damaged.flac", "known.wav", "quiet.wav"]
    assert covered.loc["quiet.wav", ["speech_s", "utterances", "left_out_s"]].tolist() == [0.0, 0, 3.0]
    assert covered["error"].dropna().index.tolist() == ["bad.wav", "damaged.flac"]
    log = (made / "out" / "logs" / "run.log").read_text()
    assert "3 recordings searched, 3 segments, " in log
    for line in WARNED:
        assert f"warning: {line}" in log
    assert verify.main([str(made / "out")]) == 0


def test_the_same_command_searches_nothing_again_and_other_settings_are_refused(
    copied: Path, searched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"dataset.root={os.path.realpath(copied / 'calls')}"
    assert run(copied, root) == 3
    assert "complete already; 4 of 6 utterances" in capsys.readouterr().out
    assert run(copied, root, "vad.threshold=0.6") == 2
    assert "(vad.threshold: 0.5 before, 0.6 now)" in capsys.readouterr().err
    assert run(copied, root, "vad=none", "stages=[manifest,infer]") == 2
    assert "(vad: silero before, not set now)" in capsys.readouterr().err
    assert run(copied, root, "vad.pad_s=0.2", "stages=[vad]") == 2  # as the other settings of the run
    assert "(vad.pad_s: 0.1 before, 0.2 now)" in capsys.readouterr().err
    assert run(copied, root, "vad=none", "stages=[infer,score]") == 3  # the manifest is only read
    assert searched == []


def test_a_grown_corpus_is_searched_only_where_it_is_new(
    tmp_path: Path, searched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "calls"
    root.mkdir()
    call(root / "a.wav", 3, 7)
    soundfile.write(root / "quiet.wav", pause(3.0), 8000)
    shutil.copy(DATA / "fsdd" / "2_theo_1.wav", root / "known.wav")
    (root / "known.txt").write_text("two")
    assert run(tmp_path) == 0
    assert searched == ["a.wav", "quiet.wav", "known.wav"]  # the last one for the coverage
    ids = open_run(tmp_path / "out").manifest["id"].tolist()
    call(root / "b.wav", 9)
    (root / "a.txt").write_text("three seven")  # too late: the recording was split
    (root / "known.txt").unlink()  # but it is a row of the manifest, which stays
    capsys.readouterr()
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert "the corpus has changed: 1 new, 1 with another reference" in said
    assert "references that came after their recordings were split, which are not used: 1; the first: a.wav" in said
    assert searched[3:] == ["b.wav"]
    grown = open_run(tmp_path / "out").manifest["id"].tolist()
    assert grown[:-1] == ids
    assert grown[-1].startswith("b.wav#")


@pytest.mark.usefixtures("default_signals")
def test_a_stop_costs_only_what_was_not_stored_yet(
    tmp_path: Path, searched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "calls"
    root.mkdir()
    for name in "abc":
        call(root / f"{name}.wav", 5)
    add = SpeechStore.add

    def stopped(self: SpeechStore, found) -> None:
        add(self, found)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(speech, "COMMIT_AUDIO_S", 0.0)
        patch.setattr(SpeechStore, "add", stopped)
        assert run(tmp_path) == 130
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    first = [*searched]
    assert run(tmp_path) == 0
    assert sorted(searched) == ["a.wav", "b.wav", "c.wav"]
    assert len(first) == 1
    assert open_run(tmp_path / "out").transcripts["text"].tolist() == ["FIVE"] * 3


def test_each_channel_is_split_by_itself(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    left = np.concatenate([pause(1.0), digit(3), pause(2.0)])
    right = np.concatenate([pause(2.0), digit(8), pause(2.0)])[: len(left)]
    soundfile.write(tmp_path / "calls" / "call.wav", np.stack([left[: len(right)], right], 1), 8000)
    assert run(tmp_path, "channels=each") == 0
    opened = open_run(tmp_path / "out")
    assert opened.manifest["id"].str.fullmatch(r"call\.wav#\d+-\d+#c[12]").all()
    assert opened.manifest["channel"].tolist() == [1, 2]
    assert opened.transcripts["text"].tolist() == ["THREE", "EIGHT"]


def test_segments_of_a_list_stay_as_they_are(
    tmp_path: Path, searched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recording = call(tmp_path / "a.wav", 3, 7)
    (tmp_path / "list.csv").write_text(f"path,start,end\n{recording},0.5,2\n")
    given = ["dataset=manifest", f"dataset.path={tmp_path / 'list.csv'}", f"run_dir={tmp_path / 'out'}"]
    assert main([*GIVEN, *given, "stages=[manifest,vad]"]) == 0
    assert "segments of the dataset, which stay as they are with vad=silero: 1; the first: a.wav#500-2000" in (
        capsys.readouterr().out
    )
    assert open_run(tmp_path / "out").manifest["id"].tolist() == ["a.wav#500-2000"]
    assert searched == []


def test_a_recording_whose_search_dies_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calls").mkdir()
    for name in "ab":
        call(tmp_path / "calls" / f"{name}.wav", 5)
    found = Detector.stretches

    def dying(self: Detector, extent, header, alive):
        if extent.path.endswith("a.wav"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found(self, extent, header, alive)

    monkeypatch.setattr(Detector, "stretches", dying)
    assert run(tmp_path, "stages=[manifest,vad]") == 0
    ids = open_run(tmp_path / "out").manifest["id"].tolist()
    assert ids[0] == "a.wav"
    assert ids[1].startswith("b.wav#")
    assert "stay whole: 1; the first: a.wav: worker_died" in (tmp_path / "out" / "logs" / "run.log").read_text()


def test_a_corpus_without_speech_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "calls").mkdir()
    soundfile.write(tmp_path / "calls" / "quiet.wav", pause(3.0), 8000)
    assert run(tmp_path) == 2
    assert "no recording has speech; lower vad.threshold=, or set vad=none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["vad=none", "stages=[vad]"], "stages=[vad]: the stage vad needs a detector of speech; add vad=silero"),
        (["stages=[manifest,infer]"], "stages=[manifest,infer]: vad=silero makes segments in the stage vad; add vad"),
        (["vad.pad_s=99"], "vad.pad_s=99"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dataset=digits", "vad=silero", f"run_dir={tmp_path / 'out'}", *given]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
