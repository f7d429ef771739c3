"""`scripts/analysis.py` gives the right answers where they are known, and says what a run lacks where it has none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from make_run import Spoken, make_run
from PIL import Image
from running import ROOT, environment, server

from pipeline.results import open_run

SCRIPT = ROOT / "scripts" / "analysis.py"


@pytest.fixture(scope="module")
def analysis() -> ModuleType:
    spec = importlib.util.spec_from_file_location("analysis", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In rm3 more words are wrong than elsewhere; SHAKY is uncertain; layer 2 knows the speaker, layer 1 does not."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(5, 16))
    utterances = []
    for index in range(160):
        room, speaker = ("rm1", "rm2", "rm3")[index % 3], index % 5
        wrong = random.random(4) < {"rm1": 0.02, "rm2": 0.1, "rm3": 0.3}[room]
        reference = ["steady", "shaky", "word", "again"]
        read = ["WRONG" if each else word.upper() for word, each in zip(reference, wrong, strict=True)]
        words = [
            (word, 10 * place, 10 * place + 8, {"WRONG": 0.2, "SHAKY": 0.55}.get(word, 0.97))
            for place, word in enumerate(read)
        ]
        frames = random.normal(size=(40, 16)) / 2
        utterances.append(
            Spoken(
                f"u{index:03}",
                words,
                reference=" ".join(reference),
                columns={"room": room, "speaker": f"s{speaker}"},
                features={1: frames + random.normal(size=16), 2: frames + 3 * centres[speaker]},
                num_frames=40,
            )
        )
    root = tmp_path_factory.mktemp("made") / "run"
    return make_run(root, [utterances[:90], utterances[90:]], {"room": "string", "speaker": "string"})


def answers(output: str) -> dict[str, str]:
    lines = output.splitlines()
    return {line: lines[index + 1].strip() for index, line in enumerate(lines) if not line.startswith(" ")}


def test_known_questions_get_the_known_answers(
    known: Path, analysis: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analysis.main([str(known), "--out", str(tmp_path / "out")]) == 0
    said = answers(capsys.readouterr().out)
    condition = said["Which condition hurts most?"]
    rates = open_run(known).transcripts.groupby("room").wer.mean()  # every utterance has four words
    assert condition.startswith(f"room = rm3: WER {100 * rates['rm3']:.1f} % (95 % interval ")
    assert f"the least is room = rm1, {100 * rates['rm1']:.1f} %" in condition
    assert "too small to be sure" not in condition
    words = said["Which words are uncertain?"]
    assert words.startswith("WRONG (0.20 in ")
    assert ", SHAKY (0.55 in " in words
    assert "of the least certain tenth, 0.0 %" in words
    speakers = said["Do features separate speakers?"]
    assert speakers.startswith("Yes: the mean of layer 2 is nearest to its own among 5 speakers in 100.0 % of 160")
    assert "(chance 20.0 %)" in speakers
    assert "Layer 1 tells least" in speakers
    for name in ("conditions", "words", "speakers"):
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            image.load()
            assert min(image.size) > 400


def test_a_real_run_is_analysed_by_the_command_that_the_page_says(digits_run: Path, tmp_path: Path) -> None:
    given = [str(digits_run), "--out", str(tmp_path)]
    ended = server().run(str(SCRIPT), given, cwd=tmp_path, env=environment(), timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = answers(ended.stdout)
    assert "speakers in" in said["Do features separate speakers?"]
    assert said["Which condition hurts most?"].startswith("None: no word of 186")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conditions.png", "speakers.png", "words.png"]


def test_what_a_run_lacks_is_said_in_one_line(
    analysis: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = make_run(tmp_path / "bare", [[Spoken("a", [("WORD", 0, 5, 0.5)])]], outputs=["transcripts"])
    assert analysis.main([str(bare)]) == 0
    said = answers(capsys.readouterr().out)
    assert said["Which condition hurts most?"].startswith("cannot be said: the run has no scores")
    assert said["Which words are uncertain?"].startswith("WORD (0.50 in 1)")
    assert "there are no references" in said["Which words are uncertain?"]
    assert said["Do features separate speakers?"].startswith("cannot be said: the dataset says nothing of speakers")
    assert [path.name for path in (bare / "report" / "analysis").iterdir()] == ["words.png"]
    columns = {"speaker": "string"}
    one = [Spoken(id_, reference="a", columns={"speaker": id_}, features={1: np.ones((50, 2))}) for id_ in "ab"]
    for outputs, lacks in ((["features"], "fewer than two speakers"), (["transcripts"], "has no features")):
        assert analysis.main([str(make_run(tmp_path / outputs[0], [one], columns, outputs))]) == 0
        assert lacks in answers(capsys.readouterr().out)["Do features separate speakers?"]
    assert analysis.main([str(tmp_path)]) == 2
    assert "no run there" in capsys.readouterr().err


def test_a_condition_under_which_every_word_is_wrong_is_the_worst(
    analysis: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of its rates are one, so it has no interval; neither has one utterance, which may be wrong by chance."""

    def spoken(room: str, index: int, read: str) -> Spoken:
        words = [(word, 5 * place, 5 * place + 4, 0.9) for place, word in enumerate(read.split())]
        return Spoken(f"{room}-{index}", words, reference="one two three four", columns={"room": room})

    utterances = [spoken("rm1", index, "X X X X") for index in range(5)]
    utterances += [
        spoken("rm2", index, "ONE TWO THREE X" if index % 5 else "ONE TWO THREE FOUR") for index in range(40)
    ]
    utterances += [spoken("rm3", index, "ONE TWO THREE FOUR") for index in range(5)]
    for name, some, worst in (("all", utterances, "rm1"), ("one", utterances[4:], "rm2")):
        run_dir = make_run(tmp_path / name, [some], {"room": "string"}, outputs=["transcripts"])
        assert analysis.main([str(run_dir)]) == 0
        condition = answers(capsys.readouterr().out)["Which condition hurts most?"]
        assert condition.startswith(f"room = {worst}: WER {'100.0' if worst == 'rm1' else '20.0'} %")
        assert "the least is room = rm3" in condition


def test_speakers_are_found_where_the_list_is_not_sorted_by_id(
    analysis: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = {"s1": np.zeros((50, 2)), "s2": np.ones((50, 2))}
    spoken = [
        Spoken(id_, columns={"speaker": speaker}, features={1: frames.get(speaker, frames["s1"])})
        for id_, speaker in (("d", "s1"), ("c", "s2"), ("b", None), ("a", "s1"), ("e", "s2"))
    ]
    run_dir = make_run(tmp_path / "run", [spoken], {"speaker": "string"})
    assert open_run(run_dir).transcripts.id.tolist() != open_run(run_dir).manifest.id.tolist()
    assert analysis.main([str(run_dir)]) == 0
    assert "among 2 speakers in 100.0 % of 4" in answers(capsys.readouterr().out)["Do features separate speakers?"]


def test_no_place_to_write_and_damage_are_one_line(
    analysis: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: Path | str) -> str:
        assert analysis.main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("analysis: ")
        assert said.count("\n") == 1
        return said

    run_dir = make_run(tmp_path / "run", [[Spoken("a", [("WORD", 0, 5, 0.5)])]], outputs=["transcripts"])
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "under"):
        said = refused(run_dir, "--out", out)
        assert str(out) in said
        assert "give another --out" in said
    taken = tmp_path / "taken" / "words.png"
    taken.mkdir(parents=True)
    said = refused(run_dir, "--out", taken.parent)
    assert str(taken) in said
    assert "give another --out" in said
    manifest = run_dir / "manifest.parquet"
    manifest.write_bytes(b"\0" * manifest.stat().st_size)
    said = refused(run_dir)
    assert str(run_dir) in said
    assert "python -m pipeline.verify" in said


def test_an_utterance_is_not_near_to_a_mean_that_holds_itself(analysis: ModuleType) -> None:
    """Leave-one-out done the slow way: of noise, chance and no more."""
    random = np.random.default_rng(0)
    matrix, who = random.normal(size=(60, 200)), np.repeat(np.arange(6), 10)
    hits = 0
    for row in range(60):
        others = np.arange(60) != row
        centroids = np.stack([matrix[others & (who == each)].mean(axis=0) for each in range(6)])
        hits += int(((centroids - matrix[row]) ** 2).sum(axis=1).argmin() == who[row])
    assert analysis.nearest_centroid(matrix, who) == hits / 60
    assert hits / 60 < 0.4


def test_words_are_right_where_the_reference_has_them(analysis: ModuleType, tmp_path: Path) -> None:
    spoken = [
        Spoken(
            "a", [(word, at, at + 1, 0.5) for at, word in enumerate(["THE", "CAT", "SAT", "ON"])], "The big cat sat."
        ),
        Spoken("b", [("UNKNOWN", 0, 1, 0.5)]),
        Spoken("c", [], "silence"),
    ]
    right = analysis.are_right(open_run(make_run(tmp_path / "run", [spoken], outputs=["transcripts"])))
    assert right[:4].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert np.isnan(right[4])
    assert len(right) == 5


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"), [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (5, 10, 0.237, 0.763)]
)
def test_intervals_of_shares_are_wilsons(analysis: ModuleType, hits: int, total: int, low: float, high: float) -> None:
    assert analysis.wilson(hits, total) == pytest.approx((low, high), abs=1e-3)
