"""The utterances of a run that can be drawn or scored: numbers only, so that a million of them fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.results import Run
from pipeline.scoring.groups import Group
from pipeline.scoring.membership import Membership

LEAST_RATE = 0.02
"""Errors a word that are expected at least. Models are surer of themselves than they should be."""


@dataclass(frozen=True)
class GroupValue:
    """A value of a group, and the indices of its utterances."""

    group: str
    value: str | None
    members: NDArray[np.int64]


@dataclass(frozen=True)
class Frame:
    """The utterances that have a transcript. All arrays are `(utterances,)`.

    Attributes:
        ids: Their ids.
        certainty: Mean log-probability of the transcript.
        duration_s: Seconds of audio.
        words: Words of the transcript.
        doubt: Errors that the model expects: the sum of one minus the probability of each word.
        labelled: Whether there is a reference.
        errors, reference_words: As in `transcripts`; 0 without a reference.
        groups: The values of the groups, in the order of the groups.
    """

    ids: pa.Array
    certainty: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    words: NDArray[np.float64]
    doubt: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    errors: NDArray[np.int64]
    reference_words: NDArray[np.int64]
    groups: Sequence[GroupValue]

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.ids)

    @property
    def expected_errors(self) -> NDArray[np.float64]:
        """Errors that are expected without any label: the model's doubt, and at least `LEAST_RATE` of a word."""
        return np.maximum(self.doubt, LEAST_RATE * np.maximum(self.words, 1.0))

    def codes(self, group: str) -> NDArray[np.int64]:
        """Return the number of each utterance's value of a group, `(utterances,)`."""
        found = np.zeros(len(self), dtype=np.int64)
        for code, each in enumerate(value for value in self.groups if value.group == group):
            found[each.members] = code
        return found


def read_frame(run: Run, groups: Sequence[Group]) -> Frame:
    """Read the utterances of a run, a shard at a time.

    Args:
        run: The run.
        groups: Groups to remember.
    """
    membership = Membership(groups, None)
    ids: list[pa.Array] = []
    columns: list[list[NDArray[np.float64]]] = []
    for shard in sorted(run.commits):
        table = run.transcripts_of(shard).combine_chunks()
        membership.add(table)
        ids.append(table["id"].combine_chunks())
        words, doubt = _words_and_doubt(table["words"].combine_chunks())
        labelled = np.asarray(table["reference"].is_valid().to_numpy(), dtype=np.float64)
        given = (table[name].fill_null(0).to_numpy() for name in ("avg_logprob", "duration_s"))
        counts = (table[name].fill_null(0).to_numpy() for name in ("word_errors", "reference_words"))
        columns.append([np.asarray(each, np.float64) for each in (*given, words, doubt, labelled, *counts)])
    joined = [np.concatenate(each) for each in zip(*columns, strict=True)] or [np.empty(0)] * 7
    certainty, duration_s, words, doubt, labelled, errors, reference_words = joined
    return Frame(
        ids=pa.concat_arrays(ids) if ids else pa.array([], pa.string()),
        certainty=certainty,
        duration_s=duration_s,
        words=words,
        doubt=doubt,
        labelled=labelled.astype(bool),
        errors=errors.astype(np.int64),
        reference_words=reference_words.astype(np.int64),
        groups=[GroupValue(*each) for each in membership.groups()] if ids else [],
    )


def _words_and_doubt(words: pa.ListArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the number of words of each utterance, and the sum of one minus their probabilities."""
    counts = words.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    probability = words.flatten().field("probability").to_numpy(zero_copy_only=False).astype(np.float64)
    utterance = np.repeat(np.arange(len(counts)), counts)
    doubt = np.bincount(utterance, 1 - probability, minlength=len(counts))
    return counts.astype(np.float64), doubt.astype(np.float64)
