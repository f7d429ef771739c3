"""Runs with `decoder=beam`: their tables, how they continue, and what they refuse before anything is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.run import main
from pipeline.storage import tables
from pipeline.verify import __main__ as verify

pytestmark = pytest.mark.usefixtures("elsewhere")
if sys.version_info >= (3, 13):
    pytest.skip("flashlight-text has no release for this Python", allow_module_level=True)

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def run(out: Path, lexicon: Path, *arguments: str) -> int:
    given = ["dataset=digits", "outputs=[transcripts]", "stages=[manifest,infer,score]", f"run_dir={out}"]
    return main([*given, "decoder=beam", f"decoder.lexicon={lexicon}", *arguments])


def test_a_run_keeps_texts_continues_with_a_moved_file_and_refuses_an_edited_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, lexicon = tmp_path / "out", tmp_path / "words.txt"
    lexicon.write_text("\n".join(DIGITS))
    assert run(out, lexicon, "decoder.nbest=2") == 0
    frame = pd.read_parquet(out / "transcripts")
    assert frame.word_errors.sum() == 0
    assert all(texts[0]["text"] == text for text, texts in zip(frame.text, frame.nbest, strict=True))
    schema = pq.read_schema(next((out / "transcripts").iterdir()))
    assert schema.names[len(tables.TRANSCRIPT_FIELDS)] == "nbest"
    assert verify.main([str(out), "--exactness", "2"]) == 0
    moved = lexicon.rename(tmp_path / "moved.txt")
    capfd.readouterr()
    assert run(out, moved, "decoder.nbest=2") == 0
    assert "complete already" in capfd.readouterr().out
    moved.write_text("\n".join([*DIGITS, "ten"]))
    assert run(out, moved, "decoder.nbest=2") == 2
    said = capfd.readouterr().err
    assert "was made with other settings (decoder.lexicon: " in said


def test_a_file_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("zero\n7\n")
    assert run(tmp_path / "out", lexicon) == 2
    said = capfd.readouterr().err
    assert said.startswith(
        f"error: decoder.lexicon={lexicon}: the labels of the model cannot spell '7'; they are - | E T"
    )
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
