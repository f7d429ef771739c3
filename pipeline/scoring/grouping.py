"""Sums errors over all utterances and per group, with confidence intervals, and counts the wrong words."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.scoring.bootstrap import RESAMPLES, rate_intervals
from pipeline.scoring.counting import COUNTS, align, char_errors, is_counted_now
from pipeline.scoring.groups import MAX_GROUP_VALUES, MAX_VALUES_PER_UTTERANCE, Group, in_order, name_of
from pipeline.scoring.normalisers import made_after, normaliser
from pipeline.scoring.schemas import CONFUSIONS, SCORES

MAX_CONFUSIONS = 10_000
_MAX_DISTINCT = 1_000_000
SPEAKER_COLUMNS = ("speaker", "speaker_id", "spk_id", "client_id")
"""Possible names of a dataset's speaker column. Intervals resample speakers, because the utterances of one speaker are
not independent samples."""
WORST = 5
MIN_SPEAKERS = 5
"""With fewer speakers there is no interval: with 3 equal speakers, one interval in three would miss the true rate."""
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
    speaker = speaker_column(own)
    found = _Found(groups, speaker)
    seen = 0
    for shard in shards:
        counted = normaliser_name == "standard" and is_counted_now(shard.schema)
        found.add(shard.filter(pc.is_valid(shard["reference"])), normalise, counted=counted)
        seen += shard.num_rows
        tell(seen)
    metadata = {**made_after(normaliser_name), "resamples": str(RESAMPLES), "resampled": found.resampled}
    table = pa.Table.from_pylist(list(found.rows()), schema=SCORES).replace_schema_metadata(metadata)
    rows = [
        {"kind": kind, "reference": reference, "hypothesis": hypothesis, "count": count}
        for (kind, reference, hypothesis), count in sorted(
            found.confusions.items(), key=lambda item: (-item[1], *(word or "" for word in item[0]))
        )[:MAX_CONFUSIONS]
    ]
    worst = tuple(each for *_, each in sorted(found.worst, key=lambda entry: entry[:2], reverse=True))
    return Scores(table, pa.Table.from_pylist(rows, schema=CONFUSIONS), worst)


def speaker_column(own: Sequence[str]) -> str | None:
    """Return the dataset's column that has a usual name for the speaker, in upper or lower case."""
    return next((name for usual in SPEAKER_COLUMNS for name in own if name.lower() == usual), None)


def columns_to_read(groups: Sequence[Group], own: Sequence[str]) -> list[str]:
    """Return the columns of `transcripts` that `score` needs."""
    wanted = {name for group in groups for name in group.columns} | {speaker_column(own)}
    return [*_READ, *(name for name in own if name in wanted)]


@dataclass
class _Codes:
    """Encodes the values of a column as integers, over all shards."""

    values: dict[str | None, int] = field(default_factory=dict)
    rows: list[NDArray[np.int32]] = field(default_factory=list)

    def add(self, column: pa.ChunkedArray) -> None:
        encoded = pa.chunked_array([column.combine_chunks()]).dictionary_encode(null_encoding="encode")
        for chunk in encoded.chunks:
            known = [
                self.values.setdefault(None if value is None else str(value), len(self.values))
                for value in chunk.dictionary.to_pylist()
            ]
            self.rows.append(np.asarray(known, dtype=np.int32)[chunk.indices.to_numpy(zero_copy_only=False)])

    def all(self) -> NDArray[np.int32]:
        return np.concatenate(self.rows) if self.rows else np.empty(0, np.int32)


class _Found:
    """Collects the numbers of each scored utterance. Keeps only the texts of the worst utterances."""

    def __init__(self, groups: Sequence[Group], speaker: str | None) -> None:
        self._groups = list(groups)
        self._speaker = speaker
        self._codes = {name: _Codes() for group in groups for name in group.columns}
        if speaker is not None:
            self._codes.setdefault(speaker, _Codes())
        self._counts: list[NDArray[np.int32]] = []
        self._hours: list[NDArray[np.float64]] = []
        self.confusions: Counter[tuple[str, str | None, str | None]] = Counter()
        self.worst: list[tuple[float, int, Worst]] = []
        self._seen = 0

    @property
    def resampled(self) -> str:
        """What intervals resample: `speaker`, or `utterance` if fewer than two speakers are known."""
        return "utterance" if self._speaker is None or len(self._codes[self._speaker].values) < 2 else "speaker"

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
        for name, codes in list(self._codes.items()):
            codes.add(scored[name])
            if len(codes.values) > MAX_GROUP_VALUES and name != self._speaker:
                self._drop(name)

    def _note_worst(self, worst: Worst) -> None:
        self._seen += 1
        entry = (worst.wer, -self._seen, worst)  # with equal rates, `heapq` drops the later utterance
        if len(self.worst) < WORST:
            heapq.heappush(self.worst, entry)
        else:
            heapq.heappushpop(self.worst, entry)

    def _drop(self, name: str) -> None:
        """Drop the groups of a column with too many values, unless the user asked for them."""
        self._groups = [group for group in self._groups if not (group.limited and name in group.columns)]
        if not any(name in group.columns for group in self._groups):
            del self._codes[name]

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the rows of `SCORES`: first overall, then each value of each group, nulls last."""
        counts = np.concatenate(self._counts) if self._counts else np.zeros((0, len(_FIELDS)), np.int32)
        if not len(counts):
            return
        hours = np.concatenate(self._hours)
        units = self._units(len(counts))
        everything = np.arange(len(counts))
        yield _row("overall", None, counts, hours, units, everything)
        for group in self._shown(len(counts)):
            codes = np.stack([self._codes[name].all() for name in group.columns], axis=1)
            distinct, member = np.unique(codes, axis=0, return_inverse=True)
            bounds = np.cumsum(np.bincount(member.reshape(-1)))[:-1]
            members = np.split(np.argsort(member.reshape(-1), kind="stable"), bounds)
            known = [list(self._codes[name].values) for name in group.columns]
            named = [
                name_of([values[code] for values, code in zip(known, codes, strict=True)])
                for codes in distinct.tolist()
            ]
            for index in in_order(named):
                yield _row(group.name, named[index], counts, hours, units, members[index])

    def _shown(self, count: int) -> Iterator[Group]:
        """Yield the groups that say something about `count` utterances, as `Group.limited` explains."""
        before: list[tuple[int, NDArray[np.int32]]] = []
        for group in self._groups:
            if group.limited:
                codes, distinct = self._codes[group.columns[0]].all(), len(self._codes[group.columns[0]].values)
                if not 1 < distinct <= min(MAX_GROUP_VALUES, MAX_VALUES_PER_UTTERANCE * count):
                    continue
                same = (other for number, other in before if number == distinct)
                if any(len(np.unique(np.stack([codes, other]), axis=1).T) == distinct for other in same):
                    continue
                before.append((distinct, codes))
            yield group

    def _units(self, count: int) -> NDArray[np.int64] | None:
        """Return the speaker of each utterance as a number, `(utterances,)`; `None` without a speaker column.

        Each utterance whose speaker is null gets a number of its own.
        """
        if self._speaker is None:
            return None
        units = self._codes[self._speaker].all().astype(np.int64)
        nobody = units == self._codes[self._speaker].values.get(None, -1)
        units[nobody] = len(self._codes[self._speaker].values) + np.arange(count)[nobody]
        return units


def _row(
    group: str,
    value: str | None,
    counts: NDArray[np.int32],
    hours: NDArray[np.float64],
    units: NDArray[np.int64] | None,
    members: NDArray[np.int64],
) -> dict[str, object]:
    """Return one row of `SCORES`: sums, rates and intervals of a group.

    Args:
        group: Name of the group.
        value: Value of the group.
        counts: `(utterances, fields)` numbers of each scored utterance.
        hours: `(utterances,)` hours of audio.
        units: `(utterances,)` speaker of each utterance; `None` if speakers are unknown.
        members: Indices of the group's utterances.
    """
    own = counts[members].astype(np.int64)
    hits, substitutions, deletions, insertions, wrong_chars, chars = own.sum(axis=0).tolist()
    errors, words = substitutions + deletions + insertions, hits + substitutions + deletions
    # Numerators are word and character errors; denominators are reference words and characters.
    above = np.stack([own[:, 1:4].sum(axis=1), own[:, 4]], axis=1)
    below = np.stack([own[:, :3].sum(axis=1), own[:, 5]], axis=1)
    if units is not None:
        distinct, unit = np.unique(units[members], return_inverse=True)
        if len(distinct) > 1:  # with one speaker, utterances are resampled
            above, below = (_summed(values, unit, len(distinct)) for values in (above, below))
        if 1 < len(distinct) < MIN_SPEAKERS:
            above = above[:0]
    wer, cer = rate_intervals(above, below[: len(above)])
    return {
        "group": group,
        "value": value,
        "utterances": len(members),
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


def _summed(values: NDArray[np.int64], unit: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.stack([np.bincount(unit, column, count) for column in values.T], axis=1).astype(np.int64)
