"""Sums errors over all utterances and per group, with confidence intervals, and counts the wrong words."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.scoring.bootstrap import RESAMPLES, speaker_intervals
from pipeline.scoring.counting import COUNTS, align, char_errors, is_counted_now
from pipeline.scoring.groups import Group
from pipeline.scoring.membership import Membership, speaker_column
from pipeline.scoring.normalisers import made_after, normaliser
from pipeline.scoring.schemas import CONFUSIONS, SCORES

MAX_CONFUSIONS = 10_000
_MAX_DISTINCT = 1_000_000
WORST = 5
_READ = ("id", "text", "reference", "duration_s", *COUNTS)

# Columns of the array that holds one row per scored utterance.
_FIELDS = ("hits", "substitutions", "deletions", "insertions", "char_errors", "reference_chars")


@dataclass(frozen=True, slots=True)
class Worst:
    """An utterance with a high word error rate. Its texts are normalised."""

    id: str
    wer: float
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Scores:
    """The scores of a run.

    Attributes:
        table: Rates, with schema `SCORES`; no rows if no utterance has a reference.
        confusions: The `MAX_CONFUSIONS` most frequent errors, with schema `CONFUSIONS`.
        worst: The utterances with the highest word error rates, worst first.
    """

    table: pa.Table
    confusions: pa.Table
    worst: tuple[Worst, ...]


def score(
    shards: Iterable[pa.Table],
    groups: Sequence[Group],
    normaliser_name: str,
    own: Sequence[str],
    tell: Callable[[int], None] = lambda utterances: None,
) -> Scores:
    """Compare each transcript with its reference, if it has one.

    Args:
        shards: Transcripts tables with the columns of `columns_to_read`, one per shard.
        groups: Groups to sum by.
        normaliser_name: One of `normalisers.DESCRIPTIONS`.
        own: Names of all of the dataset's own columns, to find the speaker column.
        tell: Called with the number of utterances so far.
    """
    normalise = normaliser(normaliser_name)
    found = _Found(groups, speaker_column(own))
    seen = 0
    for shard in shards:
        counted = normaliser_name == "standard" and is_counted_now(shard.schema)
        found.add(shard.filter(pc.is_valid(shard["reference"])), normalise, counted=counted)
        seen += shard.num_rows
        tell(seen)
    metadata = {**made_after(normaliser_name), "resamples": str(RESAMPLES), "resampled": found.membership.resampled}
    table = pa.Table.from_pylist(list(found.rows()), schema=SCORES).replace_schema_metadata(metadata)
    rows = [
        {"kind": kind, "reference": reference, "hypothesis": hypothesis, "count": count}
        for (kind, reference, hypothesis), count in sorted(
            found.confusions.items(), key=lambda item: (-item[1], *(word or "" for word in item[0]))
        )[:MAX_CONFUSIONS]
    ]
    worst = tuple(each for *_, each in sorted(found.worst, key=lambda entry: entry[:2], reverse=True))
    return Scores(table, pa.Table.from_pylist(rows, schema=CONFUSIONS), worst)


def columns_to_read(groups: Sequence[Group], own: Sequence[str]) -> list[str]:
    """Return the columns of `transcripts` that `score` needs."""
    wanted = {name for group in groups for name in group.columns} | {speaker_column(own)}
    return [*_READ, *(name for name in own if name in wanted)]


class _Found:
    """Collects the numbers of each scored utterance. Keeps only the texts of the worst utterances."""

    def __init__(self, groups: Sequence[Group], speaker: str | None) -> None:
        self.membership = Membership(groups, speaker)
        self._counts: list[NDArray[np.int32]] = []
        self._hours: list[NDArray[np.float64]] = []
        self.confusions: Counter[tuple[str, str | None, str | None]] = Counter()
        self.worst: list[tuple[float, int, Worst]] = []
        self._seen = 0

    def add(self, scored: pa.Table, normalise: Callable[[str], str], *, counted: bool) -> None:
        """Count the errors of a shard's utterances, all of which have references.

        Args:
            scored: The columns of `columns_to_read`.
            normalise: Normaliser for both texts.
            counted: Whether the counts in `scored` were made with the same normaliser. If so, only texts with errors
                are aligned.
        """
        counts = np.zeros((scored.num_rows, len(_FIELDS)), dtype=np.int32)
        aligned = np.arange(scored.num_rows)
        if counted:
            numbers = {name: scored[name].to_numpy() for name in COUNTS}
            counts[:, 0] = numbers["reference_words"]
            counts[:, 4:] = np.stack([numbers["char_errors"], numbers["reference_chars"]], axis=1)
            aligned = np.flatnonzero(numbers["word_errors"])
        some = scored.take(aligned)
        references = [normalise(text) for text in some["reference"].to_pylist()]
        hypotheses = [normalise(text) for text in some["text"].to_pylist()]
        ids = some["id"]
        for index, each in enumerate(align(hypotheses, references)):
            row, hypothesis, reference = aligned[index], hypotheses[index], references[index]
            counts[row, :4] = each.hits, each.substitutions, each.deletions, each.insertions
            if not counted:
                counts[row, 4:] = char_errors(hypothesis, reference), len(reference)
            self.confusions.update(each.errors)
            words = each.hits + each.substitutions + each.deletions
            if each.errors and words:
                self._note_worst(Worst(ids[index].as_py(), len(each.errors) / words, reference, hypothesis))
        if len(self.confusions) > _MAX_DISTINCT:  # bounds memory: single errors are not frequent
            self.confusions = Counter({pair: count for pair, count in self.confusions.items() if count > 1})
        self._counts.append(counts)
        seconds = np.asarray(scored["duration_s"].to_numpy(), dtype=np.float64)
        self._hours.append(np.nan_to_num(seconds) / 3600)
        self.membership.add(scored)

    def _note_worst(self, worst: Worst) -> None:
        self._seen += 1
        entry = (worst.wer, -self._seen, worst)  # with equal rates, `heapq` drops the later utterance
        if len(self.worst) < WORST:
            heapq.heappush(self.worst, entry)
        else:
            heapq.heappushpop(self.worst, entry)

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the rows of `SCORES`: first overall, then each value of each group, nulls last."""
        counts = np.concatenate(self._counts) if self._counts else np.zeros((0, len(_FIELDS)), np.int32)
        if not len(counts):
            return
        hours = np.concatenate(self._hours)
        self._counts, self._hours = [counts], [hours]  # memory holds them once
        speakers = self.membership.speakers()
        yield _row("overall", None, counts, hours, speakers, slice(None))
        for name, value, members in self.membership.groups():
            yield _row(name, value, counts, hours, speakers, members)


def _row(
    group: str,
    value: str | None,
    counts: NDArray[np.int32],
    hours: NDArray[np.float64],
    speakers: NDArray[np.int64] | None,
    members: NDArray[np.int64] | slice,
) -> dict[str, object]:
    """Return one row of `SCORES`: sums, rates and intervals of a group.

    Args:
        group: Name of the group.
        value: Value of the group.
        counts: `(utterances, fields)` numbers of each scored utterance.
        hours: `(utterances,)` hours of audio.
        speakers: `(utterances,)` speaker of each utterance; `None` if speakers are unknown.
        members: Indices of the group's utterances.
    """
    own = counts[members]
    hits, substitutions, deletions, insertions, wrong_chars, chars = own.sum(axis=0, dtype=np.int64).tolist()
    errors, words = substitutions + deletions + insertions, hits + substitutions + deletions
    # Numerators are word and character errors; denominators are reference words and characters.
    above = np.stack([own[:, 1:4].sum(axis=1, dtype=np.int32), own[:, 4]], axis=1)
    below = np.stack([own[:, :3].sum(axis=1, dtype=np.int32), own[:, 5]], axis=1)
    wer, cer = speaker_intervals(above, below, None if speakers is None else speakers[members])
    return {
        "group": group,
        "value": value,
        "utterances": len(own),
        "hours": float(hours[members].sum()),
        "hits": hits,
        "substitutions": substitutions,
        "deletions": deletions,
        "insertions": insertions,
        "word_errors": errors,
        "reference_words": words,
        "wer": errors / words if words else None,
        "wer_low": wer[0] if wer else None,
        "wer_high": wer[1] if wer else None,
        "char_errors": wrong_chars,
        "reference_chars": chars,
        "cer": wrong_chars / chars if chars else None,
        "cer_low": cer[0] if cer else None,
        "cer_high": cer[1] if cer else None,
    }
