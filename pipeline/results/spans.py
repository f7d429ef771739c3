"""Determines which frames are pooled, with one row per utterance or word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.results.frames import read_rows, read_words, to_frame
from pipeline.storage.files import StoredTable
from pipeline.storage.tables import own_column_names

TO_THE_END = np.iinfo(np.int64).max
"""`FrameSpan.last` of a span that ends with the utterance."""


@dataclass(frozen=True)
class FrameSpan:
    """Frames `first` to `last` (exclusive) of an utterance, and the position of their row."""

    row: int
    first: int
    last: int


Spans = Mapping[str, Sequence[FrameSpan]]
"""Spans to pool, by id, in the order of time."""


def utterance_spans(manifest: pd.DataFrame, own_columns: Sequence[str]) -> tuple[pd.DataFrame, Spans]:
    """Return rows and spans of whole utterances. `manifest` has the rows of one shard."""
    rows = _with_own_columns(manifest[["id"]].assign(num_frames=0), manifest, own_columns)
    return rows, {id_: [FrameSpan(row, 0, TO_THE_END)] for row, id_ in enumerate(rows["id"])}


def word_spans(
    stored: StoredTable, ids: Sequence[str] | None, manifest: pd.DataFrame, own_columns: Sequence[str], stride_s: float
) -> tuple[pd.DataFrame, Spans]:
    """Return rows and spans of words. Each span has at least one frame and ends within the utterance.

    Args:
        stored: File of `transcripts/` of one shard. Word times are seconds in the original file.
        ids: Ids to read; `None` for all.
        manifest: Rows of the shard in the manifest.
        own_columns: Names of the dataset's own columns.
        stride_s: Seconds from one frame to the next.
    """
    words = to_frame(read_words(stored, ids)).assign(num_frames=0)
    rows = _with_own_columns(words, manifest, own_columns)
    # The start of a segment in its file.
    begins_s = manifest.set_index("id")["start_s"].reindex(rows["id"]).fillna(0.0).to_numpy()
    frames = read_rows(stored, ids, ["id", "num_frames"]).to_pandas().set_index("id")["num_frames"]
    length = frames.reindex(rows["id"]).to_numpy(np.int64)
    first = np.rint((rows["start_s"].to_numpy() - begins_s) / stride_s).astype(np.int64).clip(0, length - 1)
    last = np.rint((rows["end_s"].to_numpy() - begins_s) / stride_s).astype(np.int64).clip(first + 1, length)
    spans: dict[str, list[FrameSpan]] = {}
    for row, (id_, *bounds) in enumerate(zip(rows["id"], first.tolist(), last.tolist(), strict=True)):
        spans.setdefault(id_, []).append(FrameSpan(row, *bounds))
    return rows, spans


def _with_own_columns(rows: pd.DataFrame, manifest: pd.DataFrame, own_columns: Sequence[str]) -> pd.DataFrame:
    """Join the dataset's own columns to the rows. A name that is taken becomes `meta_<name>`."""
    names = own_column_names(own_columns, rows.columns)
    return rows.merge(manifest[["id", *own_columns]].rename(columns=names), on="id", how="left", validate="m:1")
