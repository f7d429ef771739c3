"""Outputs that are asked for after a run: what is computed, what stays as it is, and what readers find."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from changing import RECORDINGS, Corpus, Kept, assert_equal_to_one_run
from running import main, run

from pipeline import plot, status
from pipeline.compare import __main__ as compare
from pipeline.results import open_run
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import __main__ as verify

TEXTS, ARRAYS = "outputs=[transcripts]", "outputs=[transcripts,emissions,features]"
LAYERS = ("features.layers=[1,3]", "features.dtype=float32")
FEATURES = ("outputs=[features]", *LAYERS)
ALL = (ARRAYS, *LAYERS)
WITH_EMISSIONS = ("outputs=[transcripts,emissions]",)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A run of transcripts."""
    made = Corpus(tmp_path_factory.mktemp("first") / "corpus")
    made.add(range(6))
    assert made.run(TEXTS) == 0
    return Kept(made)


@pytest.fixture(scope="module")
def at_once(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all outputs over the same corpus."""
    out = tmp_path_factory.mktemp("at once") / "out"
    assert kept.restored().run(ARRAYS, *LAYERS, f"run_dir={out}") == 0
    return out


@pytest.fixture
def corpus(kept: Kept) -> Corpus:
    return kept.restored()


def rows_of(run_dir: Path, table: str) -> list[dict[str, object]]:
    rows = pq.read_table(run_dir / table).drop_columns(["path"] if table in ("transcripts", "failures") else [])
    return sorted(rows.to_pylist(), key=lambda row: [row["id"], row.get("layer"), row.get("part")])


def assert_same_rows(run_dir: Path, expected: Path) -> None:
    """Every table has the same values, bit for bit, and every reader of a folder finds each row once."""
    for table in ("transcripts", "emissions", "features", "failures"):
        assert rows_of(run_dir, table) == rows_of(expected, table), table
        assert len(pd.read_parquet(run_dir / table)) == len(rows_of(expected, table))


def committed(corpus: Corpus) -> dict[str, bytes]:
    """The files of the tables and the commit records."""
    return {name: data for name, data in corpus.files().items() if name.startswith(("t", "e", "f", "commits/"))}


def test_further_outputs_are_added_and_nothing_else_changes(
    corpus: Corpus, at_once: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = committed(corpus)
    capsys.readouterr()
    assert corpus.run("outputs=[transcripts,emissions]") == 0
    assert "3 of 3 shards to do (adds emissions)" in capsys.readouterr().out
    assert corpus.run(*FEATURES) == 0
    assert "3 of 3 shards to do (adds features of layers 1, 3)" in capsys.readouterr().out
    assert_same_rows(corpus.out, at_once)
    after = committed(corpus)
    assert {name: after[name] for name in before} == before
    assert corpus.run(*ALL) == 0
    assert "complete already" in capsys.readouterr().out
    assert committed(corpus) == after
    assert verify.main([str(corpus.out), "--exactness", "2"]) == 0
    assert status.main([str(corpus.out)]) == 0
    assert "partly" not in capsys.readouterr().out


def test_layers_can_be_added_and_are_read_like_those_of_one_pass(corpus: Corpus, at_once: Path) -> None:
    assert corpus.run(ARRAYS, "features.layers=[3]", "features.dtype=float32") == 0
    assert corpus.run(*ALL) == 0
    assert_same_rows(corpus.out, at_once)
    found, expected = open_run(corpus.out), open_run(at_once)
    assert found.layers == expected.layers == (1, 3)
    (id_, feature), *_ = found.features(1)
    assert np.array_equal(feature, expected.feature(id_, 1))
    assert np.array_equal(found.feature(id_, 3), expected.feature(id_, 3))
    for by in ("utterance", "word"):
        (rows, matrix), (same_rows, same) = (each.pooled_table(1, by) for each in (found, expected))
        assert rows.equals(same_rows)
        assert np.array_equal(matrix, same)


def test_fewer_outputs_are_no_error(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = kept.restored(WITH_EMISSIONS)
    before = committed(corpus)
    capsys.readouterr()
    assert corpus.run(TEXTS) == 0
    assert "complete already" in capsys.readouterr().out
    assert committed(corpus) == before
    corpus.add([7])
    assert corpus.run(TEXTS) == 0
    assert len(corpus.rows("transcripts")) == 7
    assert len(corpus.rows("emissions")) == 6
    assert status.main([str(corpus.out)]) == 0
    said = capsys.readouterr().out
    assert "partly   emissions in 3 of 4 shards\n" in said
    assert said.endswith("complete\n")  # the last command did not ask for emissions
    with pytest.raises(KeyError, match=r"has no emissions; run with outputs=\[emissions\] to add them"):
        open_run(corpus.out).emission(f"monday/{RECORDINGS[7].name}")
    assert verify.main([str(corpus.out), "--exactness", "7"]) == 0


def test_a_run_in_which_shards_have_different_outputs_is_checked_drawn_and_compared(
    corpus: Corpus, at_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.add([7])
    assert corpus.run("outputs=[emissions]") == 0
    new = f"monday/{RECORDINGS[7].name}"
    assert new not in [*open_run(corpus.out).transcripts["id"]]
    assert verify.main([str(corpus.out), "--exactness", "7"]) == 0
    assert plot.main([str(corpus.out), new, "--out", str(tmp_path)]) == 0
    assert plot.main([str(corpus.out), new, "--layers", "1"]) == 2
    assert f"no features of layer 1 are stored of {new}; there are none" in capsys.readouterr().err
    assert compare.main([str(corpus.out), str(at_once), "--out", str(tmp_path / "compared")]) == 0
    assert "outputs emissions, transcripts / emissions, features, transcripts" in capsys.readouterr().out


def test_a_grown_corpus_gets_all_outputs_in_one_pass(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.add([7, 8], "tuesday")
    assert corpus.run(*ALL) == 0
    said = capsys.readouterr().out
    assert "3 of 5 shards to do (adds emissions, features of layers 1, 3)" in said
    assert "2 of 5 shards to do, tables" in said
    assert not (corpus.out / "commits" / "shard-00003-1.json").exists()
    assert_equal_to_one_run(corpus, tmp_path / "fresh", *ALL)


@pytest.mark.parametrize(
    ("asked", "difference"),
    [
        (("outputs=[emissions]", "emissions.dtype=float16"), "emissions.dtype: float32 before, float16 now"),
        (("outputs=[transcripts,emissions]", "emissions.layout=binary"), "emissions.layout: list before, binary now"),
        (("outputs=[features]", "chunk.seconds=30"), "chunk.seconds: 60.0 before, 30.0 now"),
    ],
)
def test_other_settings_of_what_is_there_are_refused(
    asked: tuple[str, ...], difference: str, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = kept.restored(WITH_EMISSIONS)
    before = corpus.files()
    capsys.readouterr()
    assert corpus.run(*asked) == 2
    said = capsys.readouterr().err
    assert difference in said
    assert "outputs" not in said
    assert corpus.files() == before


def test_settings_of_outputs_that_were_stopped_before_they_were_written_can_change(
    corpus: Corpus, at_once: Path, tmp_path: Path
) -> None:
    for asked in ("emissions.dtype=float16", "features.dtype=float16"):
        killed = run(*corpus.given(ARRAYS, *LAYERS, asked), cwd=tmp_path, PIPELINE_FAILPOINT="staged")
        assert killed.returncode == -signal.SIGKILL
    assert corpus.run(*ALL) == 0
    assert_same_rows(corpus.out, at_once)
    assert verify.main([str(corpus.out)]) == 0
    assert corpus.run(ARRAYS, *LAYERS, "emissions.dtype=float16") == 2


POINTS = ("run-json-written", "staged", "renamed", "file-synced@4", "scores")


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_outputs_are_added_and_run_again_it_is_as_undisturbed(
    point: str, corpus: Corpus, at_once: Path, tmp_path: Path
) -> None:
    before = committed(corpus)
    killed = run(*corpus.given(*ALL), cwd=tmp_path, PIPELINE_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL
    assert {name: data for name, data in committed(corpus).items() if name in before} == before
    assert verify.main([str(corpus.out)]) == 0
    assert corpus.run(*ALL) == 0
    assert_same_rows(corpus.out, at_once)
    assert verify.main([str(corpus.out)]) == 0


def test_what_failed_is_not_computed_again_and_what_fails_now_is_a_failure(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus.root / "tuesday").mkdir()
    (corpus.root / "tuesday" / "broken.flac").write_bytes(b"fLaC")
    corpus.add([7], "tuesday")
    assert corpus.run(TEXTS) == 3
    before = committed(corpus)
    lost = corpus.root / "monday" / RECORDINGS[0].name
    lost.rename(tmp_path / "kept.flac")
    assert corpus.run(TEXTS, "extend=off") == 3
    assert corpus.run(ARRAYS, *LAYERS, "extend=off") == 3
    found = open_run(corpus.out)
    assert sorted(found.failures["id"]) == [f"monday/{lost.name}", "tuesday/broken.flac"]
    assert f"monday/{lost.name}" in [*found.transcripts["id"]]
    assert f"monday/{lost.name}" not in dict(found.emissions())
    assert "2 failures (" in capsys.readouterr().out
    assert verify.main([str(corpus.out)]) == 0
    assert [read.num_failures for read in RunDirectory(corpus.out).commits().values()] == [1, 0, 0, 1]

    for asked in ((TEXTS,), ALL):  # the file is still gone
        assert corpus.run(*asked, "retry_failed=true", "extend=off") == 3
        assert f"monday/{lost.name}" in [*open_run(corpus.out).transcripts["id"]]
        assert len(dict(open_run(corpus.out).emissions())) == 6
        assert verify.main([str(corpus.out)]) == 0
    (tmp_path / "kept.flac").rename(lost)
    assert corpus.run(TEXTS, "retry_failed=true", "extend=off") == 3
    assert open_run(corpus.out).failures["id"].tolist() == ["tuesday/broken.flac"]
    assert len(dict(open_run(corpus.out).emissions())) == 7
    assert_equal_to_one_run(corpus, tmp_path / "fresh", *ALL)
    after = committed(corpus)
    first = {name: data for name, data in before.items() if "shard-00000" in name}
    assert {name: after[name] for name in first} == first  # only the supplement had failed
    assert not [*corpus.out.glob("*/shard-00003-1.*")]  # failed in the first pass, so the shard was computed whole


def test_a_retry_that_would_lose_a_result_keeps_every_pass(corpus: Corpus, tmp_path: Path) -> None:
    corpus.add([7, 8], "monday")
    (corpus.root / "monday" / "broken.flac").write_bytes(b"fLaC")
    whole = Corpus(tmp_path / "whole", "shard.hours=1")
    shutil.rmtree(whole.root)
    shutil.copytree(corpus.root, whole.root)
    assert whole.run(TEXTS) == 3
    assert whole.run(ARRAYS) == 3
    before = committed(whole)
    (whole.root / "monday" / RECORDINGS[0].name).unlink()
    shutil.copy(RECORDINGS[1], whole.root / "monday" / "broken.flac")
    assert whole.run(ARRAYS, "retry_failed=true", "extend=off") == 3
    assert committed(whole) == before


def test_a_retry_that_keeps_a_shard_still_adds_what_is_asked_for(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Corpus(tmp_path / "whole", "shard.hours=1")
    whole.add(range(3))
    (whole.root / "monday" / "broken.flac").write_bytes(b"fLaC")
    assert whole.run(TEXTS) == 3
    lost = whole.root / "monday" / RECORDINGS[0].name
    lost.unlink()
    assert whole.run("outputs=[transcripts,emissions]", "retry_failed=true", "extend=off") == 3
    assert "1 shard kept unchanged" in capsys.readouterr().out
    found = open_run(whole.out)
    assert len(found.transcripts) == 3
    assert len(dict(found.emissions())) == 2
    assert sorted(found.failures["id"]) == sorted([f"monday/{lost.name}", "monday/broken.flac"])
    assert verify.main([str(whole.out)]) == 0


def test_a_retry_that_fails_again_in_a_supplement_keeps_the_results_of_the_first_pass(corpus: Corpus) -> None:
    (corpus.root / "monday" / RECORDINGS[0].name).unlink()
    assert corpus.run("outputs=[transcripts,emissions]", "extend=off") == 3
    (corpus.root / "monday" / RECORDINGS[1].name).unlink()  # in the same shard, which has its emission
    assert corpus.run(ARRAYS, *LAYERS, "extend=off") == 3
    before = {table: rows_of(corpus.out, table) for table in ("transcripts", "emissions", "features")}
    assert corpus.run(ARRAYS, *LAYERS, "retry_failed=true", "extend=off") == 3
    assert {table: rows_of(corpus.out, table) for table in before} == before
    assert verify.main([str(corpus.out)]) == 0


def test_the_failures_of_all_passes_count_towards_their_maximum(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus.root / "monday" / RECORDINGS[0].name).write_bytes(b"fLaC")  # gets a supplement
    (corpus.root / "monday" / "broken.flac").write_bytes(b"fLaC")  # gets a shard
    assert corpus.run("outputs=[transcripts,emissions]", "max_failures=1") == 1
    assert "2 failures, more than max_failures=1" in capsys.readouterr().err


def test_a_shard_in_which_all_failed_gets_tables_without_rows(corpus: Corpus) -> None:
    (corpus.root / "broken.flac").write_bytes(b"fLaC")
    assert corpus.run(TEXTS) == 3
    assert corpus.run("outputs=[transcripts,emissions]") == 3
    assert pq.read_metadata(corpus.out / "emissions" / "shard-00003-1.parquet").num_rows == 0
    assert len(open_run(corpus.out).failures) == 1
    assert verify.main([str(corpus.out)]) == 0
    assert corpus.run("outputs=[transcripts,emissions]") == 3


def test_failures_that_cannot_be_read_are_named(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus.root / "broken.flac").write_bytes(b"fLaC")
    assert corpus.run(TEXTS) == 3
    damaged = corpus.out / "failures" / "shard-00003.parquet"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    capsys.readouterr()
    for asked in ("outputs=[emissions]", "retry_failed=true"):
        assert corpus.run(asked) == 2
        said = capsys.readouterr().err
        assert f"{damaged}: cannot be read" in said
        assert said.count("\n") == 1
    assert verify.main([str(corpus.out), "--retract"]) == 1
    assert corpus.run("outputs=[transcripts,emissions]") == 3
    assert verify.main([str(corpus.out)]) == 0


def test_a_damaged_supplement_is_computed_again_and_the_first_pass_is_not(corpus: Corpus, at_once: Path) -> None:
    assert corpus.run("outputs=[emissions]") == 0
    before = committed(corpus)
    assert corpus.run(*ALL) == 0
    after = committed(corpus)
    (corpus.out / "emissions" / "shard-00001-1.parquet").unlink()
    assert verify.main([str(corpus.out)]) == 1
    assert corpus.run(*ALL) == 0
    assert_same_rows(corpus.out, at_once)
    kept = [name for name in before if "00001-1" not in name]
    assert [committed(corpus)[name] for name in kept] == [before[name] for name in kept]
    # The later supplement of the shard went with the damaged one, and both came back as one.
    assert committed(corpus).keys() == after.keys() - {
        "commits/shard-00001-2.json", "features/shard-00001-2.parquet", "failures/shard-00001-2.parquet",
    } | {"features/shard-00001-1.parquet"}  # fmt: skip
    assert verify.main([str(corpus.out)]) == 0


def test_a_supplement_whose_files_were_all_deleted_hides_no_later_one(
    kept: Kept, at_once: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = kept.restored(("outputs=[emissions]",), ALL)
    for deleted in corpus.out.glob("*/shard-00001-1.*"):
        deleted.unlink()
    capsys.readouterr()
    assert verify.main([str(corpus.out)]) == 1
    assert "commits/shard-00001-1.json: missing, though there is features/shard-00001-2" in capsys.readouterr().out
    (corpus.out / "transcripts" / "shard-00001.parquet").unlink()
    assert corpus.run(*FEATURES) == 0
    assert corpus.run(*ALL) == 0
    assert_same_rows(corpus.out, at_once)
    assert not [*corpus.out.glob("*/shard-00001-2.*")]
    assert verify.main([str(corpus.out)]) == 0


def test_a_shard_that_is_computed_again_gets_all_outputs_that_it_had(kept: Kept, at_once: Path) -> None:
    corpus = kept.restored(ALL)
    (corpus.out / "transcripts" / "shard-00002.parquet").unlink()
    assert corpus.run(TEXTS) == 0
    assert_same_rows(corpus.out, at_once)
    assert not [*corpus.out.glob("*/shard-00002-*")]
    assert verify.main([str(corpus.out)]) == 0


@pytest.mark.parametrize("point", ["retract", "retracted", "retracted@2", "renaming", "renamed"])
def test_killed_while_a_shard_with_supplements_is_computed_again(
    point: str, kept: Kept, at_once: Path, tmp_path: Path
) -> None:
    corpus = kept.restored(ALL)
    damaged = corpus.out / "transcripts" / "shard-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    killed = run(*corpus.given(*ALL), cwd=tmp_path, PIPELINE_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL
    for table in ("emissions", "features"):
        found = pd.read_parquet(corpus.out / table)
        assert not found.duplicated(["id", "layer"] if table == "features" else ["id"]).any()
    assert corpus.run(*ALL) == 0
    assert_same_rows(corpus.out, at_once)
    assert verify.main([str(corpus.out)]) == 0


@pytest.mark.parametrize("point", ["removing@2", "removing@6", "removing@7", "removing@8", "renaming", "renaming@3"])
def test_a_kill_while_old_files_are_removed_loses_no_output(
    point: str, kept: Kept, at_once: Path, tmp_path: Path
) -> None:
    corpus = kept.restored(("outputs=[emissions]",), ALL)
    damaged = corpus.out / "transcripts" / "shard-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    killed = run(*corpus.given(TEXTS), cwd=tmp_path, PIPELINE_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL
    for table in ("emissions", "features"):
        found = pd.read_parquet(corpus.out / table)
        assert not found.duplicated(["id", "layer"] if table == "features" else ["id"]).any()
        assert {*found["id"]} == {*pd.read_parquet(at_once / table)["id"]}
    assert corpus.run(TEXTS) == 0
    assert_same_rows(corpus.out, at_once)
    assert not [*corpus.out.glob("*/shard-00002-*")]


def test_verify_names_a_changed_supplement_and_retracts_it_alone(
    kept: Kept, at_once: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = kept.restored(ALL)
    before = committed(corpus)
    changed = corpus.out / "features" / "shard-00001-1.parquet"
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    capsys.readouterr()
    assert verify.main([str(corpus.out)]) == 1
    said = capsys.readouterr().out
    assert "features/shard-00001-1.parquet: has the sha256" in said
    assert f"rm {corpus.out}/commits/shard-00001-1.json" in said
    assert verify.main([str(corpus.out), "--retract"]) == 1
    assert not (corpus.out / "commits" / "shard-00001-1.json").exists()
    assert (corpus.out / "commits" / "shard-00001.json").exists()
    assert corpus.run(*ALL) == 0
    assert_same_rows(corpus.out, at_once)
    kept = {name: data for name, data in before.items() if "shard-00001-1" not in name}
    assert {name: committed(corpus)[name] for name in kept} == kept


def test_corrected_references_reach_transcripts_that_were_added_later(tmp_path: Path) -> None:
    shutil.copy(RECORDINGS[0], tmp_path / "a.flac")
    listed, out = tmp_path / "list.csv", tmp_path / "out"
    listed.write_text("path,text\na.flac,nine\n")
    given = [
        *(
            "dataset=manifest",
            f"dataset.path={listed}",
            "model=digits",
            f"run_dir={out}",
            "stages=[manifest,infer,score]",
        )
    ]
    assert main([*given, "outputs=[emissions]"]) == 0
    assert main([*given, TEXTS]) == 0
    listed.write_text("path,text\na.flac,one two three\n")
    assert main([*given, TEXTS]) == 0
    assert open_run(out).transcripts["reference_words"].tolist() == [3]
    assert open_run(out).scores["reference_words"][0] == 3
    assert verify.main([str(out)]) == 0


def test_transcripts_that_are_added_later_name_recordings_with_the_same_audio(tmp_path: Path) -> None:
    made = Corpus(tmp_path)
    made.add(range(3))
    made.add([1], "tuesday")
    assert made.run("outputs=[emissions]") == 0
    assert made.run(TEXTS) == 0
    found = open_run(made.out).transcripts.set_index("id")["same_as"].dropna()
    assert found.to_dict() == {f"tuesday/{RECORDINGS[1].name}": f"monday/{RECORDINGS[1].name}"}
    assert verify.main([str(made.out)]) == 0


def test_replaced_recordings_are_done_again_with_all_outputs(kept: Kept, tmp_path: Path) -> None:
    corpus = kept.restored(ALL)
    shutil.copy(RECORDINGS[8], corpus.root / "monday" / RECORDINGS[2].name)
    assert corpus.run(TEXTS, "redo_changed=true") == 0
    assert_equal_to_one_run(corpus, tmp_path / "fresh", *ALL)


def test_the_only_shard_keeps_its_outputs_when_it_is_done_again_while_others_are_asked_for(tmp_path: Path) -> None:
    only = Corpus(tmp_path / "only")
    only.add([0])
    assert only.run("outputs=[transcripts,emissions]") == 0
    shutil.copy(RECORDINGS[8], only.root / "monday" / RECORDINGS[0].name)
    assert only.run(*FEATURES, "redo_changed=true") == 0
    assert_equal_to_one_run(only, tmp_path / "fresh", *ALL)


def test_the_status_tells_of_outputs_that_are_being_added(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*corpus.given("outputs=[transcripts,emissions]"), cwd=tmp_path, PIPELINE_FAILPOINT="committed@2")
    capsys.readouterr()
    assert status.main([str(corpus.out)]) == 0
    said = capsys.readouterr().out
    assert "partly   emissions in 2 of 3 shards" in said
    assert "pending  1 utterance" in said
    assert "stopped; run the same command again to continue" in said
    assert verify.main([str(corpus.out)]) == 0
    said = capsys.readouterr().out
    assert "note: emissions: in 2 shards of 3" in said
    assert "2 shards sound, 0 damaged, 1 pending" in said


def test_a_lost_run_json_is_written_anew_if_all_outputs_are_asked_for(
    corpus: Corpus, at_once: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert corpus.run(*FEATURES[1:], "outputs=[features]", "features.layers=[3]") == 0
    assert corpus.run(*ALL) == 0
    before = committed(corpus)
    (corpus.out / "run.json").unlink()
    capsys.readouterr()
    assert corpus.run(TEXTS) == 2
    assert "run.json: lost" in capsys.readouterr().err
    assert corpus.run(*ALL) == 0
    assert committed(corpus) == before
    assert_same_rows(corpus.out, at_once)
    assert verify.main([str(corpus.out)]) == 0

    (corpus.out / "run.json").unlink()
    (corpus.out / "features" / "shard-00000-1.parquet").unlink()
    assert corpus.run(*ALL) == 0
    assert_same_rows(corpus.out, at_once)


def test_run_json_names_every_pass(corpus: Corpus) -> None:
    assert corpus.run(*FEATURES) == 0
    content = json.loads((corpus.out / "run.json").read_text())
    assert content["identity"]["outputs"] == ["features"]
    assert [each["outputs"] for each in content["others"]] == [["transcripts"]]
