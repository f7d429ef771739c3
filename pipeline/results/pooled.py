"""Pools the features of the utterances or words of a run, one shard at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.results import arrays
from pipeline.results import pooling as pools
from pipeline.results.committed import Committed
from pipeline.results.spans import Spans, utterance_spans, word_spans
from pipeline.storage.files import StoredTable
from pipeline.storage.layouts import FEATURES


@dataclass(frozen=True)
class PooledFeatures:
    """Pools features of a run, or of a selection of its utterances.

    Attributes:
        committed: Committed results of the utterances.
        whole: Committed results of the whole run.
        manifest: Rows of the utterances in the manifest.
        own_columns: Names of the dataset's own columns.
        seconds_per_frame: Seconds from one frame to the next.
    """

    committed: Committed
    whole: Committed
    manifest: pd.DataFrame
    own_columns: Sequence[str]
    seconds_per_frame: float

    def chunks(
        self, layer: int, by: str, pooling: str, max_rows: int
    ) -> Iterator[tuple[pd.DataFrame, NDArray[np.float32]]]:
        """Yield rows and their matrix `(rows, dim)`. The arguments are those of `Run.pooled`."""
        for shard in self.committed.shards:
            manifest = self.manifest[self.manifest["shard"] == shard]
            for words in self.committed.files_of(shard, "transcripts") if by == "word" else [None]:
                rows, spans = self._spans(manifest, words)
                for stored, ids in self.committed.files_of(shard, FEATURES.name):
                    parts = arrays.read_parts(stored, FEATURES, ids, layer)
                    yield from pools.chunks(parts, rows, spans, pooling, max_rows)

    def empty(self, by: str) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        """Return a chunk without rows, with the same columns as the chunks of `chunks`."""
        files = [stored for stored, _ in self.whole.files("transcripts")[:1] if by == "word"]
        rows, _ = self._spans(self.manifest[:0], (files[0], []) if files else None)
        dim = arrays.dim_of(stored for stored, _ in self.whole.files(FEATURES.name))
        return rows, np.empty((0, dim), np.float32)

    def _spans(
        self, manifest: pd.DataFrame, words: tuple[StoredTable, list[str] | None] | None
    ) -> tuple[pd.DataFrame, Spans]:
        """Return the rows and spans to pool of a shard: its utterances, or the words of a file of `transcripts/`."""
        if words is None:
            return utterance_spans(manifest, self.own_columns)
        return word_spans(*words, manifest, self.own_columns, self.seconds_per_frame)
