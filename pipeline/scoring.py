"""Word and character errors of transcripts against references, per utterance and per group."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz.distance import Levenshtein

SCORES = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("utterances", pa.int64(), nullable=False),
        pa.field("word_errors", pa.int64(), nullable=False),
        pa.field("reference_words", pa.int64(), nullable=False),
        pa.field("wer", pa.float64()),
        pa.field("char_errors", pa.int64(), nullable=False),
        pa.field("reference_chars", pa.int64(), nullable=False),
        pa.field("cer", pa.float64()),
    ]
)
"""Schema of `scores.parquet`: the row with group `overall` and null value first, then a row per group value."""

COUNTS = ("word_errors", "reference_words", "char_errors", "reference_chars")
MAX_GROUP_VALUES = 200
"""A column with more distinct values than this tells utterances apart, not groups."""

_APOSTROPHES = str.maketrans({"\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{MODIFIER LETTER APOSTROPHE}": "'"})


@dataclass(frozen=True, slots=True)
class Errors:
    """Edit distances of one transcript to its reference, and the reference's lengths."""

    word_errors: int
    reference_words: int
    char_errors: int
    reference_chars: int

    @property
    def wer(self) -> float | None:
        """Word error rate; `None` where the reference has no words."""
        return self.word_errors / self.reference_words if self.reference_words else None


def normalise(text: str) -> str:
    r"""NFKC, lower case, no punctuation but the apostrophe, single spaces.

    >>> normalise("  It\u2019s  \u201cLate\u201d, Sir!")
    "it's late sir"
    """
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).lower()
    kept = (char for char in text if char == "'" or not unicodedata.category(char).startswith("P"))
    return " ".join("".join(kept).split())


def count_errors(hypothesis: str, reference: str) -> Errors:
    """Levenshtein distances over words and over characters (spaces included) of the normalised texts."""
    hypothesis, reference = normalise(hypothesis), normalise(reference)
    hypothesis_words, reference_words = hypothesis.split(), reference.split()
    return Errors(
        word_errors=Levenshtein.distance(hypothesis_words, reference_words),
        reference_words=len(reference_words),
        char_errors=Levenshtein.distance(hypothesis, reference),
        reference_chars=len(reference),
    )


def score_table(shards: Iterable[pa.Table], groups: Sequence[str]) -> pa.Table:
    """Sum errors over every scored utterance and over each value of each grouping column.

    Args:
        shards: Transcripts tables with the columns of `COUNTS` and of `groups`, streamed.
        groups: The dataset's own columns.

    Returns:
        A table of schema `SCORES`; no rows where no utterance has a reference.
    """
    sums: dict[tuple[int, str | None], list[int]] = {}  # by position in `names`, for a column may be called anything
    names = ["overall", *groups]
    dropped: set[int] = set()
    for shard in shards:
        scored = shard.filter(pc.is_valid(shard["reference_words"]))
        if not scored.num_rows:
            continue
        _add(sums, (0, None), [scored.num_rows, *(pc.sum(scored[name]).as_py() for name in COUNTS)])
        for group, name in enumerate(names[1:], start=1):
            if group in dropped:
                continue
            table = scored.select([name, *COUNTS]).rename_columns(["value", *COUNTS])
            table = table.group_by("value").aggregate([([], "count_all"), *((count, "sum") for count in COUNTS)])
            for row in table.to_pylist():
                value = None if row["value"] is None else str(row["value"])
                _add(sums, (group, value), [row["count_all"], *(row[f"{count}_sum"] for count in COUNTS)])
            if sum(1 for key in sums if key[0] == group) > MAX_GROUP_VALUES:
                dropped.add(group)
    rows = []
    ordered = sorted(sums.items(), key=lambda item: (item[0][0], item[0][1] is None, item[0][1] or ""))
    for (group, value), (utterances, word_errors, words, char_errors, chars) in ordered:
        if group not in dropped:
            rows.append(
                {
                    "group": names[group],
                    "value": value,
                    "utterances": utterances,
                    "word_errors": word_errors,
                    "reference_words": words,
                    "wer": word_errors / words if words else None,
                    "char_errors": char_errors,
                    "reference_chars": chars,
                    "cer": char_errors / chars if chars else None,
                }
            )
    return pa.Table.from_pylist(rows, schema=SCORES)


def _add(sums: dict[tuple[int, str | None], list[int]], key: tuple[int, str | None], counts: list[int]) -> None:
    sums[key] = [left + right for left, right in zip(sums.get(key, [0] * len(counts)), counts, strict=True)]
