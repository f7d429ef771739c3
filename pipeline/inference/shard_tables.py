"""Collects the results of one shard and writes its tables when the shard is complete."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.duplicates.digests import digests_as_numbers, find_duplicates
from pipeline.inference.staged_arrays import StagedArrays
from pipeline.inference.transcription import Transcribed
from pipeline.records import Emission, Failure
from pipeline.runtime.errors import naming
from pipeline.runtime.failpoints import failpoint
from pipeline.scoring.counting import COUNTED_AFTER, transcripts_table
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.committing import commit
from pipeline.storage.layouts import BINARY, LIST, layout_metadata
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class TableSettings:
    """Which tables to write, and how.

    Attributes:
        outputs: Requested tables.
        layers: Layers in `features/`.
        feature_dtype, emission_dtype: float16 or float32.
        num_labels, dim: Number of labels of an emission, and dimension of a feature.
        metadata: File metadata of emissions and features.
        fingerprint: Fingerprint of the run.
        feature_layout, emission_layout: list or binary.
        audio_digests: As `Identity.audio_digests`.
        nbest: As `Identity.nbest`.
    """

    outputs: tuple[str, ...]
    layers: tuple[int, ...]
    feature_dtype: str
    emission_dtype: str
    num_labels: int
    dim: int
    metadata: Mapping[str, Any]
    fingerprint: str
    feature_layout: str = LIST
    emission_layout: str = LIST
    audio_digests: bool = False
    nbest: bool = False

    @property
    def faster_setting(self) -> str | None:
        """The setting that makes writing faster, such as `features.layout=binary`; `None` if there are no lists.

        Features come first, because they are far more than emissions.
        """
        layouts = {"features": self.feature_layout, "emissions": self.emission_layout}
        lists = (table for table, layout in layouts.items() if table in self.outputs and layout == LIST)
        return next((f"{table}.layout={BINARY}" for table in lists), None)


class ShardTables:
    """The tables of one shard. Arrays are staged on disk in `.staging/`; transcripts and failures stay in memory."""

    def __init__(
        self,
        shard: int,
        directory: RunDirectory,
        manifest: Manifest,
        settings: TableSettings,
        supplement: int = 0,
        skipped: NDArray[np.bool_] | None = None,
    ) -> None:
        """Create the staging folder of the shard.

        Args:
            shard: Number of the shard.
            directory: The run.
            manifest: The manifest of the run.
            settings: Which tables to write.
            supplement: 0 for the first pass over the shard; otherwise the number of the supplement.
            skipped: `(rows,)` whether each row of the shard is left out, because it failed before the supplement.
        """
        self.shard = shard
        self._supplement = supplement
        self._directory = directory
        self._manifest = manifest
        self._settings = settings
        self._rows = manifest.rows_of_shard(shard)
        self._ids = manifest.table["id"].slice(self._rows.start, len(self._rows)).to_pylist()
        kept = np.ones(len(self._rows), bool) if skipped is None else ~skipped
        self._expected = [id_ for id_, wanted in zip(self._ids, kept.tolist(), strict=True) if wanted]
        self._transcripts: list[pa.Table] = []
        self._transcribed: list[int] = []  # the manifest row of each row of the transcripts
        self._failures: list[Failure] = []
        self._done: set[int] = set()
        self._folder = directory.new_staging(shard)
        self._open = ExitStack()
        emission_type, feature_type = np.dtype(settings.emission_dtype), np.dtype(settings.feature_dtype)
        self._logits: StagedArrays | None = None
        if "emissions" in settings.outputs:
            self._logits = self._stage("emissions", emission_type, settings.num_labels)
        self._features = {layer: self._stage(f"layer-{layer}", feature_type, settings.dim) for layer in settings.layers}

    def _stage(self, name: str, dtype: np.dtype, width: int) -> StagedArrays:
        return self._open.enter_context(StagedArrays(self._folder / f"{name}.spool", dtype, width))

    @property
    def complete(self) -> bool:
        """Whether each row that is not left out has a result or a failure."""
        return len(self._done) + len(self._failures) == len(self._expected)

    @property
    def failed(self) -> set[str]:
        """Ids of the rows that failed."""
        return {failure.id for failure in self._failures}

    def add(self, emission: Emission) -> None:
        """Add the emission of one chunk. The chunks of an utterance come in order."""
        row = emission.chunk.row
        if self._logits is not None and emission.logits is not None:
            self._logits.append(row, emission.logits)
        for layer, arrays in self._features.items():
            arrays.append(row, emission.features[layer])
        if emission.chunk.last:
            self._done.add(row)

    def transcribe(self, transcribed: Transcribed) -> None:
        """Add the transcripts of utterances."""
        columns = tables.transcript_columns(transcribed.transcripts)
        if self._settings.audio_digests:
            columns = columns.append_column(tables.AUDIO_DIGEST, pa.array(transcribed.audio_digests))
        self._transcripts.append(columns)
        self._transcribed += transcribed.rows

    def fail(self, failure: Failure) -> None:
        """Add the failure of one utterance."""
        self._failures.append(failure)

    def commit(self, again: bool = False) -> CommitRecord | None:
        """Write the tables, commit them and remove the staging folder.

        Args:
            again: Whether the shard is computed again because of its failures.

        Returns:
            The commit record; `None` if another process committed the shard at the same moment.
        """
        order = sorted(self._done, key=self._id)
        staged: dict[str, Path] = {}
        counts: Counter[str] = Counter()
        # Tables are published in this order. If a shard is computed again, a row leaves `failures` before it enters
        # another table.
        staged["failures"] = self._write("failures", [tables.failures_table(self._failures)], tables.FAILURES)
        if "transcripts" in self._settings.outputs:
            table = self._transcripts_table(order, counts)
            staged["transcripts"] = self._write("transcripts", [table], table.schema, COUNTED_AFTER)
        if self._logits is not None:
            staged["emissions"] = self._write_emissions(self._logits, order)
        if self._features:
            staged["features"] = self._write_features(order)
        self._open.close()
        durations = self._manifest.duration_s[np.asarray(order, dtype=np.int64)]
        record = CommitRecord(
            shard=self.shard,
            fingerprint=self._settings.fingerprint,
            files={},
            utterances=len(self._expected),
            audio_s=float(np.nansum(durations)),
            failures=dict(Counter(failure.error for failure in self._failures)),
            counts=dict(counts),
            supplement=self._supplement,
        )
        rows_per_id = {table: 1 for table in staged if table != "failures"}
        if self._features:
            rows_per_id["features"] = len(self._features)
        done = commit(self._directory, record, staged, self._expected, rows_per_id, again)
        self.discard()
        return done

    def discard(self) -> None:
        """Remove the staging folder."""
        with suppress(OSError):  # closing may fail on a full disk, but the values are not needed
            self._open.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _id(self, row: int) -> str:
        return str(self._ids[row - self._rows.start])

    def _write(
        self, table: str, parts: Sequence[pa.Table], schema: pa.Schema, metadata: Mapping[str, Any] | None = None
    ) -> Path:
        path = self._folder / f"{table}.parquet"
        with naming(path), tables.open_writer(path, schema, metadata) as writer:
            for part in parts:
                writer.write_table(part)
            failpoint("table", self.shard)
        return path

    def _write_emissions(self, arrays: StagedArrays, order: Sequence[int]) -> Path:
        settings, path = self._settings, self._folder / "emissions.parquet"
        dtype, layout, num_labels = settings.emission_dtype, settings.emission_layout, settings.num_labels
        schema = tables.emissions_schema(dtype, layout)
        metadata = {**settings.metadata, **layout_metadata(dtype, layout, num_labels)}
        with naming(path), tables.open_writer(path, schema, metadata, values="emission") as writer:
            for parts in arrays.row_groups(order):
                ids = [self._id(part.row) for part in parts]
                writer.write_table(tables.emission_rows(ids, parts, dtype, num_labels, layout))
                failpoint("table", self.shard)
        return path

    def _write_features(self, order: Sequence[int]) -> Path:
        settings, path = self._settings, self._folder / "features.parquet"
        dtype, layout, dim = settings.feature_dtype, settings.feature_layout, settings.dim
        schema = tables.features_schema(dtype, layout)
        metadata = {**settings.metadata, **layout_metadata(dtype, layout, dim)}
        with naming(path), tables.open_writer(path, schema, metadata, values="feature") as writer:
            for layer, arrays in sorted(self._features.items()):
                for parts in arrays.row_groups(order):
                    ids = [self._id(part.row) for part in parts]
                    writer.write_table(tables.feature_rows(ids, layer, parts, dtype, dim, layout))
                    failpoint("table", self.shard)
        return path

    def _transcripts_table(self, order: Sequence[int], counts: Counter[str]) -> pa.Table:
        """Return the transcripts of the rows `order`, and add their sums to `counts`."""
        schema = tables.transcripts_schema(self._manifest.schema, self._settings.audio_digests, self._settings.nbest)
        if not order:
            return schema.empty_table()
        places = {row: place for place, row in enumerate(self._transcribed)}
        decoded = pa.concat_tables(self._transcripts).combine_chunks().take([places[row] for row in order])
        mine = self._manifest.table.slice(self._rows.start, len(self._rows))
        described = mine.take([row - self._rows.start for row in order])
        if self._settings.audio_digests:
            # Only the utterances of this shard are compared. The stage `infer` compares all, when all are committed.
            rows = np.asarray(order)
            duplicates = find_duplicates(rows, digests_as_numbers(decoded[tables.AUDIO_DIGEST]))
            decoded = decoded.append_column(tables.SAME_AS, duplicates.same_as(rows, self._manifest.table["id"]))
        table, sums = transcripts_table(described, decoded, schema)
        counts.update(sums)
        return table
