"""`python -m pipeline.sample`: a sample is drawn, labelled in Label Studio's format, imported and estimated from."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from changing import Corpus
from make_run import Spoken, make_run

from pipeline.results import open_run
from pipeline.sample import __main__ as sample

import_main = importlib.import_module("pipeline.import").main


def annotated(tasks: Path, out: Path) -> list[str]:
    """What Label Studio exports when each text gets one word more; returns the ids."""
    found: list[dict[str, Any]] = json.loads(tasks.read_text())
    for task in found:
        texts = [each for each in task["predictions"][0]["result"] if each["type"] == "textarea"]
        result = [each | {"value": each["value"] | {"text": [f"{each['value']['text'][0]} ten"]}} for each in texts]
        task["annotations"] = [{"result": result}]
    out.write_text(json.dumps(found))
    return [each["id"] for task in found for each in task["data"]["utterances"]]


def test_a_sample_is_drawn_labelled_and_estimated_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus(tmp_path)
    corpus.add(range(12), "monday")
    corpus.add(range(12, 24), "tuesday")
    assert corpus.run("outputs=[transcripts]") == 0
    run, folder = str(corpus.out), tmp_path / "out-sample"
    given = [run, "--hours", "0.005"]

    def refused(*arguments: str) -> str:
        capsys.readouterr()
        assert sample.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no sample there; draw one with --hours" in refused(run, "--estimate")
    assert "--hours=0.0: must be" in refused(run, "--hours", "0")
    assert "--by=shelf: the dataset has no column" in refused(*given, "--by", "shelf")
    assert "too many for about" in refused(run, "--hours", "0.0001", "--by", "folder1")
    assert sample.main([*given, "--by", "folder1", "--seed", "5"]) == 0
    assert "of 24 drawn with seed 5; strata: " in capsys.readouterr().out
    drawn = pq.read_table(folder / "sample.parquet")
    ids = annotated(folder / "tasks.json", tmp_path / "export.json")
    assert sorted(ids) == sorted(drawn.filter(drawn["drawn"])["id"].to_pylist())
    assert 4 < len(ids) < 24
    assert "has a sample already" in refused(*given)
    assert "no utterance of the run has a reference yet" in refused(run, "--estimate")

    assert import_main([run, str(tmp_path / "export.json")]) == 0
    capsys.readouterr()
    assert sample.main([*given, "--estimate"]) == 0
    said = capsys.readouterr().out
    assert "next worth labelling: " in said
    rows = pq.read_table(folder / "estimate.parquet").to_pylist()
    assert [row["group"] for row in rows] == ["overall", "folder1", "folder1"]
    assert (rows[0]["utterances"], rows[0]["labelled"]) == (24, len(ids))
    words = open_run(run).transcripts.text.str.split().str.len()
    assert rows[0]["wer"] == pytest.approx(24 / (words.sum() + 24), rel=0.3)
    assert rows[0]["wer_low"] < rows[0]["wer"] < rows[0]["wer_high"]

    following = annotated(folder / "next" / "tasks.json", tmp_path / "more.json")
    assert not {*following} & {*ids}
    assert import_main([run, str(tmp_path / "more.json")]) == 0
    assert sample.main([*given, "--estimate"]) == 0
    assert pq.read_table(folder / "estimate.parquet")["labelled"][0].as_py() == len(ids) + len(following)


def test_a_run_without_transcripts_yet_has_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", [[Spoken("a", failed=True)]], outputs=["transcripts"])
    assert sample.main([str(run)]) == 2
    assert "no utterance has a transcript yet; nothing to draw" in capsys.readouterr().err
