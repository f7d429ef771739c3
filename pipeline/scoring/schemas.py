"""Columns of `scores.parquet` and `confusions.parquet`."""

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
"""Schema of `scores.parquet`: the row with group `overall` and null value first, then a row per group value.

The ends of the 95 % intervals are null where resampling cannot tell: of one utterance, or where none has an error. The
file's metadata says which `normaliser` both texts went through, and what was `resampled` (speaker, utterance) how often
(`resamples`).
"""

CONFUSIONS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("reference", pa.string()),
        pa.field("hypothesis", pa.string()),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
"""Schema of `confusions.parquet`: each wrong word as a substitution, deletion or insertion, most frequent first."""
