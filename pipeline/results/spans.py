"""Which frames of which utterances are pooled, and the rows that say what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.results.frames import read_rows, read_words, to_frame
from pipeline.storage.files import StoredTable
from pipeline.storage.tables import own_column_names

TO_THE_END = np.iinfo(np.int64).max
"""As the last frame of a span: however many frames there are."""


@dataclass(frozen=True)
class FrameSpan:
    """Frames `first` to `last` (exclusive) of an utterance, and the position of the row they are for."""

    row: int
    first: int
    last: int


Spans = Mapping[str, Sequence[FrameSpan]]
"""Of each id, what to pool, in the order of time."""


def utterance_spans(manifest: pd.DataFrame, own_columns: Sequence[str]) -> tuple[pd.DataFrame, Spans]:
    """Rows and spans of whole utterances: those of a shard's manifest rows."""
    rows = _with_own_columns(manifest[["id"]].assign(num_frames=0), manifest, own_columns)
    return rows, {id_: [FrameSpan(row, 0, TO_THE_END)] for row, id_ in enumerate(rows["id"])}


def word_spans(
    stored: StoredTable, ids: Sequence[str] | None, manifest: pd.DataFrame, own_columns: Sequence[str], stride_s: float
) -> tuple[pd.DataFrame, Spans]:
    """Rows and spans of words: at least a frame each, and none beyond the last.

    Args:
        stored: A shard's file of `transcripts/`; words' times are seconds in the original file.
        ids: The utterances to read of it; `None` for all.
        manifest: The shard's rows of the manifest.
        own_columns: The dataset's.
        stride_s: Seconds from a frame to the next.
    """
    words = to_frame(read_words(stored, ids)).assign(num_frames=0)
    rows = _with_own_columns(words, manifest, own_columns)
    begins_s = (
        manifest.set_index("id")["start_s"].reindex(rows["id"]).fillna(0.0).to_numpy()
    )  # a segment's, in its file
    frames = read_rows(stored, ids, ["id", "num_frames"]).to_pandas().set_index("id")["num_frames"]
    length = frames.reindex(rows["id"]).to_numpy(np.int64)
    first = np.rint((rows["start_s"].to_numpy() - begins_s) / stride_s).astype(np.int64).clip(0, length - 1)
    last = np.rint((rows["end_s"].to_numpy() - begins_s) / stride_s).astype(np.int64).clip(first + 1, length)
    spans: dict[str, list[FrameSpan]] = {}
    for row, (id_, *bounds) in enumerate(zip(rows["id"], first.tolist(), last.tolist(), strict=True)):
        spans.setdefault(id_, []).append(FrameSpan(row, *bounds))
    return rows, spans


def _with_own_columns(rows: pd.DataFrame, manifest: pd.DataFrame, own_columns: Sequence[str]) -> pd.DataFrame:
    """The dataset's own columns joined on, under `meta_<name>` where a column of ours has that name."""
    names = own_column_names(own_columns, rows.columns)
    return rows.merge(manifest[["id", *own_columns]].rename(columns=names), on="id", how="left", validate="m:1")
