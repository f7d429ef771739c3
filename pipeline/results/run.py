"""The tables of a run, or of some of its utterances."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.results import arrays, selection
from pipeline.results import pooling as pools
from pipeline.results.committed import Committed
from pipeline.results.frames import WORDS, read_rows, read_words, to_frame
from pipeline.results.pooled import PooledFeatures
from pipeline.results.scores import read_scores, score_again
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.files import StoredTable
from pipeline.storage.layouts import ARRAY_TABLES, EMISSIONS, FEATURES, ArrayTable
from pipeline.storage.run_directory import RunDirectory


class Run:
    """The tables of one run, as `pandas.DataFrame`s. Integers and booleans have pandas' nullable types.

    Attributes:
        path: The run directory.
    """

    def __init__(self, directory: RunDirectory, whole: Run | None = None, manifest: pd.DataFrame | None = None) -> None:
        """Read nothing yet. Use `open_run` and `select` instead of this constructor.

        Args:
            directory: The run directory.
            whole: The whole run, for a selection of its utterances.
            manifest: The selected rows of its manifest.
        """
        self._directory = directory
        self._whole = whole or self
        self.path = directory.root
        if manifest is not None:
            self.manifest = manifest

    def __repr__(self) -> str:
        """Return the path and the number of utterances."""
        of = "" if self._whole is self else f" of {len(self._whole.manifest)}"
        return f"<Run {self.path}: {len(self.manifest)}{of} utterances>"

    def select(self, where: selection.Where | None = None, /, **columns: Any) -> Run:
        """Return the run restricted to some of its utterances.

        The result has the same members. It reads only the shards and row groups that hold these utterances.

            run.select(room="rm1", distractor=["none", "babb"])
            run.select(lambda manifest: manifest.duration_s > 5)
            run.select(run.transcripts.query("wer > 0.5").id)

        Args:
            where: A boolean Series with the index of `manifest` or indexed by id (null counts as false), a function
                that takes `manifest` and returns such a Series, or ids.
            columns: A value, or several allowed values, for a column of `manifest`; `None` is null.

        Raises:
            KeyError: A column or an id does not exist.
            TypeError: A value has another type than its column.
            ValueError: The rows of a boolean Series are not those of the manifest.
        """
        others = (self._concatenated(table, ["id"])["id"].to_pylist() for table in ("transcripts", "failures"))
        mask = selection.chosen(self.manifest, where, columns, others)
        return Run(self._directory, self._whole, self.manifest[mask].reset_index(drop=True))

    @cached_property
    def commits(self) -> dict[int, CommitRecord]:
        """Commit records of the shards that hold any of these utterances, by shard. They are read once."""
        if self._whole is self:
            return self._directory.commits()
        shards = set(self.manifest["shard"])
        return {shard: record for shard, record in self._whole.commits.items() if shard in shards}

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row per utterance, made before any model ran."""
        return to_frame(self._directory.manifest.read())

    @cached_property
    def transcripts(self) -> pd.DataFrame:
        """One row per utterance with a result; empty if transcripts were not requested."""
        return to_frame(self._concatenated("transcripts"))

    @cached_property
    def failures(self) -> pd.DataFrame:
        """One row per utterance without a result."""
        return to_frame(self._concatenated("failures"))

    @cached_property
    def words(self) -> pd.DataFrame:
        """One row per word: id, word, start_s, end_s (seconds in the original file), probability."""
        found = [read_words(stored, ids) for stored, ids in self._committed.files("transcripts")]
        return to_frame(pa.concat_tables(found) if found else WORDS.empty_table())

    @property
    def scores(self) -> pd.DataFrame:
        """Errors and rates overall and per group, with 95 % intervals; empty if nothing has been scored.

        For a selection, they are counted again with the same groups and the same normaliser.
        """
        return self._scored[0]

    @property
    def confusions(self) -> pd.DataFrame:
        """Wrong words: kind, reference, hypothesis, count. The most frequent are first."""
        return self._scored[1]

    @property
    def alphabet(self) -> tuple[str, ...]:
        """Labels, in the order of an emission's columns."""
        labels: list[str] = self.emission_metadata["labels"]
        return tuple(labels)

    @cached_property
    def emission_metadata(self) -> dict[str, Any]:
        """File metadata of emissions: labels, blank, seconds per frame, sample rate, model, kind of values.

        Raises:
            LookupError: No shard with emissions is committed.
        """
        return self._whole._committed.metadata(EMISSIONS.name)

    @property
    def seconds_per_frame(self) -> float:
        """Seconds from one frame to the next.

        Raises:
            LookupError: Neither emissions nor features are committed.
        """
        return float(self._whole._committed.metadata(*ARRAY_TABLES)["seconds_per_frame"])

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model's input in Hz. Recordings may have another rate.

        Raises:
            LookupError: Neither emissions nor features are committed.
        """
        return int(self._whole._committed.metadata(*ARRAY_TABLES)["sample_rate"])

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Layers whose features are stored; 1 is the first transformer layer. Empty if there are no features."""
        return arrays.layers_of(stored for stored, _ in self._whole._committed.files(FEATURES.name))

    def emissions(self) -> Iterator[tuple[str, NDArray[np.floating]]]:
        """Yield `(id, emission)` of each utterance. The emission is `(frames, labels)`.

        Memory holds one row group at a time.
        """
        for stored, ids in self._committed.files(EMISSIONS.name):
            yield from arrays.read_arrays(stored, EMISSIONS, ids)

    def emission(self, id: str, start_frame: int = 0, end_frame: int | None = None) -> NDArray[np.floating]:
        """Return the emission of one utterance, `(frames, labels)`.

        Args:
            id: Id of the utterance.
            start_frame: First frame.
            end_frame: Frame after the last one; `None` for all.

        Raises:
            KeyError: The utterance has no emission. The message gives the reason.
        """
        return self._one(EMISSIONS, id, None, start_frame, end_frame)

    def features(self, layer: int) -> Iterator[tuple[str, NDArray[np.floating]]]:
        """Yield `(id, feature)` of each utterance for one layer. The feature is `(frames, dim)`.

        Memory holds one row group at a time.

        Raises:
            KeyError: The features of this layer are not stored.
        """
        self._check_layer(layer)
        files = self._committed.files(FEATURES.name)
        return (found for stored, ids in files for found in arrays.read_arrays(stored, FEATURES, ids, layer))

    def feature(self, id: str, layer: int, start_frame: int = 0, end_frame: int | None = None) -> NDArray[np.floating]:
        """Return the feature of one utterance and layer, `(frames, dim)`.

        Args:
            id: Id of the utterance.
            layer: The layer; 1 is the first transformer layer.
            start_frame: First frame.
            end_frame: Frame after the last one; `None` for all.

        Raises:
            KeyError: The utterance has no such feature. The message gives the reason.
        """
        return self._one(FEATURES, id, layer, start_frame, end_frame)

    def pooled(
        self, layer: int, by: str = "utterance", pooling: str = "mean", max_rows: int = 4096
    ) -> Iterator[tuple[pd.DataFrame, NDArray[np.float32]]]:
        """Yield the pooled features of one layer in chunks: `(rows, matrix)`.

        `rows` has the column `id`, for words also `word`, `start_s`, `end_s` and `probability`, then the number of
        pooled frames `num_frames` and the dataset's own columns. `matrix` is `(rows, dim)` float32; its rows belong to
        those of `rows`. Sums are taken in float64. Memory holds one row group, one chunk and the words of one shard.

        Args:
            layer: The layer; 1 is the first transformer layer.
            by: `utterance`, or `word` for the frames between the times of a word, which are at least one frame.
            pooling: `mean`, `std` (population standard deviation) or `max`.
            max_rows: Maximum of rows in a chunk. The last chunk of a shard may have fewer.

        Raises:
            LookupError: The features of this layer are not stored, or there are no transcripts for `by="word"`.
            ValueError: `by`, `pooling` or `max_rows` is not allowed.
        """
        pools.check(by, pooling, max_rows)
        self._check_layer(layer)
        self._whole._committed.metadata(FEATURES.name)
        if by == "word":
            self._whole._committed.metadata("transcripts")
        return self._pooled_features.chunks(layer, by, pooling, max_rows)

    def pooled_table(
        self, layer: int, by: str = "utterance", pooling: str = "mean"
    ) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        """Return everything that `pooled` yields as one `(rows, matrix)`.

        Raises:
            LookupError, ValueError: As `pooled`.
        """
        chunks = list(self.pooled(layer, by, pooling)) or [self._pooled_features.empty(by)]
        rows, matrices = zip(*chunks, strict=True)
        return pd.concat(rows, ignore_index=True), np.concatenate(matrices)

    @property
    def _pooled_features(self) -> PooledFeatures:
        own_columns = [field.name for field in self._own_fields]
        whole = self._whole._committed
        return PooledFeatures(self._committed, whole, self.manifest, own_columns, self.seconds_per_frame)

    @cached_property
    def _scored(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        scores, confusions = read_scores(self._directory)
        if self._whole is not self and scores.num_rows:
            scores, confusions = score_again(scores, self._committed.files("transcripts"), self._own_fields)
        return to_frame(scores), to_frame(confusions)

    @cached_property
    def _committed(self) -> Committed:
        ids = {int(shard): sorted(ids) for shard, ids in self.manifest.groupby("shard")["id"]}
        return Committed(self._directory, self.commits, ids)

    @cached_property
    def _own_fields(self) -> list[pa.Field]:
        return tables.own_columns(self._directory.manifest.schema())

    def _check_layer(self, layer: int, whose: str = "") -> None:
        if self.layers and layer not in self.layers:
            raise KeyError(f"{whose}no feature of layer {layer}; this run has layers {list(self.layers)}")

    def _concatenated(self, table: str, columns: list[str] | None = None) -> pa.Table:
        parts = [read_rows(stored, ids, columns) for stored, ids in self._committed.files(table)]
        if parts:  # columns may differ between the files while those of a grown corpus are written
            return pa.concat_tables(parts, promote_options="permissive")
        if table == "failures":
            return tables.FAILURES.empty_table()
        recorded = self._directory.read_record()
        audio_digests = recorded is not None and recorded.identity.audio_digests
        return tables.transcripts_schema(self._directory.manifest.schema(), audio_digests).empty_table()

    def _one(
        self, table: ArrayTable, id: str, layer: int | None, start_frame: int, end_frame: int | None
    ) -> NDArray[np.floating]:
        stored = self._file_of(table.name, id)
        if layer is not None:
            self._check_layer(layer, f"{id}: ")
        found: NDArray[np.floating] | None = arrays.stretch(
            arrays.read_parts(stored, table, [id], layer), start_frame, end_frame
        )
        if found is None:
            row = self.failures.set_index("id").loc[id]
            reason = f"failed ({row['error']}: {row['message']}; retry_failed=true tries again)"
            raise KeyError(f"{id}: {reason}, so it has no {table.values}")
        return found

    def _file_of(self, table: str, id: str) -> StoredTable:
        shard = self._shards.get(id)
        if shard is None:
            where = f"the manifest of {self.path}" if self._whole is self else "this selection"
            raise KeyError(f"{id}: no such id in {where}{selection.did_you_mean(id, self._shards.index)}")
        record = self.commits.get(int(shard))
        if record is None:
            raise KeyError(f"{id}: its shard {shard} is not committed yet; run the same command again to continue")
        if table not in record.files:
            raise KeyError(f"{id}: this run has no {table}; run with outputs=[{table}]")
        return self._directory.table(table, int(shard))

    @cached_property
    def _shards(self) -> pd.Series:
        return self.manifest.set_index("id")["shard"]
