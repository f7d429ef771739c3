"""The stage `report` of a run: the page is written once, and again where it no longer shows what there is."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from running import SHORT, run

import pipeline.report
from pipeline.run import main
from pipeline.runtime.errors import UserError

GIVEN = (*SHORT, "outputs=[transcripts]", "report.utterances=1", "stages=[manifest,infer,score,report]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "out"
    assert main([*GIVEN, f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def again(out: Path, *given: str) -> bool:
    """Whether the same command, or a changed one, writes the page again."""
    page = out / "report" / "index.html"
    before = page.stat().st_mtime_ns if page.exists() else None
    assert main([*GIVEN, f"run_dir={out}", *given]) == 0
    return page.stat().st_mtime_ns != before


def test_a_page_that_shows_what_there_is_stays(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not again(out)
    said = capsys.readouterr().out
    assert "complete already" in said
    assert "report in" not in said


@pytest.mark.parametrize("changed", ["report.utterances=2", "score.normaliser=none", "score.by=[speaker]"])
def test_a_page_is_written_again_where_something_else_is_asked_for(out: Path, changed: str) -> None:
    assert again(out, changed)
    assert not again(out, changed)
    assert again(out)


def test_a_page_says_the_normaliser_and_the_settings_of_the_scores_it_shows(out: Path) -> None:
    again(out, "score.normaliser=none")
    page = (out / "report" / "index.html").read_text()
    assert "nothing but single spaces" in page
    assert "normaliser: none" in page


@pytest.mark.parametrize("left", ["", "<html>", None])
def test_a_page_that_is_empty_foreign_or_gone_is_written_again(out: Path, left: str | None) -> None:
    page = out / "report" / "index.html"
    page.unlink()
    if left is not None:
        page.write_text(left)
    assert again(out)
    assert "complete" in page.read_text()


def test_a_page_of_before_a_kill_is_written_again(out: Path) -> None:
    given = (*GIVEN, f"run_dir={out}", "score.normaliser=none")
    assert run(*given, cwd=out.parent, PIPELINE_FAILPOINT="report").returncode == -signal.SIGKILL
    assert again(out, "score.normaliser=none")


def test_scores_made_alone_make_the_page_old(out: Path) -> None:
    assert main([*SHORT, f"run_dir={out}", "stages=[score]", "score.normaliser=none"]) == 0
    assert again(out, "score.normaliser=none")


def test_a_page_that_cannot_be_made_does_not_keep_back_what_the_run_says(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("a table cannot be read")

    monkeypatch.setattr(pipeline.report, "write_report", refuse)
    assert main([*GIVEN, f"run_dir={out}", "report.utterances=3"]) == 2
    said = capsys.readouterr()
    assert "24 of 24 utterances" in said.out
    assert said.err == "error: a table cannot be read\n"


def test_a_report_can_be_asked_for_alone(out: Path) -> None:
    (out / "report" / "index.html").unlink()
    assert main([*SHORT, f"run_dir={out}", "stages=[report]", "report.utterances=1"]) == 0
    assert (out / "report" / "index.html").is_file()
