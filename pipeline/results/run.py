"""The tables, arrays and recordings of a run, or of some of its utterances."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.results import arrays, selection
from pipeline.results import pooling as pools
from pipeline.results.audio import heard
from pipeline.results.pooled import PooledFeatures
from pipeline.results.run_tables import RunTables
from pipeline.storage.files import StoredTable
from pipeline.storage.layouts import ARRAY_TABLES, EMISSIONS, FEATURES, ArrayTable

if TYPE_CHECKING:
    from datasets import Dataset


class Run(RunTables):
    """One run: its tables as `pandas.DataFrame`s, its arrays as NumPy arrays, and its recordings.

    Integers and booleans in the tables have pandas' nullable types.

    Attributes:
        path: The run directory.
    """

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
            LookupError: Neither emissions nor features are committed, and the model is not one of this release.
        """
        try:
            return int(self._whole._committed.metadata(*ARRAY_TABLES)["sample_rate"])
        except LookupError:
            recorded = self._directory.read_record()
            if recorded is None:
                raise
            from pipeline.models.catalog import MODELS

            identity = recorded.identity
            facts = MODELS.get(identity.options.get("model.architecture", identity.model))
            if facts is None:
                raise
            return facts.sample_rate

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Layers whose features are stored; 1 is the first transformer layer. Empty if there are no features."""
        recorded = self._directory.read_record()
        return () if recorded is None else recorded.layers_of(self._whole.commits.values())

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

    def audio(self, id: str) -> tuple[NDArray[np.float32], int]:
        """Return the waveform of one utterance as the model heard it, `(samples,)`, and its sample rate in Hz.

        The recording is read again: its segment, its channel or the mean of its channels, resampled to the model's
        rate. Only a recording with another rate than the model's needs torch.

        Args:
            id: Id of the utterance.

        Raises:
            KeyError: There is no such utterance.
            FileNotFoundError: The recording is gone.
            OSError: The recording has changed since the run, or cannot be read.
            LookupError: As `sample_rate`.
        """
        self._shard_of(id)
        row = self.manifest.iloc[self._shards.index.get_loc(id)]
        recorded = self._directory.read_record()
        channels = "mix" if recorded is None else recorded.identity.channels
        return heard(row.to_dict(), channels, self.sample_rate), self.sample_rate

    def to_datasets(self, audio: bool = False) -> Dataset:
        """Return the transcripts as a `datasets.Dataset` of Hugging Face, with the columns that were joined.

        They are copied, a shard at a time, into one file in the cache of `datasets`, and mapped into memory from there.

        Args:
            audio: Whether to add the column `audio`, a `datasets.Audio` that decodes the file of an utterance when the
                row is read. It is for utterances that are whole files; the method `audio` is for all.

        Raises:
            LookupError: No transcripts are committed.
            UserError: The extra `datasets` is not installed.
            ValueError: With `audio`, an utterance is a part or one channel of its file, or the column is there already.
        """
        from pipeline.results import hugging_face

        self._whole._committed.metadata("transcripts")
        if audio:
            recorded = self._directory.read_record()
            hugging_face.check_whole(self.manifest, recorded.identity.channels if recorded else "mix")
        files, schemas = self._committed.files("transcripts"), self._whole._committed.files("transcripts")
        schema = hugging_face.schema_of(stored for stored, _ in schemas)
        return hugging_face.to_dataset(files, schema, self._joined, self.sample_rate if audio else None)

    @property
    def _pooled_features(self) -> PooledFeatures:
        own_columns = [field.name for field in [*self._own_fields, *(self._joined.fields if self._joined else [])]]
        whole = self._whole._committed
        return PooledFeatures(self._committed, whole, self.manifest, own_columns, self.seconds_per_frame)

    def _check_layer(self, layer: int, whose: str = "") -> None:
        if self.layers and layer not in self.layers:
            raise KeyError(f"{whose}no feature of layer {layer}; this run has layers {list(self.layers)}")

    def _one(
        self, table: ArrayTable, id: str, layer: int | None, start_frame: int, end_frame: int | None
    ) -> NDArray[np.floating]:
        files = self._files_of(table.name, id)
        if layer is not None:
            self._check_layer(layer, f"{id}: ")
        for stored in files:
            parts = arrays.read_parts(stored, table, [id], layer)
            found: NDArray[np.floating] | None = arrays.stretch(parts, start_frame, end_frame)
            if found is not None:
                return found
        for row in self.failures[self.failures["id"] == id].itertuples():
            reason = f"failed ({row.error}: {row.message}; retry_failed=true tries again)"
            raise KeyError(f"{id}: {reason}, so it has no {table.values}")
        raise KeyError(f"{id}: its shard has no features of layer {layer} yet; run with features.layers=[{layer}]")

    def _files_of(self, table: str, id: str) -> list[StoredTable]:
        shard = self._shard_of(id)
        committed = self.commits.get(shard)
        if committed is None:
            raise KeyError(f"{id}: its shard {shard} is not committed yet; run the same command again to continue")
        files = self._directory.tables(committed, table)
        if not files:
            raise KeyError(f"{id}: its shard {shard} has no {table}; run with outputs=[{table}] to add them")
        return files

    def _shard_of(self, id: str) -> int:
        shard = self._shards.get(id)
        if shard is None:
            where = f"the manifest of {self.path}" if self._whole is self else "this selection"
            raise KeyError(f"{id}: no such id in {where}{selection.did_you_mean(id, self._shards.index)}")
        return int(shard)

    @cached_property
    def _shards(self) -> pd.Series:
        return self.manifest.set_index("id")["shard"]
