"""Reading a run from Python: pandas tables and NumPy arrays. Does not import torch.

from pipeline.results import open_run

run = open_run("runs/voices/wav2vec2_asr_base_960h")
run.transcripts[["id", "text", "wer"]]
run.emission("Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042")  # (frames, labels)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import tables
from pipeline.commits import CommitRecord
from pipeline.scoring import SCORES
from pipeline.store import RunDirectory

# A nullable integer column would read as float64; a count should stay a count.
_NULLABLE = {
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def open_run(run_dir: str | Path) -> Run:
    """Open a run directory, finished or not; an unfinished one shows what is committed.

    Raises:
        FileNotFoundError: There is no run in that folder.
    """
    directory = RunDirectory(Path(run_dir))
    if not directory.manifest_path.is_file():
        raise FileNotFoundError(f"{run_dir}: no run there (no manifest.parquet); give the run_dir of a run")
    return Run(directory)


class Run:
    """The tables of one run. Frames are `pandas.DataFrame`s; integers with nulls have pandas' nullable types."""

    def __init__(self, directory: RunDirectory) -> None:
        """Use `open_run`."""
        self._directory = directory
        self.path = directory.root

    @cached_property
    def commits(self) -> dict[int, CommitRecord]:
        """The committed shards, as they were when this was first asked for."""
        return self._directory.commits()

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row an utterance, before any model ran."""
        return _frame(pq.read_table(self._directory.manifest_path))

    @cached_property
    def transcripts(self) -> pd.DataFrame:
        """One row for each utterance with a result; empty where transcripts were not asked for."""
        return _frame(self._concatenate("transcripts"))

    @cached_property
    def failures(self) -> pd.DataFrame:
        """One row for each utterance without a result."""
        return _frame(self._concatenate("failures"))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Errors and rates overall and per group; empty where nothing has been scored."""
        path = self._directory.scores_path
        return _frame(pq.read_table(path) if path.is_file() else SCORES.empty_table())

    @cached_property
    def words(self) -> pd.DataFrame:
        """One row a word: id, word, start_s, end_s, probability."""
        columns = ["id", *(field.name for field in tables.WORD)]
        frames = []
        for path in self._files("transcripts"):
            table = pq.read_table(path, columns=["id", "words"])
            words = pa.chunked_array([chunk.flatten() for chunk in table["words"].chunks], tables.WORD)
            counts = table["words"].combine_chunks().value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            ids = np.repeat(table["id"].to_numpy(), counts)
            fields = words.combine_chunks().flatten() if len(words) else [pa.array([], f.type) for f in tables.WORD]
            frames.append(_frame(pa.Table.from_arrays([pa.array(ids, pa.string()), *fields], columns)))
        schema = pa.schema([("id", pa.string()), *tables.WORD])
        return pd.concat(frames, ignore_index=True) if frames else _frame(schema.empty_table())

    @property
    def alphabet(self) -> tuple[str, ...]:
        """Labels in the order of an emission's columns, blank first."""
        labels: list[str] = self.emission_metadata["labels"]
        return tuple(labels)

    @cached_property
    def emission_metadata(self) -> dict[str, Any]:
        """File metadata of the emissions: labels, blank, seconds per frame, sample rate, model, kind of values.

        Raises:
            LookupError: No shard with emissions is committed.
        """
        return tables.file_metadata(self._first("emissions"))

    def emissions(self) -> Iterator[tuple[str, NDArray[np.floating]]]:
        """Every `(id, emission)`, the emission `(frames, labels)`, a row group in memory at a time."""
        for path in self._files("emissions"):
            yield from _arrays(path, "emission", "num_labels")

    def emission(self, id: str) -> NDArray[np.floating]:
        """The emission `(frames, labels)` of one utterance.

        Raises:
            KeyError: It has none, with the reason: not in the manifest, failed, or not committed yet.
        """
        return self._one("emissions", "emission", "num_labels", id, [("id", "==", id)])

    def features(self, layer: int) -> Iterator[tuple[str, NDArray[np.floating]]]:
        """Every `(id, feature)` of one layer, the feature `(frames, dim)`."""
        for path in self._files("features"):
            yield from _arrays(path, "feature", "dim", layer)

    def feature(self, id: str, layer: int) -> NDArray[np.floating]:
        """The feature `(frames, dim)` of one utterance and layer; 1 is the first transformer layer.

        Raises:
            KeyError: It has none, with the reason.
        """
        return self._one("features", "feature", "dim", id, [("id", "==", id), ("layer", "==", layer)], layer)

    def _files(self, table: str) -> list[Path]:
        return [self.path / record.files[table].path for record in self.commits.values() if table in record.files]

    def _first(self, table: str) -> Path:
        files = self._files(table)
        if not files:
            raise LookupError(f"{self.path}: no {table} are committed; run with outputs=[{table}]")
        return files[0]

    def _concatenate(self, table: str) -> pa.Table:
        parts = [pq.read_table(path) for path in self._files(table)]
        if parts:
            return pa.concat_tables(parts)
        if table == "failures":
            return tables.FAILURES.empty_table()
        return tables.transcripts_schema(pq.read_schema(self._directory.manifest_path)).empty_table()

    def _one(
        self, table: str, column: str, width: str, id: str, filters: list[Any], layer: int | None = None
    ) -> NDArray[np.floating]:
        path = self._path_of(table, id)
        found = pq.read_table(path, filters=filters).sort_by("part")
        if not found.num_rows:
            if id in set(self.failures["id"]):
                row = self.failures.set_index("id").loc[id]
                raise KeyError(f"{id}: failed ({row['error']}: {row['message']}), so it has no {column}")
            layers = sorted(set(pq.read_table(path, columns=["layer"])["layer"].to_pylist())) if layer else []
            raise KeyError(f"{id}: no {column} of layer {layer}; this run has layers {layers}")
        return np.concatenate([_array(found, row, column, width) for row in range(found.num_rows)])

    def _path_of(self, table: str, id: str) -> Path:
        shard = self._shards.get(id)
        if shard is None:
            raise KeyError(f"{id}: no such id in the manifest of {self.path}")
        record = self.commits.get(int(shard))
        if record is None:
            raise KeyError(f"{id}: its shard {shard} is not committed yet")
        if table not in record.files:
            raise KeyError(f"{id}: this run has no {table}; run with outputs=[{table}]")
        return self.path / record.files[table].path

    @cached_property
    def _shards(self) -> pd.Series:
        return self.manifest.set_index("id")["shard"]


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=_NULLABLE.get)
    return frame


def _arrays(
    path: Path, column: str, width: str, layer: int | None = None
) -> Iterator[tuple[str, NDArray[np.floating]]]:
    """Stream `(id, array)` from one file; the parts of an utterance follow one another and are joined."""
    current: str | None = None
    parts: list[NDArray[np.floating]] = []
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            if layer is not None and set(file.read_row_group(group, ["layer"])["layer"].to_pylist()) != {layer}:
                continue
            table = file.read_row_group(group)
            for row, id_ in enumerate(table["id"].to_pylist()):
                if id_ != current and current is not None:
                    yield current, np.concatenate(parts)
                    parts = []
                current = id_
                parts.append(_array(table, row, column, width))
    if current is not None:
        yield current, np.concatenate(parts)


def _array(table: pa.Table, row: int, column: str, width: str) -> NDArray[np.floating]:
    values = table[column][row].values.to_numpy(zero_copy_only=False)
    return np.asarray(values).reshape(-1, table[width][row].as_py())


__all__ = ["Run", "open_run"]
