"""Compares two runs: counts every utterance that both have, sums by group, and chooses the utterances to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.compare.counts import MISSING, WordTally, count
from pipeline.compare.matching import Block, Match
from pipeline.compare.schemas import COUNTS, GROUPS, comparison_schema
from pipeline.scoring import counting
from pipeline.scoring.bootstrap import speaker_intervals
from pipeline.scoring.groups import Group, choose_groups
from pipeline.scoring.membership import Membership, speaker_column
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import own_columns

SHOWN = 5
"""Utterances shown of each kind."""
_RATES = ("wer_difference", "cer_difference", "disagreement")


@dataclass(frozen=True)
class Comparison:
    """What two runs of a corpus have in common, and where they differ.

    Attributes:
        match: The utterances that both have.
        groups: Sums and differences, with schema `GROUPS`.
        words: Words that only one run has right, with schema `WORDS`.
        references_differ: Utterances whose reference is another one in the second run.
        resampled: What the intervals resample: speaker or utterance.
        shown: Indices of the utterances to show, among those matched, by kind. Of `better_a` and `better_b` one run has
            fewer errors; those that `differ` have no reference. Those with the greatest difference are first.
        counts: `COUNTS` of each utterance, `(utterances, counts)`; -1 if it has no reference.
    """

    match: Match
    groups: pa.Table
    words: pa.Table
    references_differ: int
    resampled: str
    shown: Mapping[str, NDArray[np.int64]]
    counts: NDArray[np.int32]

    @property
    def overall(self) -> dict[str, Any]:
        """The first row of `groups`."""
        (row,) = self.groups.slice(0, 1).to_pylist()
        return dict(row)

    @property
    def differing(self) -> NDArray[np.int64]:
        """Indices of the utterances whose words differ."""
        return np.flatnonzero(self.counts[:, COUNTS.index("distance")])


def groups_of(directory: RunDirectory, by: Sequence[str] | None) -> list[Group]:
    """Return the groups to compare by.

    Args:
        directory: The run whose columns make the groups.
        by: Columns; crossed columns are joined by `+`. `None` takes the groups of the run's scores, or each of its own
            columns if it has no scores.

    Raises:
        UserError: The run has no such column.
    """
    if by is None and directory.scores.is_there:
        by = list(dict.fromkeys(directory.scores.read(["group"])["group"].to_pylist()[1:]))
    return choose_groups(by, own_columns(directory.manifest.schema()), setting="--by")


def compare(match: Match, groups: Sequence[Group], write: Callable[[pa.Table], None]) -> Comparison:
    """Compare two runs.

    Args:
        match: The utterances that both have.
        groups: Groups to sum by.
        write: Takes the rows of `comparison.parquet`, block by block.
    """
    own = match.a.own
    names = [each.name for each in own]
    membership = Membership(groups, speaker_column(names))
    tally, done, others = WordTally(), 0, 0
    counts = np.empty((len(match), len(COUNTS)), np.int32)
    of_both = ["text", "avg_logprob", "reference", *counting.COUNTS]
    for block in match.blocks(["id", "duration_s", *of_both, *names], of_both):
        counted, references, different = count(block, tally)
        membership.add(block.a)
        write(_rows(block, counted, references, own))
        counts[done : done + len(counted)] = counted
        done += len(counted)
        others += different
    return Comparison(
        match,
        pa.Table.from_pylist(list(_groups(counts, membership)), schema=GROUPS),
        tally.table(),
        others,
        membership.resampled,
        _choose(counts),
        counts,
    )


def _rows(
    block: Block, counts: NDArray[np.int32], references: Sequence[str | None], own: Sequence[pa.Field]
) -> pa.Table:
    a, b = block.a, block.b
    texts = [a["id"], a["duration_s"], a["text"], b["text"], a["avg_logprob"], b["avg_logprob"]]
    numbers = [pa.array(column, pa.int32(), mask=column == MISSING) for column in counts.T]
    columns = [*texts, pa.array(references, pa.string()), *numbers, *(a[each.name] for each in own)]
    return pa.Table.from_arrays(columns, schema=comparison_schema(own))


def _groups(counts: NDArray[np.int32], membership: Membership) -> Iterator[dict[str, Any]]:
    """Yield the rows of `GROUPS`."""
    speakers = membership.speakers()
    yield {"group": "overall", "value": None, **_group(counts, speakers)}
    for name, value, members in membership.groups():
        spoken_by = None if speakers is None else speakers[members]
        yield {"group": name, "value": value, **_group(counts[members], spoken_by)}


def _group(counts: NDArray[np.int32], speakers: NDArray[np.int64] | None) -> dict[str, Any]:
    known = counts[:, 2] != MISSING
    if not known.all():
        counts = np.where(counts == MISSING, np.int32(0), counts)
    sums = dict(zip(COUNTS, counts.sum(axis=0, dtype=np.int64).tolist(), strict=True))
    words_a, words_b, words, chars_a, chars_b, chars, distance, of_a, _ = counts.T
    # The difference of two rates with the same total is the rate of the differences, so both are resampled together.
    above = np.stack([words_b - words_a, chars_b - chars_a, distance], axis=1)
    below = np.stack([words, chars, of_a], axis=1)
    of_references: list[tuple[float, float] | None] = [None, None]
    if known.all():
        of_references = speaker_intervals(above[:, :2], below[:, :2], speakers)
    elif known.any():
        of_references = speaker_intervals(above[known, :2], below[known, :2], _of(speakers, known))
    intervals = [*of_references, *speaker_intervals(above[:, 2:], below[:, 2:], speakers)]
    row: dict[str, Any] = {
        "utterances": len(counts),
        "with_reference": int(known.sum()),
        **sums,
        "wer_a": _rate(sums["word_errors_a"], sums["reference_words"]),
        "wer_b": _rate(sums["word_errors_b"], sums["reference_words"]),
        "cer_a": _rate(sums["char_errors_a"], sums["reference_chars"]),
        "cer_b": _rate(sums["char_errors_b"], sums["reference_chars"]),
        "better_a": int((words_a < words_b).sum()),
        "better_b": int((words_b < words_a).sum()),
    }
    for name, total, rated, interval in zip(
        _RATES, *(each.sum(axis=0, dtype=np.int64) for each in (above, below)), intervals, strict=True
    ):
        row[name] = _rate(int(total), int(rated))
        row[f"{name}_low"], row[f"{name}_high"] = interval or (None, None)
    return row


def _of(speakers: NDArray[np.int64] | None, known: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    return None if speakers is None else speakers[known]


def _rate(above: int, below: int) -> float | None:
    return above / below if below else None


def better(row: Mapping[str, Any]) -> str:
    """Return which run has the lower word error rate in a row of `GROUPS`: A or B; empty if the interval holds 0."""
    low, high = row["wer_difference_low"], row["wer_difference_high"]
    if low is None or low <= 0 <= high:
        return ""
    return "A" if low > 0 else "B"


def _choose(counts: NDArray[np.int32]) -> dict[str, NDArray[np.int64]]:
    """Choose the utterances to show: those with the greatest difference of rates, of these those of most words."""
    words_a, words_b, words, *_, distance, of_a, of_b = counts.T
    known = words != MISSING
    apart = np.where(known, words_b - words_a, 0)
    chosen = {
        "better_a": _greatest(apart, words),
        "better_b": _greatest(-apart, words),
        "differ": _greatest(np.where(known, 0, distance), np.maximum(of_a, of_b)),
    }
    return {kind: found for kind, found in chosen.items() if len(found)}


def _greatest(differences: NDArray[np.int32], words: NDArray[np.int32]) -> NDArray[np.int64]:
    rows = np.flatnonzero(differences > 0)
    rates = differences[rows] / np.maximum(words[rows], 1)
    found: NDArray[np.int64] = rows[np.lexsort((-differences[rows], -rates))[:SHOWN]]
    return found
