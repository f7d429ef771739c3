"""The columns of every table, and that other people's readers get out what went in."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline.records import ArrayPart, Failure
from pipeline.records.transcripts import Transcript, Transcripts, Word
from pipeline.storage import tables

MANIFEST = {
    "id": "string",
    "path": "string",
    "start_s": "double",
    "end_s": "double",
    "duration_s": "double",
    "sample_rate": "int32",
    "num_channels": "int16",
    "num_samples": "int64",
    "file_size": "int64",
    "reference": "string",
    "shard": "int32",
}
TRANSCRIPTS = {
    "id": "string",
    "path": "string",
    "duration_s": "double",
    "num_frames": "int32",
    "text": "string",
    "ctc_text": "string",
    "avg_logprob": "float",
    "words": "list<struct<word: string, start_s: double, end_s: double, probability: float>>",
    "reference": "string",
    "word_errors": "int32",
    "reference_words": "int32",
    "char_errors": "int32",
    "reference_chars": "int32",
    "wer": "double",
}
AUDIO = {"audio_digest": "string", "same_as": "string"}
EMISSIONS = {
    "id": "string",
    "part": "int16",
    "start_frame": "int32",
    "num_frames": "int32",
    "num_labels": "int32",
}
FEATURES = {
    "id": "string",
    "layer": "int16",
    "part": "int16",
    "start_frame": "int32",
    "num_frames": "int32",
    "dim": "int32",
}
FAILURES = {
    "id": "string",
    "path": "string",
    "stage": "string",
    "error": "string",
    "message": "string",
    "attempts": "int16",
}
OWN = {
    "room": "string",
    "source": "bool",
    "degrees": "int16",
    "count": "int32",
    "total": "int64",
    "snr_db": "float64",
}
OWN_ARROW = {**OWN, "snr_db": "double"}

DTYPES = {"float16": "halffloat", "float32": "float"}
SHAPES = [(3, 4), (1, 4), (7, 4)]
IDS = ["a", "b", "c"]


def described(schema: pa.Schema) -> dict[str, str]:
    """Column names and types, in order, without the names of list elements (which readers do not see)."""
    return {
        field.name: str(field.type).replace("list<element: ", "list<").replace("list<item: ", "list<")
        for field in schema
    }


def ordered(schema: pa.Schema) -> list[tuple[str, str]]:
    return list(described(schema).items())


@pytest.fixture
def arrays() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(3)
    return [random.normal(scale=9.0, size=shape).astype(np.float32) for shape in SHAPES]


def test_the_columns_of_the_manifest() -> None:
    assert ordered(tables.manifest_schema({})) == list(MANIFEST.items())
    assert ordered(tables.manifest_schema(OWN)) == [*MANIFEST.items(), *OWN_ARROW.items()]


def test_the_columns_of_the_transcripts_end_with_the_datasets_own() -> None:
    assert ordered(tables.transcripts_schema(tables.manifest_schema({}))) == list(TRANSCRIPTS.items())
    assert ordered(tables.transcripts_schema(tables.manifest_schema(OWN))) == [
        *TRANSCRIPTS.items(),
        *OWN_ARROW.items(),
    ]
    assert ordered(tables.transcripts_schema(tables.manifest_schema(OWN), audio_digests=True)) == [
        *(TRANSCRIPTS | AUDIO).items(),
        *OWN_ARROW.items(),
    ]
    assert [field.name for field in tables.own_columns(tables.manifest_schema(OWN))] == list(OWN)


@pytest.mark.parametrize(("dtype", "arrow"), DTYPES.items())
def test_the_columns_of_emissions_and_features(dtype: str, arrow: str) -> None:
    assert ordered(tables.emissions_schema(dtype)) == [*EMISSIONS.items(), ("emission", f"list<{arrow}>")]
    assert ordered(tables.features_schema(dtype)) == [*FEATURES.items(), ("feature", f"list<{arrow}>")]


def test_the_columns_of_the_failures() -> None:
    assert ordered(tables.FAILURES) == list(FAILURES.items())


def test_ids_are_never_null() -> None:
    schemas = [
        tables.manifest_schema({}),
        tables.transcripts_schema(tables.manifest_schema({})),
        tables.emissions_schema("float32"),
        tables.features_schema("float16"),
        tables.FAILURES,
    ]
    assert not any(schema.field("id").nullable for schema in schemas)


def test_an_own_column_whose_name_is_taken_becomes_meta() -> None:
    for name in (*MANIFEST, *TRANSCRIPTS, *AUDIO):
        assert tables.own_column_names([name])[name] == f"meta_{name}"
    assert tables.own_column_names([""])[""] == "meta_"
    for name in ("room", "meta_id", "Room"):
        assert tables.own_column_names([name])[name] == name


def test_columns_that_differ_only_in_case_get_different_names() -> None:
    for name in ("Text", "ID", "Start_S"):
        assert tables.own_column_names([name])[name] == f"meta_{name}"
    names = tables.own_column_names(["room", "Room", "ROOM", "meta_room", "Text", "text"])
    assert names["room"] == "room"
    assert len({name.casefold() for name in names.values()}) == len(names)


def test_metadata_comes_back_as_it_was(tmp_path: Path) -> None:
    metadata = {"labels": ["-", "|", "'", "É"], "blank": 0, "seconds_per_frame": 0.02, "model": "m", "none": None}
    path = tmp_path / "t.parquet"
    for values, schema in ((None, tables.FAILURES), ("emission", tables.emissions_schema("float16"))):
        with tables.open_writer(path, schema, metadata, values):
            pass
        assert tables.metadata_of(pq.read_schema(path)) == {"schema_version": tables.SCHEMA_VERSION, **metadata}
    assert json.loads(pq.read_schema(path).metadata[b"labels"]) == metadata["labels"]


@pytest.mark.parametrize("schema", [tables.FAILURES, tables.transcripts_schema(tables.manifest_schema(OWN))])
def test_a_table_without_rows_has_the_same_schema(schema: pa.Schema, tmp_path: Path) -> None:
    empty, full = tmp_path / "empty.parquet", tmp_path / "full.parquet"
    values = {pa.string(): "x", pa.bool_(): True}
    row = {field.name: [] if pa.types.is_list(field.type) else values.get(field.type, 1) for field in schema}
    for path, rows in ((empty, []), (full, [row])):
        with tables.open_writer(path, schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    assert pq.read_schema(empty) == pq.read_schema(full)
    assert described(pq.read_schema(empty)) == described(schema)
    assert (pq.read_metadata(empty).num_rows, pq.read_metadata(full).num_rows) == (0, 1)


def whole(arrays: list[NDArray[np.float32]]) -> list[ArrayPart]:
    return [ArrayPart(row, 0, 0, array) for row, array in enumerate(arrays)]


def write_emissions(path: Path, arrays: list[NDArray[np.float32]], dtype: str) -> None:
    with tables.open_writer(path, tables.emissions_schema(dtype), values="emission") as writer:
        writer.write_table(tables.emission_rows(IDS, whole(arrays), dtype, 4))


def write_features(path: Path, arrays: list[NDArray[np.float32]], dtype: str) -> None:
    with tables.open_writer(path, tables.features_schema(dtype), values="feature") as writer:
        for layer in (2, 5):
            writer.write_table(tables.feature_rows(IDS, layer, whole([layer * array for array in arrays]), dtype, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_emissions_come_back_bit_for_bit(arrays: list[NDArray[np.float32]], dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "emissions.parquet"
    write_emissions(path, arrays, dtype)
    table = pq.read_table(path)
    assert table.schema.remove_metadata().equals(tables.emissions_schema(dtype))
    assert table["id"].to_pylist() == IDS
    assert table["num_frames"].to_pylist() == [3, 1, 7]
    assert table["num_labels"].to_pylist() == [4, 4, 4]
    assert table["part"].to_pylist() == table["start_frame"].to_pylist() == [0, 0, 0]
    for row, array in enumerate(arrays):
        read = table["emission"][row].values.to_numpy(zero_copy_only=False)
        assert read.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read.reshape(-1, 4), array.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_features_come_back_bit_for_bit_with_one_layer_a_row_group(
    arrays: list[NDArray[np.float32]], dtype: str, tmp_path: Path
) -> None:
    path = tmp_path / "features.parquet"
    write_features(path, arrays, dtype)
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(index) for index in range(file.num_row_groups)]
        statistics = [file.metadata.row_group(index).column(1).statistics for index in range(file.num_row_groups)]
    assert [table["layer"].to_pylist() for table in groups] == [[2] * 3, [5] * 3]
    assert [(found.min, found.max) for found in statistics] == [(2, 2), (5, 5)]
    for layer, table in zip((2, 5), groups, strict=True):
        assert table["id"].to_pylist() == IDS
        assert table["dim"].to_pylist() == [4, 4, 4]
        for row, array in enumerate(arrays):
            read = table["feature"][row].values.to_numpy(zero_copy_only=False)
            np.testing.assert_array_equal(read.reshape(-1, 4), (layer * array).astype(dtype))


def test_parts_know_their_place() -> None:
    parts = [ArrayPart(3, 0, 0, np.zeros((5, 4), np.float32)), ArrayPart(3, 1, 5, np.ones((2, 4), np.float32))]
    table = tables.feature_rows(["long", "long"], 6, parts, "float16", 4)
    assert table.select(["id", "layer", "part", "start_frame", "num_frames"]).to_pylist() == [
        {"id": "long", "layer": 6, "part": 0, "start_frame": 0, "num_frames": 5},
        {"id": "long", "layer": 6, "part": 1, "start_frame": 5, "num_frames": 2},
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_utterances_are_a_table_without_rows(dtype: str) -> None:
    emissions = tables.emission_rows([], [], dtype, 29)
    features = tables.feature_rows([], 12, [], dtype, 768)
    assert (emissions.num_rows, features.num_rows) == (0, 0)
    assert emissions.schema.equals(tables.emissions_schema(dtype))
    assert features.schema.equals(tables.features_schema(dtype))


def test_values_that_only_float32_holds_stay(tmp_path: Path) -> None:
    values = np.asarray([[1e30, -1e-30, np.pi, 65520.0]], dtype=np.float32)
    path = tmp_path / "emissions.parquet"
    write_emissions(path, [values, values, values], "float32")
    np.testing.assert_array_equal(pq.read_table(path)["emission"][0].values.to_numpy(), values[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_duckdb_polars_and_pandas_read_a_folder_of_features(
    arrays: list[NDArray[np.float32]], dtype: str, tmp_path: Path
) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    for shard in range(2):
        write_features(folder / f"shard-{shard:05d}.parquet", [array + shard for array in arrays], dtype)
    expected = (5 * (arrays[2] + 1)).astype(dtype).astype(np.float64).reshape(-1)

    rows = duckdb.sql(f"select id, layer, feature from '{folder}/*.parquet' order by filename, layer, id").fetchall()
    assert len(rows) == 12
    assert rows[-1][:2] == ("c", 5)
    np.testing.assert_array_equal(np.asarray(rows[-1][2], dtype=np.float64), expected)

    frame = pl.read_parquet(f"{folder}/*.parquet")
    assert frame.height == 12
    assert frame["id"][-1] == "c"
    np.testing.assert_array_equal(np.asarray(frame["feature"][-1].to_list(), dtype=np.float64), expected)

    table = pd.read_parquet(folder)
    assert len(table) == 12
    np.testing.assert_array_equal(np.asarray(table["feature"].iloc[-1], dtype=np.float64), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_duckdb_polars_and_pandas_read_emissions(arrays: list[NDArray[np.float32]], dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    write_emissions(path, arrays, dtype)
    expected = arrays[0].astype(dtype).astype(np.float64).reshape(-1)
    (row,) = duckdb.sql(f"select emission from '{tmp_path}/*.parquet' where id = 'a'").fetchall()
    frame = pl.scan_parquet(f"{tmp_path}/*.parquet").filter(pl.col("id") == "a").collect()
    table = pd.read_parquet(tmp_path, filters=[("id", "==", "a")])
    for read in (row[0], frame["emission"][0].to_list(), table["emission"].iloc[0]):
        np.testing.assert_array_equal(np.asarray(read, dtype=np.float64), expected)


def test_a_decoded_transcript_fills_its_columns(tmp_path: Path) -> None:
    words = (Word("ONE", 0.1, 0.3, 0.5), Word("TWO", 0.4, 0.8, 0.25))
    transcript = Transcript(text="ONE TWO", ctc_text="ONE|TWO|", avg_logprob=-0.5, num_frames=49, words=words)
    schema = tables.transcripts_schema(tables.manifest_schema(OWN))
    (decoded,) = tables.transcript_columns(Transcripts.of([transcript])).to_pylist()
    row = {"id": "a", "path": "/a", "room": "rm1", "degrees": 90} | decoded
    path = tmp_path / "shard-00000.parquet"
    with tables.open_writer(path, schema) as writer:
        writer.write_table(pa.Table.from_pylist([row], schema=schema))
    (read,) = pq.read_table(path).to_pylist()
    assert {name: read[name] for name in ("text", "ctc_text", "avg_logprob", "num_frames", "room", "degrees")} == {
        "text": "ONE TWO",
        "ctc_text": "ONE|TWO|",
        "avg_logprob": -0.5,
        "num_frames": 49,
        "room": "rm1",
        "degrees": 90,
    }
    assert read["words"][1] == {"word": "TWO", "start_s": 0.4, "end_s": 0.8, "probability": 0.25}
    assert read["reference"] is read["wer"] is read["word_errors"] is None
    (found,) = duckdb.sql(f"select words[1].word, len(words) from '{path}'").fetchall()
    assert found == ("ONE", 2)
    assert pl.read_parquet(path)["words"][0][1]["probability"] == 0.25


def test_failures_are_sorted_by_id() -> None:
    failures = [
        Failure("b", "/b", "load", "truncated", "why"),
        Failure("a", "/a", "model", "non_finite", "why", attempts=3),
    ]
    table = tables.failures_table(failures)
    assert table.schema.equals(tables.FAILURES)
    assert table["id"].to_pylist() == ["a", "b"]
    assert table["attempts"].to_pylist() == [3, 1]
    assert tables.failures_table([]).schema.equals(tables.FAILURES)
