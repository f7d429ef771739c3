"""The page marks the words of references that fit the sound worst."""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path

import pytest

from pipeline.config.schema import ReportSettings
from pipeline.datasets import SHIPPED
from pipeline.report import suspects, write_report
from pipeline.report.freshness import mark_of
from pipeline.report.population import read_population
from pipeline.report.suspects import read_suspects
from pipeline.run import main
from pipeline.storage.run_directory import RunDirectory

ROWS = {"george-2digits-06": "four <b>nine", "jackson-1digits-01": "two", "theo-1digits-04": None}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a reference of two words, of which the second is wrong, a right one, and none."""
    folder = tmp_path_factory.mktemp("suspects")
    with open(folder / "list.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "path", "reference"])
        rows.writerows((id_, next((SHIPPED / "digits").rglob(f"{id_}.*")), said) for id_, said in ROWS.items())
    given = ["dataset=manifest", f"dataset.path={folder}/list.csv", "model=digits", f"run_dir={folder}/run"]
    assert main([*given, "outputs=[transcripts,emissions]", "stages=[manifest,infer]"]) == 0
    before = mark_of(RunDirectory(folder / "run"), ReportSettings())
    assert main([*given, "stages=[align]"]) == 0
    assert mark_of(RunDirectory(folder / "run"), ReportSettings()) != before
    return folder / "run"


def test_the_wrong_word_is_marked_beside_a_player(run_dir: Path) -> None:
    page = write_report(RunDirectory(run_dir), ReportSettings()).read_text()
    section = page.partition('id="suspects"')[2].partition("</section>")[0]
    assert "1 of 2 references have a word that fits the sound badly" in section
    marked = re.search(r'<span class="name">marked</span>(.*?)</p>', section)
    assert marked is not None
    words = re.findall(r"(<mark>)?<bdi>(.*?)</bdi>", marked[1])
    assert [(bool(mark), html.unescape(word)) for mark, word in words] == [(False, "four"), (True, "<b>nine")]
    assert section.count("<audio") == 1
    track = section.partition(">reference</div>")[2].partition("</div>")[0]
    assert re.findall(r"<bdi>(.*?)</bdi>", track) == ["four", "&lt;b&gt;nine"]


def test_a_reference_that_fits_is_no_suspect_however_few_there_are(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "SUSPECT_LLR", -1e6)
    directory = RunDirectory(run_dir)
    records = directory.commits()
    found = read_suspects(directory, records, read_population(directory, records), 4, "mix")
    assert found is not None
    assert (found.aligned, found.suspected, list(found.shown)) == (2, 0, [])
