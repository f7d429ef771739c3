"""Counts the errors of a transcript against its reference, and finds the wrong words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from pipeline.scoring.normalisers import made_after, standard
from pipeline.storage.tables import metadata_of

COUNTS = ("word_errors", "reference_words", "char_errors", "reference_chars")
"""Columns of `transcripts` that commit records and scores sum up."""
COUNTED_AFTER = made_after("standard")
"""File metadata of `transcripts`: the normaliser of the texts whose errors its columns count."""

Kind = Literal["substitution", "deletion", "insertion"]
# jiwer only splits the texts into words, because they are normalised already.
_WORDS = jiwer.Compose([jiwer.ReduceToListOfListOfWords()])


@dataclass(frozen=True, slots=True)
class Errors:
    """Edit distances between a transcript and its reference, and the lengths of the reference."""

    word_errors: int
    reference_words: int
    char_errors: int
    reference_chars: int

    @property
    def wer(self) -> float | None:
        """Word error rate; `None` if the reference has no words."""
        return self.word_errors / self.reference_words if self.reference_words else None


@dataclass(frozen=True, slots=True)
class Alignment:
    """The alignment of a transcript with its reference, as jiwer computes it.

    Attributes:
        hits, substitutions, deletions, insertions: Numbers of words.
        errors: Kind, reference word and transcript word of each error; the missing word is `None`.
    """

    hits: int
    substitutions: int
    deletions: int
    insertions: int
    errors: tuple[tuple[Kind, str | None, str | None], ...]


def count_errors(hypothesis: str, reference: str) -> Errors:
    """Return Levenshtein distances over words and characters. Both texts are normalised with `standard` before.

    Spaces count as characters.
    """
    hypothesis, reference = standard(hypothesis), standard(reference)
    hypothesis_words, reference_words = hypothesis.split(), reference.split()
    return Errors(
        word_errors=Levenshtein.distance(hypothesis_words, reference_words),
        reference_words=len(reference_words),
        char_errors=char_errors(hypothesis, reference),
        reference_chars=len(reference),
    )


def count_columns(texts: Sequence[str], references: Sequence[str | None]) -> tuple[dict[str, pa.Array], dict[str, int]]:
    """Count the errors of the transcripts of a shard.

    Returns:
        The columns `COUNTS` and `wer` of `transcripts`, which are null without a reference; and the sums of `COUNTS`,
        which are empty if there is no reference.
    """
    errors = [
        None if reference is None else count_errors(text, reference)
        for text, reference in zip(texts, references, strict=True)
    ]
    types = dict.fromkeys(COUNTS, pa.int32()) | {"wer": pa.float64()}
    columns = {
        name: pa.array([None if each is None else getattr(each, name) for each in errors], type_)
        for name, type_ in types.items()
    }
    counted = [each for each in errors if each is not None]
    return columns, {name: sum(getattr(each, name) for each in counted) for name in COUNTS if counted}


def transcripts_table(described: pa.Table, decoded: pa.Table, schema: pa.Schema) -> tuple[pa.Table, dict[str, int]]:
    """Put the columns of `transcripts/` together, and count the errors.

    Args:
        described: Columns of the manifest and the like; among them `reference`.
        decoded: Columns that come from the decoder, with the same rows.
        schema: Schema of the table.

    Returns:
        The table, and the sums that a commit record has.
    """
    texts = decoded["text"].to_pylist()
    errors, sums = count_columns(texts, described["reference"].to_pylist())
    columns = {name: table[name] for table in (described, decoded) for name in table.column_names} | errors
    counts = {"empty_transcripts": texts.count(""), **sums}
    return pa.table([columns[name] for name in schema.names], schema=schema), counts


def is_counted_now(schema: pa.Schema) -> bool:
    """Whether a file of `transcripts` with this schema counts errors after the present version of the normaliser."""
    return COUNTED_AFTER.items() <= metadata_of(schema).items()


def char_errors(hypothesis: str, reference: str) -> int:
    """Return the Levenshtein distance over characters, including spaces."""
    return Levenshtein.distance(hypothesis, reference)


def hits(words: Sequence[str], reference: Sequence[str]) -> NDArray[np.bool_]:
    """Return whether each word of the reference is in the transcript at its place, `(reference words,)`."""
    found = np.zeros(len(reference), dtype=bool)
    for step in Levenshtein.opcodes(reference, words):
        found[step.src_start : step.src_end] = step.tag == "equal"
    return found


def align(hypotheses: Sequence[str], references: Sequence[str]) -> list[Alignment]:
    """Align the words of each normalised transcript with those of its reference."""
    if not references:
        return []
    found = jiwer.process_words(
        list(references), list(hypotheses), reference_transform=_WORDS, hypothesis_transform=_WORDS
    )
    return [
        _alignment(reference, hypothesis, chunks)
        for reference, hypothesis, chunks in zip(found.references, found.hypotheses, found.alignments, strict=True)
    ]


def _alignment(
    reference: Sequence[str], hypothesis: Sequence[str], chunks: Sequence[jiwer.AlignmentChunk]
) -> Alignment:
    hits = 0
    errors: list[tuple[Kind, str | None, str | None]] = []
    for chunk in chunks:
        said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        read = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            hits += len(said)
        elif chunk.type == "substitute":
            errors += [("substitution", *pair) for pair in zip(said, read, strict=True)]
        elif chunk.type == "delete":
            errors += [("deletion", word, None) for word in said]
        else:
            errors += [("insertion", None, word) for word in read]
    kinds = [kind for kind, _, _ in errors]
    return Alignment(
        hits=hits,
        substitutions=kinds.count("substitution"),
        deletions=kinds.count("deletion"),
        insertions=kinds.count("insertion"),
        errors=tuple(errors),
    )
