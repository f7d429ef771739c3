"""Both layouts hold the same arrays, and a reader that only knows NumPy and the file's metadata decodes `binary`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline.config.schema import RULES
from pipeline.records import ArrayPart
from pipeline.results.arrays import read_parts
from pipeline.storage import tables
from pipeline.storage.files import StoredTable
from pipeline.storage.layouts import FEATURES, LAYOUTS, ArrayReader, layout_metadata
from pipeline.storage.local_files import LocalFiles

WIDTH = 5
IDS = ["a", "b", "none", "turned"]


@pytest.fixture
def arrays() -> list[NDArray[np.floating]]:
    """Arrays as a caller may have them: without frames, not contiguous, big-endian."""
    random = np.random.default_rng(5)
    given = [random.normal(size=(frames, WIDTH)) for frames in (3, 40, 0)]
    return [*given, np.asfortranarray(random.normal(size=(7, WIDTH))).astype(">f4")]


def write(path: Path, arrays: list[NDArray[np.floating]], dtype: str, layout: str) -> None:
    schema, metadata = tables.features_schema(dtype, layout), layout_metadata(dtype, layout, WIDTH)
    values = [array.astype(np.dtype(dtype).newbyteorder(array.dtype.byteorder)) for array in arrays]
    parts = [ArrayPart(row, 0, 0, each) for row, each in enumerate(values)]
    with tables.open_writer(path, schema, {"model": "m", **metadata}, values="feature") as writer:
        for layer in (1, 2):
            writer.write_table(tables.feature_rows(IDS, layer, parts, dtype, WIDTH, layout))


def stored(folder: Path) -> StoredTable:
    return StoredTable(LocalFiles(folder, ".staging"), "t.parquet")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_arrays_come_back_bit_for_bit(
    arrays: list[NDArray[np.floating]], dtype: str, layout: str, tmp_path: Path
) -> None:
    write(tmp_path / "t.parquet", arrays, dtype, layout)
    assert pq.read_schema(tmp_path / "t.parquet").remove_metadata().equals(tables.features_schema(dtype, layout))
    found = list(read_parts(stored(tmp_path), FEATURES, None, 2))
    assert [part.id for part in found] == IDS
    for part, array in zip(found, arrays, strict=True):
        assert part.values.dtype == np.dtype(dtype)
        assert part.values.shape == array.shape
        assert part.values.tobytes() == array.astype(dtype).tobytes()


@pytest.mark.parametrize(("dtype", "stored_as"), [("float16", "<f2"), ("float32", "<f4")])
def test_bytes_are_decoded_by_the_metadata_alone(
    arrays: list[NDArray[np.floating]], dtype: str, stored_as: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.parquet"
    write(path, arrays, dtype, "binary")
    metadata = {key.decode(): json.loads(value) for key, value in pq.read_schema(path).metadata.items()}
    assert (metadata["layout"], metadata["dtype"], metadata["width"]) == ("binary", stored_as, WIDTH)
    of_layer = "layer = 2 order by id"
    readers: dict[str, Any] = {
        "pandas": pd.read_parquet(path, filters=[("layer", "==", 2)])["feature"].tolist(),
        "polars": pl.scan_parquet(path).filter(pl.col("layer") == 2).collect()["feature"].to_list(),
        "duckdb": [row[0] for row in duckdb.sql(f"select feature from '{path}' where {of_layer}").fetchall()],
    }
    for values in readers.values():
        for value, array in zip(values, arrays, strict=True):
            read = np.frombuffer(value, metadata["dtype"]).reshape(-1, metadata["width"])
            np.testing.assert_array_equal(read, array.astype(dtype))


def test_bytes_are_stored_as_they_are_and_a_row_group_still_holds_one_layer(
    arrays: list[NDArray[np.floating]], tmp_path: Path
) -> None:
    write(tmp_path / "t.parquet", arrays, "float16", "binary")
    file = pq.read_metadata(tmp_path / "t.parquet")
    for group, layer in enumerate((1, 2)):
        columns = {file.row_group(group).column(index).path_in_schema: index for index in range(file.num_columns)}
        values = file.row_group(group).column(columns["feature"])
        assert (values.compression, values.has_dictionary_page, values.is_stats_set) == ("UNCOMPRESSED", False, False)
        assert file.row_group(group).column(columns["layer"]).statistics.min == layer
    raw = (tmp_path / "t.parquet").read_bytes()
    assert arrays[1].astype("<f2").tobytes() in raw


def test_lists_have_no_metadata_of_a_layout_and_bytes_without_them_are_not_guessed() -> None:
    assert layout_metadata("float16", "list", 8) == {}
    schema = tables.features_schema("float16", "binary")
    for metadata in ({}, {"dtype": ">f2"}, {"dtype": "float16"}, {"dtype": None}):
        with pytest.raises(ValueError, match="its metadata say dtype"):
            ArrayReader(schema, metadata, FEATURES)


def test_the_configuration_takes_the_layouts_that_there_are() -> None:
    assert {RULES[f"{table}.layout"].names for table in ("features", "emissions")} == {LAYOUTS}
