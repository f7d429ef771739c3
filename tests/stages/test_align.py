"""Stage `align`: references are aligned with stored emissions, resumably, in a table of its own."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from make_run import Spoken, make_run
from running import SHORT

from pipeline.datasets import SHIPPED
from pipeline.models.catalog import MODELS
from pipeline.results import open_run
from pipeline.run import main
from pipeline.runtime.errors import UserError
from pipeline.stages.postprocessing.emissions import describe_emissions
from pipeline.storage.names import ALIGNMENTS
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.audit import audit

IDS = ("george-2digits-06", "jackson-1digits-01", "theo-1digits-04")


@pytest.fixture(scope="module")
def aligned(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("aligned") / "run"
    shutil.copytree(digits_run, out)
    assert main(["dataset=digits", f"run_dir={out}", "stages=[align]"]) == 0
    return out


def test_right_references_of_clear_speech_have_the_words_of_the_transcripts(aligned: Path) -> None:
    alignments, transcripts = (pd.read_parquet(aligned / name).set_index("id") for name in (ALIGNMENTS, "transcripts"))
    assert alignments.index.equals(transcripts.index)
    assert alignments["reason"].isna().all()
    assert alignments["llr_per_s"].max() == 0
    assert alignments["llr_per_s"].median() == 0
    of_ours, of_theirs = (
        [[(word["start_s"], word["end_s"]) for word in words] for words in table["words"]]
        for table in (alignments, transcripts)
    )
    same = sum(ours == theirs for ours, theirs in zip(of_ours, of_theirs, strict=True))
    assert same >= len(alignments) - 3
    lengths = alignments["characters"].map(len)
    assert (lengths == alignments["spelled"].str.replace(" ", "").str.len()).all()


def test_a_table_that_is_complete_is_left_alone(aligned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = RunDirectory(aligned).derived(ALIGNMENTS).records()
    assert main(["dataset=digits", f"run_dir={aligned}", "stages=[align]"]) == 0
    assert "alignments: complete already" in capsys.readouterr().out
    assert RunDirectory(aligned).derived(ALIGNMENTS).records() == before


def write(path: Path, references: Sequence[str | None]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "path", "reference"])
        for id_, reference in zip(IDS, references, strict=True):
            found = next((SHIPPED / "digits").rglob(f"{id_}.*"))
            rows.writerow([id_, found, reference])


def test_a_corrected_reference_aligns_its_shard_again_in_the_command_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["dataset=manifest", f"dataset.path={tmp_path}/list.csv", "model=digits", f"run_dir={tmp_path}/run"]
    given += ["outputs=[transcripts,emissions]", "shard.hours=0.0001", "stages=[manifest,infer,align]"]
    write(tmp_path / "list.csv", ["nine nine", "13", ""])
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "alignments: 3 of 3 shards to do" in said
    assert "aligned 2 utterances" in said
    assert "; 1 not (no_reference)" in said
    first = pd.read_parquet(tmp_path / "run" / ALIGNMENTS).set_index("id")
    assert first["spelled"].tolist()[:2] == ["NINE NINE", "THIRTEEN"]
    assert (first["llr_per_s"].iloc[:2] < -1).all()

    table = RunDirectory(tmp_path / "run").derived(ALIGNMENTS)
    before = table.records()
    write(tmp_path / "list.csv", ["four five", "13", ""])
    assert main(given) == 0
    assert "alignments: 1 of 3 shards to do" in capsys.readouterr().out
    after = table.records()
    assert [before[shard] == after[shard] for shard in range(3)] == [False, True, True]
    assert pd.read_parquet(tmp_path / "run" / ALIGNMENTS).set_index("id")["llr_per_s"].iloc[0] == 0

    write(tmp_path / "list.csv", ["four four", "13", ""])
    assert main([*given, "stages=[manifest]"]) == 0
    run = open_run(tmp_path / "run")
    assert run.alignments["id"].tolist() == [*IDS[1:]]  # those of the references that there are now
    assert run.select([IDS[1]]).alignments["id"].tolist() == [IDS[1]]
    assert "words" in run.select([IDS[0]]).alignments
    write(tmp_path / "list.csv", ["four five", "13", ""])

    assert main([*given, "align.numbers=de"]) == 0
    assert pd.read_parquet(tmp_path / "run" / ALIGNMENTS)["spelled"].tolist()[1] == "DREIZEHN"
    found = audit(RunDirectory(tmp_path / "run"))
    assert not found.problems
    table.begin({"align.numbers": "fr"})  # and then a kill: readers find no alignments of other settings
    assert not [*(tmp_path / "run" / ALIGNMENTS).iterdir()]


def test_labels_that_cannot_be_written_as_words_can_be_aligned(tmp_path: Path) -> None:
    """Those of mms_fa, which was made for it."""
    directory = RunDirectory(make_run(tmp_path / "run", [[Spoken("a", reference="ab")]], outputs=["emissions"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "constructed", MODELS["mms_fa"])
        with pytest.raises(UserError, match="cannot be written as words"):
            describe_emissions(directory, directory.commits())
        assert describe_emissions(directory, directory.commits(), to_align=True).labels.delimiter == ""


def test_a_finished_run_is_aligned_by_the_command_of_the_run_and_its_report_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*SHORT, f"run_dir={tmp_path / 'run'}"]
    stages = "stages=[manifest,infer,align,score,report]"
    assert main([*given, "stages=[manifest,infer,score,report]"]) == 0
    capsys.readouterr()
    for extend in ("extend=auto", "extend=off"):
        shutil.rmtree(tmp_path / "run" / ALIGNMENTS, ignore_errors=True)
        assert main([*given, stages, extend]) == 0
        said = capsys.readouterr().out
        assert "alignments: 1 of 1 shard to do" in said
        assert "report in " in said
        assert main([*given, stages, extend]) == 0
        said = capsys.readouterr().out
        assert "alignments: complete already" in said
        assert "report in " not in said
        assert "complete already; 24 of 24 utterances" in said


def test_without_stored_emissions_there_is_nothing_to_align(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["dataset=digits", f"run_dir={tmp_path}/run", "outputs=[transcripts]"]
    assert main([*given, "stages=[manifest,infer,align]"]) == 2
    assert "the stage align reads stored emissions; add emissions to outputs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
