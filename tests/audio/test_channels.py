"""Recordings with several channels: mixed, only the first, or one utterance per channel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import DATA, assert_accounting, run

from pipeline.datasets import folder
from pipeline.records import Utterance
from pipeline.results import open_run
from pipeline.stages.build_manifest import build as build_manifest
from pipeline.storage import manifest as manifests
from pipeline.storage.run_directory import RunDirectory

LEFT, RIGHT = "7_george_0", "2_jackson_1"


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stereo call, a mono recording with its text, and a file that cannot be read; for reading only."""
    root = tmp_path_factory.mktemp("stereo") / "calls"
    root.mkdir()
    sides = [soundfile.read(DATA / "fsdd" / f"{name}.wav", dtype="int16")[0] for name in (LEFT, RIGHT)]
    samples = np.zeros((max(map(len, sides)), 2), np.int16)
    for channel, side in enumerate(sides):
        samples[: len(side), channel] = side
    soundfile.write(root / "call.wav", samples, 8000)
    (root / "call.txt").write_text("seven two")
    (root / "mono.wav").symlink_to(DATA / "fsdd" / "0_theo_0.wav")
    (root / "mono.txt").write_text("zero")
    (root / "broken.wav").write_text("no samples")
    return root


@cache
def infer(root: Path, channels: str) -> Path:
    """A run over a folder, once for all tests; for reading only."""
    run_dir = root.parent / channels
    done = run(
        *("dataset=folder", f"dataset.root={root}", "model=digits", f"channels={channels}", f"run_dir={run_dir}"),
        cwd=root.parent,
    )
    assert done.returncode == 3, done.stderr
    assert_accounting(run_dir)
    return run_dir


def test_each_channel_is_an_utterance_that_reads_its_own_side(calls: Path) -> None:
    result = open_run(infer(calls, "each"))
    frame = result.transcripts.set_index("id")
    assert list(frame.index) == ["call.wav#c1", "call.wav#c2", "mono.wav#c1"]
    assert frame.text.tolist() == ["SEVEN", "TWO", "ZERO"]
    assert frame.channel.tolist() == [1, 2, 1]
    assert list(result.failures.id) == ["broken.wav"]
    assert result.manifest.set_index("id").loc["call.wav#c2", "num_channels"] == 2


def test_the_text_of_a_call_is_not_the_reference_of_a_side(calls: Path) -> None:
    frame = open_run(infer(calls, "each")).transcripts.set_index("id")
    assert frame.reference.isna().tolist() == [True, True, False]
    assert frame.loc["mono.wav#c1", "wer"] == 0


def test_a_channel_read_alone_equals_the_same_samples_in_a_file_of_their_own(calls: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    samples, rate = soundfile.read(calls / "call.wav", dtype="int16")
    soundfile.write(alone / "right.wav", samples[:, 1], rate)
    (alone / "broken.wav").write_text("no samples")
    right = open_run(infer(alone, "mix")).emission("right.wav")
    assert np.abs(open_run(infer(calls, "each")).emission("call.wav#c2") - right).max() <= 1e-4


def test_first_reads_the_first_channel_and_mix_the_average(calls: Path) -> None:
    first = open_run(infer(calls, "first")).transcripts.set_index("id")
    assert first.loc["call.wav", "text"] == "SEVEN"
    assert "channel" not in first.columns
    mixed = open_run(infer(calls, "mix"))
    first_side, average = (open_run(calls.parent / name).emission("call.wav") for name in ("first", "mix"))
    assert np.abs(first_side - average).max() > 0.1
    assert np.array_equal(open_run(calls.parent / "first").emission("mono.wav"), mixed.emission("mono.wav"))
    assert mixed.manifest.columns.tolist()[-1] == "shard"


def test_other_channels_are_another_run(calls: Path) -> None:
    infer(calls, "first")
    given = ("dataset=folder", f"dataset.root={calls}", "model=digits", f"run_dir={calls.parent / 'first'}")
    for channels in ("mix", "each"):
        done = run(*given, f"channels={channels}", cwd=calls.parent)
        assert done.returncode == 2
        assert "channels: " in done.stderr
        assert f"{channels} now" in done.stderr
    done = run(*given, "channels=left", cwd=calls.parent)
    assert done.returncode == 2
    assert "mix, first, each" in done.stderr


class Listed:
    """A dataset that names a channel for some utterances and also has a column `channel`."""

    run_name, notice = "listed", None

    def __init__(self, path: Path, channels: list[int | None]) -> None:
        self.path, self.channels = path, channels

    def columns(self) -> dict[str, str]:
        return {"channel": "string"}

    def utterances(self):
        for number, channel in enumerate(self.channels):
            yield Utterance(f"u{number}", str(self.path), "seven", columns={"channel": "A"}, channel=channel)


def test_a_channel_that_the_dataset_names_is_kept(calls: Path) -> None:
    built = build_manifest(Listed(calls / "call.wav", [2, None]), 1.0)
    assert [built.utterance(row).channel for row in (0, 1)] == [2, None]
    assert built.table["meta_channel"].to_pylist() == ["A", "A"]
    each = build_manifest(Listed(calls / "call.wav", [2, None]), 1.0, channels="each")
    assert each.table["id"].to_pylist() == ["u0", "u1#c1", "u1#c2"]
    assert each.table["reference"].to_pylist() == ["seven", None, None]


def test_without_channels_there_is_no_column_for_them(calls: Path, tmp_path: Path) -> None:
    built = build_manifest(folder.Dataset(folder.Options(root=str(calls))), 1.0)
    assert "channel" not in built.table.column_names
    directory = RunDirectory(tmp_path / "run")
    manifests.write(directory, built, {})
    again, _ = manifests.read(directory.manifest)
    assert again.utterance(0).channel is None
