"""One run's tables, or those of some of its utterances."""

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
from pipeline.results.arrays import ARRAYS, EMISSIONS, FEATURES, Table
from pipeline.results.committed import Committed
from pipeline.results.frames import WORDS, read_rows, read_words, to_frame
from pipeline.results.scores import read_scores, score_again
from pipeline.results.spans import Spans, utterance_spans, word_spans
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory


class Run:
    """The tables of one run. Frames are `pandas.DataFrame`s; integers with nulls have pandas' nullable types."""

    def __init__(self, directory: RunDirectory, whole: Run | None = None, manifest: pd.DataFrame | None = None) -> None:
        """Use `open_run`, and `select` for some of its utterances: `manifest` has their rows of the `whole` run."""
        self._directory = directory
        self._whole = whole or self
        self.path = directory.root
        if manifest is not None:
            self.manifest = manifest

    def __repr__(self) -> str:
        """Where it is, and how many utterances."""
        of = "" if self._whole is self else f" of {len(self._whole.manifest)}"
        return f"<Run {self.path}: {len(self.manifest)}{of} utterances>"

    def select(self, where: selection.Where | None = None, /, **columns: Any) -> Run:
        """A run of some of these utterances: the same members, restricted to them.

        Reading it reads only the shards and row groups that hold them.

            run.select(room="rm1", distractor=["none", "babb"])
            run.select(lambda manifest: manifest.duration_s > 5)
            run.select(run.transcripts.query("wer > 0.5").id)

        Args:
            where: A boolean Series over `manifest` or indexed by id (null is false), a function of `manifest` that
                returns one, or ids.
            columns: Column of `manifest` to a value, or to several of which any will do; `None` is null.

        Raises:
            KeyError: A column or an id that is not there.
            TypeError: A value that is not of its column's type.
            ValueError: A boolean Series of other rows than the manifest's.
        """
        others = (self._concatenated(table, ["id"])["id"].to_pylist() for table in ("transcripts", "failures"))
        mask = selection.chosen(self.manifest, where, columns, others)
        return Run(self._directory, self._whole, self.manifest[mask].reset_index(drop=True))

    @cached_property
    def commits(self) -> dict[int, CommitRecord]:
        """The committed shards that hold any of these utterances, as they were when this was first asked for."""
        if self._whole is self:
            return self._directory.commits()
        shards = set(self.manifest["shard"])
        return {shard: record for shard, record in self._whole.commits.items() if shard in shards}

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row an utterance, before any model ran."""
        return to_frame(self._directory.manifest.read())

    @cached_property
    def transcripts(self) -> pd.DataFrame:
        """One row for each utterance with a result; empty where transcripts were not asked for."""
        return to_frame(self._concatenated("transcripts"))

    @cached_property
    def failures(self) -> pd.DataFrame:
        """One row for each utterance without a result."""
        return to_frame(self._concatenated("failures"))

    @cached_property
    def words(self) -> pd.DataFrame:
        """One row a word: id, word, start_s, end_s (seconds in the original file), probability."""
        found = [read_words(stored, ids) for stored, ids in self._committed.files("transcripts")]
        return to_frame(pa.concat_tables(found) if found else WORDS.empty_table())

    @property
    def scores(self) -> pd.DataFrame:
        """Errors and rates overall and per group, with 95 % intervals; empty where nothing has been scored.

        Those of a selection are counted anew, in the same groups and after the same normalisation.
        """
        return self._scored[0]

    @property
    def confusions(self) -> pd.DataFrame:
        """Words that were read wrongly: kind, reference, hypothesis, count; the most frequent first."""
        return self._scored[1]

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
        return self._whole._committed.metadata(EMISSIONS.name)

    @property
    def seconds_per_frame(self) -> float:
        """Seconds from a frame to the next.

        Raises:
            LookupError: Neither emissions nor features are committed, which tell.
        """
        return float(self._whole._committed.metadata(*ARRAYS)["seconds_per_frame"])

    @property
    def sample_rate(self) -> int:
        """Samples per second that the model heard, whatever the files have.

        Raises:
            LookupError: Neither emissions nor features are committed, which tell.
        """
        return int(self._whole._committed.metadata(*ARRAYS)["sample_rate"])

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers whose features are stored; 1 is the first transformer layer. Empty where none are."""
        return arrays.layers_of(stored for stored, _ in self._whole._committed.files(FEATURES.name))

    def emissions(self) -> Iterator[tuple[str, NDArray[np.floating]]]:
        """Every `(id, emission)`, the emission `(frames, labels)`, a row group in memory at a time."""
        for stored, ids in self._committed.files(EMISSIONS.name):
            yield from arrays.read_arrays(stored, EMISSIONS, ids)

    def emission(self, id: str, start_frame: int = 0, end_frame: int | None = None) -> NDArray[np.floating]:
        """The emission `(frames, labels)` of one utterance, or its frames from `start_frame` to before `end_frame`.

        Raises:
            KeyError: It has none, with the reason: not in the manifest, failed, or not committed yet.
        """
        return self._one(EMISSIONS, id, None, start_frame, end_frame)

    def features(self, layer: int) -> Iterator[tuple[str, NDArray[np.floating]]]:
        """Every `(id, feature)` of one layer, the feature `(frames, dim)`, a row group in memory at a time.

        Raises:
            KeyError: Features are stored, of other layers.
        """
        self._check_layer(layer)
        files = self._committed.files(FEATURES.name)
        return (found for stored, ids in files for found in arrays.read_arrays(stored, FEATURES, ids, layer))

    def feature(self, id: str, layer: int, start_frame: int = 0, end_frame: int | None = None) -> NDArray[np.floating]:
        """The feature `(frames, dim)` of one utterance and layer, or its frames from `start_frame` to `end_frame`.

        Layer 1 is the first transformer layer; `end_frame` is the first that is left out.

        Raises:
            KeyError: It has none, with the reason.
        """
        return self._one(FEATURES, id, layer, start_frame, end_frame)

    def pooled(
        self, layer: int, by: str = "utterance", pooling: str = "mean", max_rows: int = 4096
    ) -> Iterator[tuple[pd.DataFrame, NDArray[np.float32]]]:
        """Features of one layer, pooled, beside the rows that they are of, in chunks: `(rows, matrix)`.

        `rows` has `id`; for words `word`, `start_s`, `end_s`, `probability`; `num_frames` that were pooled; and the
        dataset's own columns. `matrix` is `(rows, dim)` float32, row for row; sums are taken in float64. In memory
        at a time: a row group, a chunk and a shard's words, however long the run or an utterance is.

        Args:
            layer: 1 is the first transformer layer.
            by: `utterance`, or `word`: the frames between its times, one at least.
            pooling: `mean`, `std` (of these frames) or `max`.
            max_rows: Rows in a chunk; a shard's last one has fewer.

        Raises:
            LookupError: There are no features, for words no transcripts, or not of this layer.
            ValueError: `by`, `pooling` or `max_rows` is none of what is allowed.
        """
        pools.check(by, pooling, max_rows)
        self._check_layer(layer)
        self._whole._committed.metadata(FEATURES.name)
        if by == "word":
            self._whole._committed.metadata("transcripts")
        return self._pooled(layer, by, pooling, max_rows)

    def pooled_table(
        self, layer: int, by: str = "utterance", pooling: str = "mean"
    ) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        """What `pooled` streams, all at once: `(rows, matrix)`.

        Raises:
            LookupError, ValueError: As `pooled` does.
        """
        chunks = list(self.pooled(layer, by, pooling)) or [self._nothing_pooled(by)]
        rows, matrices = zip(*chunks, strict=True)
        return pd.concat(rows, ignore_index=True), np.concatenate(matrices)

    def _pooled(
        self, layer: int, by: str, pooling: str, max_rows: int
    ) -> Iterator[tuple[pd.DataFrame, NDArray[np.float32]]]:
        for shard in self.commits:
            stored, ids = self._committed.file(shard, FEATURES.name)
            words = self._committed.file(shard, "transcripts") if by == "word" else None
            rows, spans = self._spans(self.manifest[self.manifest["shard"] == shard], words)
            yield from pools.chunks(arrays.read_parts(stored, FEATURES, ids, layer), rows, spans, pooling, max_rows)

    def _nothing_pooled(self, by: str) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        files = [stored for stored, _ in self._whole._committed.files("transcripts")[:1] if by == "word"]
        rows, _ = self._spans(self.manifest[:0], (files[0], []) if files else None)
        dim = arrays.dim_of(stored for stored, _ in self._whole._committed.files(FEATURES.name))
        return rows, np.empty((0, dim), np.float32)

    def _spans(
        self, manifest: pd.DataFrame, words: tuple[StoredTable, list[str] | None] | None
    ) -> tuple[pd.DataFrame, Spans]:
        """What to pool of a shard: utterances, or the words of a file of `transcripts/`."""
        own_columns = [field.name for field in self._own_fields]
        if words is None:
            return utterance_spans(manifest, own_columns)
        return word_spans(*words, manifest, own_columns, self.seconds_per_frame)

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
        if parts:
            return pa.concat_tables(parts)
        if table == "failures":
            return tables.FAILURES.empty_table()
        return tables.transcripts_schema(self._directory.manifest.schema()).empty_table()

    def _one(
        self, table: Table, id: str, layer: int | None, start_frame: int, end_frame: int | None
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
            raise KeyError(f"{id}: its shard {shard} is not committed yet; the run's command again goes on with it")
        if table not in record.files:
            raise KeyError(f"{id}: this run has no {table}; run with outputs=[{table}]")
        return self._directory.table(table, int(shard))

    @cached_property
    def _shards(self) -> pd.Series:
        return self.manifest.set_index("id")["shard"]
