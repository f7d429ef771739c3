"""Finds columns in which utterances with identical audio have different values, such as one sound in train and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.duplicates.digests import Duplicates
from pipeline.scoring.groups import MAX_GROUP_VALUES, MAX_VALUES_PER_UTTERANCE, Group, in_order, name_of
from pipeline.scoring.membership import speaker_column
from pipeline.scoring.normalisers import standard

SPLIT_COLUMNS = ("split", "subset", "partition", "fold")
"""Usual names of the column that says which part of a corpus an utterance belongs to."""
MAX_VALUES = 20
"""Of a sound with more values than this in one column, the pairs of the first ones are counted."""
MAX_PAIRS = 1_000
"""Pairs that are kept of a group: those that share most sounds."""


@dataclass(frozen=True)
class Pair:
    """Two values of a column that share sounds.

    Attributes:
        values: The two values.
        sounds: Number of sounds that occur with both.
        utterances: Number of utterances with one of these sounds and one of these values.
        seconds: Duration of these sounds, each counted once.
        example: A manifest row with each value, which have the same audio.
    """

    values: tuple[str, str]
    sounds: int
    utterances: int
    seconds: float
    example: tuple[int, int]


@dataclass(frozen=True)
class Leakage:
    """The sounds that occur with more than one value of a group. A null is no value, alone or crossed.

    Attributes:
        group: Name of the group, such as `split`.
        sounds: Number of these sounds.
        utterances: Number of utterances that have them.
        seconds: Duration of these sounds, each counted once.
        pairs: Pairs of values, those that share most sounds first; at most `MAX_PAIRS`.
        num_pairs: Number of all pairs of values.
    """

    group: str
    sounds: int
    utterances: int
    seconds: float
    pairs: Sequence[Pair]
    num_pairs: int


def usual_groups(own: Sequence[pa.Field], manifest: pa.Table, scored: Sequence[str] | None) -> list[Group]:
    """Return the columns to search without being asked: splits, speakers, and those that scores are grouped by.

    Args:
        own: The dataset's own columns.
        manifest: These columns of the manifest.
        scored: Groups of the run's scores; `None` if it has none. Then each column that has few values is searched.
    """
    names = [field.name for field in own]
    speaker = speaker_column(names)
    most = min(MAX_GROUP_VALUES, MAX_VALUES_PER_UTTERANCE * len(manifest))

    def is_usual(field: pa.Field) -> bool:
        if field.name == speaker or field.name.lower() in SPLIT_COLUMNS:
            return True
        if scored is not None:
            return field.name in scored
        if pa.types.is_floating(field.type):
            return False
        return bool(1 < pc.count_distinct(manifest[field.name], mode="all").as_py() <= most)

    return [Group(field.name, (field.name,)) for field in own if is_usual(field)]


def find_leakage(duplicates: Duplicates, manifest: pa.Table, groups: Sequence[Group]) -> list[Leakage]:
    """Return the leakage over each group, in their order.

    Args:
        duplicates: The utterances that share their audio.
        manifest: The columns `duration_s` and those of the groups.
        groups: The groups.
    """
    rows = duplicates.rows
    members = manifest.take(pa.array(rows))
    seconds = np.nan_to_num(np.asarray(members["duration_s"].to_numpy(), dtype=np.float64))
    _, sound = np.unique(duplicates.first, return_inverse=True)
    return [_leakage(group.name, _values(members, group), sound, rows, seconds) for group in groups]


def _values(members: pa.Table, group: Group) -> list[str | None]:
    columns = [[None if value is None else str(value) for value in members[name].to_pylist()] for name in group.columns]
    rows = zip(*columns, strict=True)
    return [None if None in row else name_of(row) for row in rows]


def _leakage(
    group: str,
    values: Sequence[str | None],
    sound: NDArray[np.int64],
    rows: NDArray[np.int64],
    seconds: NDArray[np.float64],
) -> Leakage:
    """Count the sounds with more than one value. The arrays have an entry for each member, in the order of the rows."""
    encoded = pa.array(values, pa.string()).dictionary_encode()
    known = np.flatnonzero(encoded.is_valid().to_numpy(zero_copy_only=False))
    codes, names = encoded.indices.drop_null().to_numpy(), encoded.dictionary.to_pylist()
    # One entry for each sound and value: the first member that has them, and the number of members.
    each, at, count = np.unique(np.stack([sound[known], codes], axis=1), axis=0, return_index=True, return_counts=True)
    of_sound, first = each[:, 0], known[at]
    begins = np.searchsorted(of_sound, of_sound)
    sizes = np.searchsorted(of_sound, of_sound, side="right") - begins
    leaking = sizes > 1
    starts = leaking & (begins == np.arange(len(each)))
    one, other = _pairs_of_entries(of_sound, begins)
    keys, example, pair, sounds = np.unique(
        each[one, 1] * len(names) + each[other, 1], return_index=True, return_inverse=True, return_counts=True
    )
    utterances = np.bincount(pair, count[one] + count[other]).astype(np.int64)
    pair_s = np.bincount(pair, seconds[first[one]])
    pairs = []
    for place in np.lexsort((keys, -sounds))[:MAX_PAIRS].tolist():
        entries = one[example[place]], other[example[place]]
        said = [str(names[each[entry, 1]]) for entry in entries]
        left, right = in_order(said)
        found = [int(rows[first[entry]]) for entry in entries]
        numbers = int(sounds[place]), int(utterances[place]), float(pair_s[place])
        pairs.append(Pair((said[left], said[right]), *numbers, (found[left], found[right])))
    return Leakage(
        group=group,
        sounds=int(starts.sum()),
        utterances=int(count[leaking].sum()),
        seconds=float(seconds[first[starts]].sum()),
        pairs=pairs,
        num_pairs=len(keys),
    )


def _pairs_of_entries(
    of_sound: NDArray[np.int64], begins: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each pair of entries with the same sound. Of a sound, only the first `MAX_VALUES` entries are paired.

    Args:
        of_sound: `(entries,)` the sound of each entry, ascending.
        begins: `(entries,)` the first entry with the same sound.
    """
    entries = np.flatnonzero(np.arange(len(of_sound)) - begins < MAX_VALUES)
    one, other = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for step in range(1, MAX_VALUES):
        same = of_sound[entries[step:]] == of_sound[entries[:-step]]
        one.append(entries[:-step][same])
        other.append(entries[step:][same])
    return np.concatenate(one), np.concatenate(other)


def find_conflicts(duplicates: Duplicates, references: pa.ChunkedArray) -> list[tuple[int, int]]:
    """Return the sounds whose references differ after the normaliser `standard`: one of their references is wrong.

    Args:
        duplicates: The utterances that share their audio.
        references: The references of all rows of the manifest.

    Returns:
        For each such sound, two manifest rows whose references differ.
    """
    texts = references.take(pa.array(duplicates.rows)).to_pylist()
    known: dict[int, tuple[int, str]] = {}
    found: dict[int, tuple[int, int]] = {}
    for row, first, text in zip(duplicates.rows.tolist(), duplicates.first.tolist(), texts, strict=True):
        if text is None or first in found:
            continue
        other, reference = known.setdefault(first, (row, text))
        if text != reference and standard(text) != standard(reference):
            found[first] = other, row
    return [found[first] for first in sorted(found)]
