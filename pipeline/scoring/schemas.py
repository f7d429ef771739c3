"""Schemas of `scores.parquet` and `confusions.parquet`."""

from __future__ import annotations

import pyarrow as pa

SCORES = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("utterances", pa.int64(), nullable=False),
        pa.field("hours", pa.float64(), nullable=False),
        pa.field("hits", pa.int64(), nullable=False),
        pa.field("substitutions", pa.int64(), nullable=False),
        pa.field("deletions", pa.int64(), nullable=False),
        pa.field("insertions", pa.int64(), nullable=False),
        pa.field("word_errors", pa.int64(), nullable=False),
        pa.field("reference_words", pa.int64(), nullable=False),
        pa.field("wer", pa.float64()),
        pa.field("wer_low", pa.float64()),
        pa.field("wer_high", pa.float64()),
        pa.field("char_errors", pa.int64(), nullable=False),
        pa.field("reference_chars", pa.int64(), nullable=False),
        pa.field("cer", pa.float64()),
        pa.field("cer_low", pa.float64()),
        pa.field("cer_high", pa.float64()),
    ]
)
"""Schema of `scores.parquet`. The first row has the group `overall` and a null value; then each group value has a row.

`wer_low` to `cer_high` are the ends of 95 % intervals. They are null if resampling cannot give an interval, as for one
utterance, or if there are no errors. The file's metadata hold the `normaliser` of both texts, its `normaliser_version`,
the resampled unit (`resampled`: speaker or utterance) and the number of samples (`resamples`).
"""

CONFUSIONS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("reference", pa.string()),
        pa.field("hypothesis", pa.string()),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
"""Schema of `confusions.parquet`. Each row is a substitution, deletion or insertion; the most frequent is first."""
