"""Reads what the page shows of utterances with identical audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.duplicates.analysis import Analysis, analyse, share_in_words
from pipeline.duplicates.leakage import Leakage
from pipeline.report.texts import masked, shown
from pipeline.storage.commits import CommittedShard
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord

MAX_SOUNDS, MAX_MEMBERS = 10, 5
"""Maximum of sounds, and of utterances of a sound. Sounds with most utterances are shown."""
MAX_CONFLICTS, MAX_PAIRS = 10, 12
_ID_LENGTH, _NAME_LENGTH, _TEXT_LENGTH = 200, 80, 300


@dataclass(frozen=True)
class Sound:
    """Audio that occurs more than once: the number of utterances, its duration, and the ids of the first utterances."""

    utterances: int
    seconds: float
    ids: Sequence[str]


@dataclass(frozen=True)
class SharedValues:
    """Two values of a column that share sounds: number of sounds and utterances, seconds of audio, and an example."""

    values: Sequence[str]
    sounds: int
    utterances: int
    seconds: float
    ids: Sequence[str]


@dataclass(frozen=True)
class Section:
    """The section `Duplicates` of the page.

    Attributes:
        share: How many utterances there are, in words.
        sounds: The first sounds.
        num_sounds: Number of all sounds that occur more than once.
        leakage: Column, pairs of its values, and number of all such pairs.
        tight: Columns that were searched, and in which no sound has several values.
        conflicts: Sounds with different references: id and reference of two utterances each.
        num_conflicts: Number of all such sounds.
    """

    share: str
    sounds: Sequence[Sound]
    num_sounds: int
    leakage: Sequence[tuple[str, Sequence[SharedValues], int]]
    tight: Sequence[str]
    conflicts: Sequence[Sequence[tuple[str, str]]]
    num_conflicts: int


def read_duplicates(
    directory: RunDirectory, records: Mapping[int, CommittedShard], recorded: RunRecord | None
) -> Section | None:
    """Read the duplicates of a run; return `None` if there are none, or if its transcripts have no digests."""
    if recorded is None or not recorded.combined.audio_digests or recorded.duplicates == 0:
        return None
    analysis = analyse(directory, records)
    if not analysis.copies:
        return None
    sounds = analysis.sounds()
    return Section(
        share=share_in_words(analysis),
        sounds=[
            Sound(len(rows), float(analysis.seconds[rows[0]]), _ids(analysis, rows[:MAX_MEMBERS].tolist()))
            for rows in sounds[:MAX_SOUNDS]
        ],
        num_sounds=len(sounds),
        leakage=[
            (masked(each.group, _NAME_LENGTH), _pairs(analysis, each), each.num_pairs)
            for each in analysis.leakage
            if each.sounds
        ],
        tight=[masked(each.group, _NAME_LENGTH) for each in analysis.leakage if not each.sounds],
        conflicts=[
            [(_ids(analysis, [row])[0], shown(analysis.manifest["reference"][row], _TEXT_LENGTH)) for row in rows]
            for rows in analysis.conflicts[:MAX_CONFLICTS]
        ],
        num_conflicts=len(analysis.conflicts),
    )


def _pairs(analysis: Analysis, leakage: Leakage) -> list[SharedValues]:
    return [
        SharedValues(
            values=[masked(value, _NAME_LENGTH) for value in pair.values],
            sounds=pair.sounds,
            utterances=pair.utterances,
            seconds=pair.seconds,
            ids=_ids(analysis, pair.example),
        )
        for pair in leakage.pairs[:MAX_PAIRS]
    ]


def _ids(analysis: Analysis, rows: Sequence[int]) -> list[str]:
    return [masked(analysis.id(row), _ID_LENGTH) for row in rows]
