"""The weights of a decoder are found on one part of a noisy corpus, and measured on another."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from arpa import write_arpa
from running import SHIPPED, main

from pipeline.results import open_run
from pipeline.storage.run_directory import RunDirectory
from pipeline.tune import __main__ as tune
from pipeline.tune.output import Tried, command_of
from pipeline.tune.parts import draw_parts

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the shipped digits with white noise of 3 dB less than the speech. For reading only."""
    folder = tmp_path_factory.mktemp("noisy")
    draw = np.random.default_rng(0)
    with open(SHIPPED / "digits" / "transcripts.csv") as source, open(folder / "list.csv", "w") as target:
        target.write("id,path,text,speaker\n")
        for row in csv.DictReader(source):
            samples, rate = soundfile.read(SHIPPED / "digits" / row["file_name"])
            noise = draw.standard_normal(len(samples)) * np.sqrt((samples**2).mean()) * 10 ** (-3 / 20)
            soundfile.write(folder / row["file_name"], (samples + noise) / 2, rate)
            target.write(f"{row['file_name']},{row['file_name']},{row['transcript']},{row['speaker']}\n")
    given = ["dataset=manifest", f"dataset.path={folder / 'list.csv'}", "model=digits", f"run_dir={folder / 'run'}"]
    assert main([*given, "outputs=[transcripts,emissions]", "shard.hours=0.01"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A language model in which each digit follows each."""
    return write_arpa(
        tmp_path_factory.mktemp("lm") / "lm.arpa", WORDS, [(first, then) for first in WORDS for then in WORDS]
    )


def test_the_parts_share_no_utterance_and_depend_on_the_seed_only(noisy: Path) -> None:
    directory = RunDirectory(noisy)
    first, second = draw_parts(directory, directory.commits(), 1.0, seed=1)
    assert len(first.references) + len(second.references) == 60
    assert abs(first.audio_s - second.audio_s) < 2 * open_run(noisy).manifest.duration_s.max()
    assert sorted([*first.references, *second.references]) == sorted(open_run(noisy).manifest.reference)
    again, _ = draw_parts(directory, directory.commits(), 1.0, seed=1)
    assert again.references == first.references
    other, _ = draw_parts(directory, directory.commits(), 1.0, seed=2)
    assert other.references != first.references
    for part in draw_parts(directory, directory.commits(), 0.01, seed=1):
        assert 0.008 * 3600 < part.audio_s <= 0.01 * 3600
    assert first.speakers is not None
    assert len(set(first.speakers.tolist())) == 6


def test_the_best_setting_is_measured_on_utterances_it_was_not_chosen_on(
    noisy: Path, lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    given = [str(noisy), f"decoder.lm={lm}", "decoder.lm_weight=0,1", "decoder.beam_size=2,20", "--out", str(out)]
    assert tune.main(given) == 0
    said = capsys.readouterr().out
    assert "4 settings on 31 utterances" in said
    assert "on 29 other utterances: greedy " in said
    assert "warning" not in said
    rows = list(csv.DictReader((out / "tuning.csv").open()))
    assert [(row["decoder.lm_weight"], row["decoder.beam_size"]) for row in rows] == [
        ("0.0", "2"), ("0.0", "20"), ("1.0", "2"), ("1.0", "20")
    ]  # fmt: skip
    best = min(rows, key=lambda row: float(row["wer"]))
    assert f"decoder=beam decoder.beam_size={best['decoder.beam_size']} decoder.lm={lm}" in said
    assert (out / "tuning.svg").read_text().count("<svg") == 1
    # The same decoder over the whole run has the same errors.
    settings = [f"{key}={value}" for key, value in best.items() if key != "wer" and value]
    listed = ["dataset=manifest", f"dataset.path={noisy.parent / 'list.csv'}", "model=digits", f"run_dir={noisy}"]
    assert main([*listed, "shard.hours=0.01", "stages=[decode]", "decoder=beam", *settings]) == 0
    errors = open_run(noisy / "transcripts-beam").transcripts.set_index("id")
    directory = RunDirectory(noisy)
    parts = draw_parts(directory, directory.commits(), 1.0, seed=0)
    chosen, measured = (errors.loc[[*part.ids]][["word_errors", "reference_words"]].sum() for part in parts)
    assert float(best["wer"]) == chosen.word_errors / chosen.reference_words > 0
    assert f"best setting {100 * measured.word_errors / measured.reference_words:.2f} %" in said


def test_a_decoder_that_does_not_help_is_a_warning(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("zero\n")
    given = [f"decoder.lexicon={tmp_path / 'words.txt'}", "decoder.nbest=1,2", "decoder.beam_size=5"]
    assert tune.main([str(noisy), *given, "--out", str(tmp_path / "tuned")]) == 0
    said = capsys.readouterr().out
    assert "warning: the best setting does not help" in said
    assert "decoder.nbest makes no difference here" in said


def test_some_of_the_usual_settings_are_drawn_where_none_are_given(
    noisy: Path, lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(noisy), f"decoder.lm={lm}", "--random", "3", "--hours", "0.02", "--out", str(tmp_path / "tuned")]
    assert tune.main(given) == 0
    rows = list(csv.DictReader((tmp_path / "tuned" / "tuning.csv").open()))
    assert len(rows) == 3
    assert {row["decoder.lm"] for row in rows} == {lm}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["decoder.beam_size=5"], "one setting, so there is nothing to choose"),
        (["decoder.lm=/none.arpa"], "decoder.lm=/none.arpa: no such file"),
        (["decoder.beam=5,6"], "decoder.beam=5: no such key"),
        (["model=digits"], "model=digits: is no key of the decoder"),
        (["--decoder", "beem"], "decoder=beem"),
        (["--hours", "0"], "--hours=0.0: must be above 0"),
        (["--seed", "-1"], "--seed=-1: must be 0 or a larger whole number"),
        (["--hours", "0.001", "decoder.beam_size=5,6"], "utterances with a reference and an emission"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(
    given: list[str], said: str, noisy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([str(noisy), *given]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert tune.main([str(noisy), "--out", str(noisy / "tuned")]) == 2
    assert f"--out={noisy / 'tuned'}: is inside the run directory" in capsys.readouterr().err


def test_a_curve_takes_numbers_in_order_before_files_and_nothing() -> None:
    points = [{"decoder.lm": value} for value in ("b.arpa", None, 10, 9.5)]
    assert [value for value, _ in Tried(points, [0.1, 0.2, 0.3, 0.4]).curve("decoder.lm")] == [9.5, 10, None, "b.arpa"]


def test_the_usual_options_are_not_part_of_the_command() -> None:
    usual = {"decoder.beam_size": 50, "decoder.lm": None}
    assert command_of("beam", usual, usual).endswith(" decoder=beam")
    assert command_of("beam", {**usual, "decoder.lm": "a b"}, usual).endswith(" decoder=beam 'decoder.lm=a b'")
