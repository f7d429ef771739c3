"""Reading a run back: pandas, NumPy, DuckDB and Polars see the same numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from running import DATA, SHIPPED, environment, server

from pipeline import plot
from pipeline.results import Run, open_run, scores
from pipeline.run import main
from pipeline.scoring.schemas import CONFUSIONS, SCORES
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import __main__ as verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Shipped digits and one bad file, in several shards, every layer."""
    root = tmp_path_factory.mktemp("calls")
    for path in sorted((SHIPPED / "digits").glob("*.flac"))[:12]:
        (root / path.name).symlink_to(path)
    (root / sorted(p.name for p in root.iterdir())[0]).with_suffix(".txt").write_text("Four, FIVE!\n")
    (root / "zz.wav").symlink_to(DATA / "broken" / "bad.wav")
    out = root / ".out"
    given = ["dataset=folder", f"dataset.root={root}", "model=digits", "features.layers=all", "shard.hours=0.002"]
    assert main([*given, f"run_dir={out}", "features.dtype=float16", "stages=[manifest,infer,score]"]) == 3
    return open_run(out)


def test_frames_have_one_row_an_utterance_and_counts_stay_whole_numbers(run: Run) -> None:
    assert len(run.manifest) == 13
    assert len(run.transcripts) == 12
    assert run.failures["id"].tolist() == ["zz.wav"]
    assert isinstance(run.transcripts["word_errors"].dtype, pd.Int32Dtype)
    assert run.transcripts["word_errors"].notna().sum() == 1
    assert run.transcripts["reference_words"].dropna().tolist() == [2]


def test_words_join_to_the_text_and_lie_within_the_recording(run: Run) -> None:
    words = run.words
    assert list(words.columns) == ["id", "word", "start_s", "end_s", "probability"]
    for row in run.transcripts.itertuples():
        mine = words[words.id == row.id]
        assert " ".join(mine.word) == row.text
        assert (mine.start_s < mine.end_s).all()
        assert (mine.end_s <= row.duration_s + 0.02).all()
        assert mine.start_s.is_monotonic_increasing
    assert words.probability.between(0, 1).all()


def test_emissions_are_arrays_of_frames_and_labels(run: Run) -> None:
    assert run.alphabet[:3] == ("-", "|", "E")
    assert run.emission_metadata["seconds_per_frame"] == 0.02
    assert run.emission_metadata["values"] == "logits"
    streamed = dict(run.emissions())
    frames = run.transcripts.set_index("id").num_frames
    assert set(streamed) == set(frames.index)
    for id_, emission in streamed.items():
        assert emission.shape == (frames[id_], 29)
        assert emission.dtype == np.float32
    some = next(iter(streamed))
    assert np.array_equal(run.emission(some), streamed[some])
    best = np.array(run.alphabet)[run.emission(some).argmax(1)]
    collapsed = "".join(b for a, b in zip(["", *best], best, strict=False) if a != b and b != "-")
    assert collapsed == run.transcripts.set_index("id").ctc_text[some]


def test_features_are_read_by_id_and_layer_or_streamed(run: Run) -> None:
    for layer in (1, 4):
        streamed = dict(run.features(layer))
        assert len(streamed) == 12
        for id_, feature in streamed.items():
            assert feature.dtype == np.float16
            assert np.array_equal(run.feature(id_, layer=layer), feature)


def test_a_run_in_binary_has_the_same_arrays_bit_for_bit(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = run.path.parent
    given = ["dataset=folder", f"dataset.root={root}", "model=digits", "features.layers=all", "shard.hours=0.002"]
    given += [f"run_dir={tmp_path / 'run'}", "features.layout=binary", "emissions.layout=binary"]
    assert main([*given, "stages=[manifest,infer]"]) == 3
    binary = open_run(tmp_path / "run")
    assert (binary.layers, binary.seconds_per_frame) == (run.layers, run.seconds_per_frame)
    for read in (Run.emissions, *(lambda each, layer=layer: each.features(layer) for layer in run.layers)):
        for (id_, lists), (other, bytes_) in zip(read(run), read(binary), strict=True):
            assert (id_, lists.dtype, lists.shape) == (other, bytes_.dtype, bytes_.shape)
            assert lists.tobytes() == bytes_.tobytes()
            assert bytes_.flags.writeable
    id_ = run.transcripts["id"][3]
    assert np.array_equal(binary.emission(id_, 3, 9), run.emission(id_, 3, 9))
    assert np.array_equal(binary.feature(id_, 2, 5), run.feature(id_, 2, 5))
    for by in ("utterance", "word"):
        assert np.array_equal(binary.pooled_table(4, by)[1], run.pooled_table(4, by)[1])
    assert verify.main([str(binary.path), "--exactness", "2"]) == 0
    assert plot.main([str(binary.path), id_, "--out", str(tmp_path)]) == 0
    assert main([*given, "stages=[report]"]) == 0
    assert "report in" in capsys.readouterr().out


def test_what_the_arrays_are_of_is_told(run: Run) -> None:
    assert (run.layers, run.seconds_per_frame, run.sample_rate) == ((1, 2, 3, 4), 0.02, 16000)


def test_some_frames_of_an_utterance_are_those_of_the_whole(run: Run) -> None:
    id_ = run.transcripts["id"][2]
    for whole, some in (
        (run.emission(id_), lambda first, last: run.emission(id_, first, last)),
        (run.feature(id_, 3), lambda first, last: run.feature(id_, 3, start_frame=first, end_frame=last)),
    ):
        for first, last in ((0, None), (0, 5), (3, 9), (7, None), (4, 4), (0, 10**6), (10**6, None)):
            assert np.array_equal(some(first, last), whole[first:last])
            assert some(first, last).shape[1] == whole.shape[1]


def test_confusions_lie_beside_the_scores(run: Run, tmp_path: Path) -> None:
    columns = ["kind", "reference", "hypothesis", "count"]
    assert list(run.confusions.columns) == columns
    assert run.confusions["count"].sum() == run.transcripts.word_errors.sum() == run.scores.word_errors[0]
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "manifest.parquet").write_bytes((run.path / "manifest.parquet").read_bytes())
    assert list(open_run(bare).confusions.columns) == columns
    assert open_run(bare).confusions.empty
    assert open_run(bare).scores.empty


def test_scores_that_go_while_they_are_read_are_none(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    (directory.root / "scores.parquet").symlink_to(run.path / "scores.parquet")
    read = StoredTable.read

    def removed_just_before(stored: StoredTable, *given: Any) -> pa.Table:
        (directory.root / stored.name).unlink(missing_ok=True)
        return read(stored, *given)

    monkeypatch.setattr(StoredTable, "read", removed_just_before)
    for table, schema in zip(scores.read_scores(directory), (SCORES, CONFUSIONS), strict=True):
        assert (table.num_rows, table.schema) == (0, schema)


def test_what_is_not_there_is_named_with_the_reason(run: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"zz\.wav: failed \(unreadable"):
        run.emission("zz.wav")
    with pytest.raises(KeyError, match="no such id"):
        run.emission("nobody")
    with pytest.raises(
        KeyError, match=rf"nobody{run.transcripts['id'][0]}: .* \(did you mean {run.transcripts['id'][0]}"
    ):
        run.emission(f"nobody{run.transcripts['id'][0]}")
    with pytest.raises(KeyError, match=r"layers \[1, 2, 3, 4\]"):
        run.feature(run.transcripts["id"][0], layer=9)
    with pytest.raises(FileNotFoundError, match="no run there"):
        open_run(tmp_path)


def test_duckdb_polars_and_pandas_read_the_same_values(run: Run) -> None:
    id_ = run.transcripts["id"][3]
    for table, column in (("emissions", "emission"), ("features", "feature")):
        pattern = str(run.path / table / "*.parquet")
        where = f"id = '{id_}'" + (" and layer = 2" if table == "features" else "")
        expected = (run.emission(id_) if table == "emissions" else run.feature(id_, layer=2)).reshape(-1)
        [[duck]] = duckdb.sql(f"select {column} from '{pattern}' where {where}").fetchall()
        assert np.array_equal(np.asarray(duck, expected.dtype), expected)
        rows = pl.read_parquet(pattern).filter(pl.col("id") == id_)
        rows = rows.filter(pl.col("layer") == 2) if table == "features" else rows
        assert np.array_equal(rows[column][0].to_numpy().astype(expected.dtype), expected)
    total = duckdb.sql(f"select sum(num_frames) from '{run.path}/transcripts/*.parquet'").fetchall()
    assert total == [(int(run.transcripts.num_frames.sum()),)]


def test_the_reading_side_does_not_import_torch(run: Run) -> None:
    code = (
        "import sys\nfrom pipeline.results import open_run\n"
        f"run = open_run({str(run.path)!r})\nrun.transcripts, run.words, run.scores, list(run.emissions())\n"
        "assert not {'torch', 'torchaudio', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_status_says_how_far_a_run_is(run: Run) -> None:
    done = server().run("pipeline.status", [str(run.path)], cwd=run.path, env=environment(), timeout=60)
    assert done.returncode == 0
    assert "12 of 13 utterances" in done.stdout
    assert "1 (1 unreadable)" in done.stdout
    assert "complete" in done.stdout
