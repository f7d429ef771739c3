"""The page of a comparison, of two real runs with other settings and of texts that attack it, in a browser."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from make_run import Spoken, make_run
from playwright.sync_api import sync_playwright
from report_fixtures import HOSTILE, text_of

from pipeline.compare.__main__ import main
from pipeline.run import main as run

ARGUMENTS = "--no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --mute-audio".split()  # noqa: SIM905


def compare(a: Path, b: Path, out: Path, *options: str) -> str:
    assert main([str(a), str(b), "--html", "--out", str(out), *options]) == 0
    return (out / "comparison.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def two_settings(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The shipped corpus as a whole, and in chunks that are too short to hear a word in."""
    cut = tmp_path_factory.mktemp("cut") / "run"
    given = ["chunk.seconds=1", "chunk.context_seconds=0.1", "outputs=[transcripts,emissions]"]
    assert run(["dataset=digits", f"run_dir={cut}", "stages=[manifest,infer,score]", *given]) == 0
    return digits_run, cut


def test_two_settings_of_a_corpus_are_compared(
    two_settings: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = two_settings
    before = sorted((path, path.stat().st_mtime_ns) for each in two_settings for path in each.rglob("*"))
    page = compare(whole, cut, tmp_path / "out")
    assert sorted((path, path.stat().st_mtime_ns) for each in two_settings for path in each.rglob("*")) == before
    said = capsys.readouterr().out
    assert "chunk.seconds 60.0 / 1.0" in said
    rows = pd.read_parquet(tmp_path / "out" / "comparison.parquet")
    stored = pd.read_parquet(cut / "transcripts").set_index("id").reindex(rows.id)
    assert rows.word_errors_b.tolist() == stored.word_errors.tolist()
    assert rows.word_errors_b.sum() > rows.word_errors_a.sum()
    wer = 100 * rows.word_errors_b.sum() / rows.reference_words.sum()
    assert f" {wer:.2f} " in said
    assert f"WER of B {wer:.2f} %" in text_of(page)
    assert "speaker" in text_of(page)
    assert page.count("<audio controls") == 5
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    logprobs = pd.read_parquet(tmp_path / "out" / "comparison_logprobs.parquet")
    assert (logprobs.logprob_text_a_run_a > logprobs.logprob_text_b_run_a).mean() > 0.9

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "the page is tested in a browser: apt-get install chromium"
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 360, "height": 740})
        opened.on("console", lambda message: troubles.append(message.text))
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        opened.goto((tmp_path / "out" / "comparison.html").as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth") == 360
        first = opened.locator("#better_a-1")
        tracks = first.locator(".track.words")
        assert tracks.count() == 2
        tracks.nth(0).locator(".word").nth(0).click()
        assert tracks.nth(0).locator(".word.now").count() == 1
        tracks.nth(1).locator(".word").last.click()
        assert tracks.nth(1).locator(".word.now").count() == 1
        assert tracks.nth(1).locator(".word").last.inner_text() in first.locator(".now").first.inner_text()
        assert first.locator(".pairs.three mark").count() > 0
        browser.close()
    assert troubles == []


def test_runs_whose_texts_are_the_same_have_no_difference(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = text_of(compare(digits_run, digits_run, tmp_path))
    assert "The texts of both runs have the same words." in page
    assert "+0.00 points" in page
    assert "the same settings" in capsys.readouterr().out


@pytest.mark.parametrize("reference", [HOSTILE, None])
def test_nothing_that_strangers_write_is_markup(reference: str | None, tmp_path: Path) -> None:
    for name, word in (("a", HOSTILE), ("b", "B")):
        spoken = [
            Spoken(f"{number}{HOSTILE}", [(word, 0, 3, 0.5)], reference, {"room": f"{HOSTILE}{number % 2}"})
            for number in range(4)
        ]
        make_run(tmp_path / name, [spoken], {"room": "string"}, outputs=["transcripts"])
    page = compare(tmp_path / "a", tmp_path / "b", tmp_path / "out", "--by", "room")
    assert "<img" not in page
    assert page.count("</script>") == 1
    assert "\u202e" not in page
    assert "\x07" not in page
    assert "onerror" in text_of(page)
