"""Every block of the recipes does what it says, on a run of the pipeline: DuckDB, Polars and pandas agree."""

from __future__ import annotations

import ast
import csv
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from running import DATA, ROOT, SHIPPED

from pipeline.results import Run, open_run
from pipeline.run import main

PAGES = [ROOT / "docs" / name for name in ("recipes.md", "recipes-features.md")]
STORED_LAYER = "12"
"""The layer that the pages speak of; the small model's last one is 4."""


IN_BINARY = "Features in the layout binary"
"""The heading of the blocks for a run with this layout."""


def blocks(language: str) -> list[tuple[str, str]]:
    """`(heading, code)` of each block of a language, in the pages' order, but those for a run in binary."""
    return [block for block in all_blocks(language) if block[0] != IN_BINARY]


def all_blocks(language: str) -> list[tuple[str, str]]:
    found, heading = [], ""
    for match in re.finditer(
        r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w*)\n(?P<code>.*?)^```$",
        "\n".join(page.read_text() for page in PAGES),
        re.M | re.S,
    ):
        heading = match["heading"] or heading
        if match["language"] == language:
            found.append((heading, re.sub(rf"\b(layer\b\W{{0,9}}){STORED_LAYER}\b", r"\g<1>4", match["code"])))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Spoken digits in rooms, some references wrong and some missing, files of two rates, two broken, in shards."""
    folder = tmp_path_factory.mktemp("listed")
    with open(SHIPPED / "digits" / "transcripts.csv", newline="") as file:
        texts = {row["file_name"]: row["transcript"] for row in csv.DictReader(file)}
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(sorted(texts)[:20]):
        text = texts[name] + " indeed" * (index % 3)
        row = {"audio_filepath": str(SHIPPED / "digits" / name), "room": ("rm1", "rm2", None)[index % 3]}
        rows.append(row | ({"text": text} if index % 5 else {}))
    for name in ("bad.wav", "empty.wav"):
        rows.append({"audio_filepath": str(folder / name), "room": "rm1"})
    (folder / "bad.wav").write_bytes((DATA / "broken" / "bad.wav").read_bytes())
    (folder / "empty.wav").write_bytes(b"")
    rows.append({"audio_filepath": str(next((DATA / "librivox").glob("*.wav"))), "room": "rm2"})
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["dataset=manifest", f"dataset.path={folder / 'list.jsonl'}", "model=digits", f"run_dir={folder / 'run'}"]
    assert main([*given, "shard.hours=0.004", "stages=[manifest,infer,score]"]) == 3
    found = open_run(folder / "run")
    assert len(found.commits) > 1
    return found


@pytest.fixture
def inside(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run directory is the working directory, as the pages ask for."""
    monkeypatch.chdir(run.path)


def from_duckdb() -> dict[str, list[pd.DataFrame]]:
    found: dict[str, list[pd.DataFrame]] = {}
    for heading, code in blocks("sql"):
        found.setdefault(heading, []).append(duckdb.sql(code).df())
    return found


def from_python() -> tuple[dict[str, list[pd.DataFrame]], dict[str, Any]]:
    """The frames that blocks show, by heading, and the names that they leave."""
    namespace: dict[str, Any] = {}
    found: dict[str, list[pd.DataFrame]] = {}
    for heading, code in blocks("python"):
        *statements, last = ast.parse(code).body
        exec(compile(ast.Module(statements, []), PAGES[0].name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), PAGES[0].name, "eval"), namespace)
            assert isinstance(shown, pl.DataFrame)
            found.setdefault(heading, []).append(pd.DataFrame(shown.to_dicts(), columns=shown.columns))
        else:
            exec(compile(ast.Module([last], []), PAGES[0].name, "exec"), namespace)
    return found, namespace


def expected(run: Run) -> dict[str, list[pd.DataFrame]]:
    """What pandas gives."""
    transcripts, manifest, failures = run.transcripts, run.manifest, run.failures
    scored = transcripts[transcripts.reference_words.notna()].groupby("room", dropna=False)
    rooms = pd.DataFrame(
        {"utterances": scored.size(), "wer": scored.word_errors.sum() / scored.reference_words.sum()}
    ).reset_index()
    joined = transcripts[["id", "avg_logprob"]].merge(manifest, on="id").astype({"avg_logprob": "float64"})
    rates = joined.groupby("sample_rate").agg(
        utterances=("id", "size"),
        hours=("duration_s", lambda each: each.sum() / 3600),
        avg_logprob=("avg_logprob", "mean"),
    )
    reasons = failures.groupby(["error", "stage"]).agg(utterances=("id", "size"), for_example=("path", "first"))
    pending = manifest[~manifest.id.isin({*transcripts.id, *failures.id})]
    return {
        "Word error rate per room": [rooms.sort_values(["wer", "room"], ascending=[False, True], ignore_index=True)],
        "Words below a probability": [
            run.words.query("probability < 0.95").sort_values(["probability", "id", "start_s"], ignore_index=True)
        ],
        "Failures by reason": [
            reasons.reset_index().sort_values(["utterances", "error"], ascending=[False, True], ignore_index=True)
        ],
        "Transcripts beside the manifest": [rates.reset_index(), pending[["id", "duration_s"]].reset_index(drop=True)],
    }


def assert_same(found: dict[str, list[pd.DataFrame]], wanted: dict[str, list[pd.DataFrame]]) -> None:
    assert found.keys() == wanted.keys()
    for heading, frames in wanted.items():
        assert len(found[heading]) == len(frames)
        for left, right in zip(found[heading], frames, strict=True):
            assert sorted(left.columns) == sorted(right.columns)
            left = left[right.columns.tolist()]
            for name in right.columns:
                if pd.api.types.is_numeric_dtype(right[name]):
                    np.testing.assert_allclose(left[name].to_numpy(float), right[name].to_numpy(float), rtol=1e-6)
                else:
                    assert left[name].astype(object).where(left[name].notna(), None).tolist() == (
                        right[name].astype(object).where(right[name].notna(), None).tolist()
                    )


def test_the_run_has_something_to_find_for_every_recipe(run: Run) -> None:
    wanted = expected(run)
    assert wanted["Word error rate per room"][0].wer.nunique() == 3
    assert wanted["Word error rate per room"][0].room.isna().sum() == 1
    assert 5 < len(wanted["Words below a probability"][0]) < len(run.words)
    assert wanted["Failures by reason"][0].utterances.tolist() == [1, 1]
    assert wanted["Transcripts beside the manifest"][0].sample_rate.tolist() == [8000, 16000]


@pytest.mark.usefixtures("inside")
def test_sql_gives_what_pandas_gives(run: Run) -> None:
    assert_same(from_duckdb(), expected(run))


@pytest.mark.usefixtures("inside")
def test_polars_gives_what_pandas_gives_and_features_are_matrices(run: Run) -> None:
    shown, left = from_python()
    assert_same(shown, expected(run))
    rows, matrix = run.pooled_table(layer=4)
    order = rows.id.argsort()
    assert left["ids"] == rows.id[order].tolist()
    np.testing.assert_allclose(left["matrix"], matrix[order], rtol=1e-3, atol=1e-3)
    assert np.array_equal(left["feature"], run.feature(left["first"], layer=4))
    assert np.array_equal(left["pooled"][1], matrix)
    assert left["words"][0].word.tolist() == run.pooled_table(4, by="word")[0].word.tolist()


@pytest.mark.usefixtures("inside")
def test_what_is_not_committed_yet_is_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("transcripts", "failures"):
        (tmp_path / table).mkdir()
        (tmp_path / table / "shard-00000.parquet").symlink_to(run.path / table / "shard-00000.parquet")
    (tmp_path / "manifest.parquet").symlink_to(run.path / "manifest.parquet")
    monkeypatch.chdir(tmp_path)
    missing = run.manifest[run.manifest.shard > 0].id.sort_values().tolist()
    [_, (_, sql)] = [block for block in blocks("sql") if block[0] == "Transcripts beside the manifest"]
    [_, (_, python)] = [block for block in blocks("python") if block[0] == "Transcripts beside the manifest"]
    assert duckdb.sql(sql).df().id.tolist() == missing
    assert eval(python, {"pl": pl}).sort("id")["id"].to_list() == missing
    assert len(missing) > 3


def test_a_run_in_binary_is_read_with_pandas_polars_duckdb_and_numpy(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [
        "dataset=manifest",
        f"dataset.path={run.path.parent / 'list.jsonl'}",
        "model=digits",
        "features.layout=binary",
    ]
    assert main([*given, f"run_dir={tmp_path / 'run'}", "outputs=[features]", "stages=[manifest,infer]"]) == 3
    monkeypatch.chdir(tmp_path / "run")
    namespace: dict[str, Any] = {"np": np, "pl": pl, "duckdb": duckdb}
    for heading, code in all_blocks("python"):
        if heading == IN_BINARY:
            exec(compile(code, PAGES[0].name, "exec"), namespace)
    expected = open_run(".").feature(namespace["first"], layer=4)
    for reader in ("pandas", "polars", "duckdb"):
        assert np.array_equal(namespace[f"with_{reader}"], expected)
