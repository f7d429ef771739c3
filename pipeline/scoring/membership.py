"""Remembers the groups and the speaker of each utterance as numbers, and yields the utterances of each group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.scoring.groups import MAX_GROUP_VALUES, MAX_VALUES_PER_UTTERANCE, Group, in_order, name_of

SPEAKER_COLUMNS = ("speaker", "speaker_id", "spk_id", "client_id")
"""Possible names of a dataset's speaker column. Intervals resample speakers, because the utterances of one speaker are
not independent samples."""


def speaker_column(own: Iterable[str]) -> str | None:
    """Return the dataset's column that has a usual name for the speaker, in upper or lower case; `None` if none has."""
    names = list(own)
    return next((name for usual in SPEAKER_COLUMNS for name in names if name.lower() == usual), None)


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


class Membership:
    """The groups and the speaker of each utterance: four bytes an utterance and column, and no text."""

    def __init__(self, groups: Sequence[Group], speaker: str | None) -> None:
        """Know no utterance yet.

        Args:
            groups: Groups to yield.
            speaker: The speaker column; `None` if there is none.
        """
        self._groups = list(groups)
        self._speaker = speaker
        self._codes = {name: _Codes() for group in groups for name in group.columns}
        if speaker is not None:
            self._codes.setdefault(speaker, _Codes())
        self._count = 0

    @property
    def columns(self) -> list[str]:
        """The columns that `add` reads."""
        return list(self._codes)

    @property
    def resampled(self) -> str:
        """What intervals resample: `speaker`, or `utterance` if fewer than two speakers are known."""
        return "utterance" if self._speaker is None or len(self._codes[self._speaker].values) < 2 else "speaker"

    def add(self, utterances: pa.Table) -> None:
        """Add utterances. The table has `columns`."""
        self._count += utterances.num_rows
        for name, codes in list(self._codes.items()):
            codes.add(utterances[name])
            if len(codes.values) > MAX_GROUP_VALUES and name != self._speaker:
                self._drop(name)

    def _drop(self, name: str) -> None:
        """Drop the groups of a column with too many values, unless the user asked for them."""
        self._groups = [group for group in self._groups if not (group.limited and name in group.columns)]
        if not any(name in group.columns for group in self._groups):
            del self._codes[name]

    def groups(self) -> Iterator[tuple[str, str | None, NDArray[np.int64]]]:
        """Yield each value of each group, nulls last: name of the group, value, and indices of its utterances."""
        for group in self._shown():
            known = [list(self._codes[name].values) for name in group.columns]
            sizes = tuple(map(len, known))
            crossed = np.ravel_multi_index(tuple(self._codes[name].all() for name in group.columns), sizes)
            distinct, member = np.unique(crossed, return_inverse=True)
            bounds = np.cumsum(np.bincount(member))[:-1]
            members = np.split(np.argsort(member, kind="stable"), bounds)
            named = [
                name_of([values[code] for values, code in zip(known, codes, strict=True)])
                for codes in zip(*np.unravel_index(distinct, sizes), strict=True)
            ]
            for index in in_order(named):
                yield group.name, named[index], members[index]

    def _shown(self) -> Iterator[Group]:
        """Yield the groups that say something about the utterances, as `Group.limited` explains."""
        before: list[tuple[int, NDArray[np.int32]]] = []
        for group in self._groups:
            if group.limited:
                codes, distinct = self._codes[group.columns[0]].all(), len(self._codes[group.columns[0]].values)
                if not 1 < distinct <= min(MAX_GROUP_VALUES, MAX_VALUES_PER_UTTERANCE * self._count):
                    continue
                same = (other for number, other in before if number == distinct)
                if any(len(np.unique(np.stack([codes, other]), axis=1).T) == distinct for other in same):
                    continue
                before.append((distinct, codes))
            yield group

    def speakers(self) -> NDArray[np.int64] | None:
        """Return the speaker of each utterance as a number, `(utterances,)`; `None` without a speaker column.

        Each utterance whose speaker is null gets a number of its own.
        """
        if self._speaker is None:
            return None
        speakers = self._codes[self._speaker].all().astype(np.int64)
        nobody = speakers == self._codes[self._speaker].values.get(None, -1)
        speakers[nobody] = len(self._codes[self._speaker].values) + np.arange(self._count)[nobody]
        return speakers
