"""Schemas of the tables that a comparison writes. `a` is the first run, `b` the second."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.storage.tables import own_column_names

COUNTS = (
    "word_errors_a", "word_errors_b", "reference_words",
    "char_errors_a", "char_errors_b", "reference_chars",
    "distance", "words_a", "words_b",
)  # fmt: skip
"""Columns of `comparison.parquet` with numbers of words and characters. Without a reference, the first six are null."""
OF_REFERENCES = 6
"""How many of `COUNTS` need a reference."""

_UTTERANCE = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("duration_s", pa.float64()),
    pa.field("text_a", pa.string()),
    pa.field("text_b", pa.string()),
    pa.field("avg_logprob_a", pa.float32()),
    pa.field("avg_logprob_b", pa.float32()),
    pa.field("reference", pa.string()),
    *(pa.field(name, pa.int32()) for name in COUNTS),
)


def comparison_schema(own: Sequence[pa.Field]) -> pa.Schema:
    """Return the schema of `comparison.parquet`: one row for each utterance that has a transcript in both runs.

    `distance` is the number of word edits from `text_a` to `text_b`. The dataset's own columns come last, as in the
    first run; a name that is taken becomes `meta_<name>`.
    """
    names = own_column_names([each.name for each in own], [each.name for each in _UTTERANCE])
    return pa.schema([*_UTTERANCE, *(each.with_name(names[each.name]) for each in own)])


GROUPS = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("utterances", pa.int64(), nullable=False),
        pa.field("with_reference", pa.int64(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in COUNTS),
        *(pa.field(name, pa.float64()) for name in ("wer_a", "wer_b")),
        *(pa.field(name, pa.float64()) for name in ("wer_difference", "wer_difference_low", "wer_difference_high")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("better_a", "better_b")),
        *(pa.field(name, pa.float64()) for name in ("cer_a", "cer_b")),
        *(pa.field(name, pa.float64()) for name in ("cer_difference", "cer_difference_low", "cer_difference_high")),
        *(pa.field(name, pa.float64()) for name in ("disagreement", "disagreement_low", "disagreement_high")),
    ]
)
"""Schema of `comparison_groups.parquet`. The first row is `overall`; then each value of each group has a row.

Differences are those of the second run minus the first. `better_a` and `better_b` count the utterances in which one run
has fewer word errors. `disagreement` is `distance / words_a`. The intervals are 95 % intervals of a paired bootstrap.
"""

WORDS = pa.schema(
    [
        pa.field("word", pa.string(), nullable=False),
        pa.field("only_a", pa.int64(), nullable=False),
        pa.field("only_b", pa.int64(), nullable=False),
    ]
)
"""Schema of `comparison_words.parquet`: how often a word of the references is right in one run only."""

LOGPROBS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        *(
            pa.field(f"logprob_text_{text}_run_{run}", pa.float64())
            for run in ("a", "b")
            for text in ("a", "b")
        ),
    ]
)  # fmt: skip
"""Schema of `comparison_logprobs.parquet`: log-probability of each text under the stored emissions of each run. A value
is null if the run has no emission, or its labels cannot spell the text. Only a sample of the utterances has a row."""
