"""Reads a run, and describes the sounds that occur in it more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.duplicates.digests import Duplicates, find_duplicates, read_digests
from pipeline.duplicates.leakage import Leakage, find_conflicts, find_leakage, usual_groups
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted
from pipeline.scoring.groups import choose_groups
from pipeline.storage.commits import CommittedShard
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord
from pipeline.storage.tables import own_columns


@dataclass(frozen=True)
class Analysis:
    """The sounds that occur more than once in the committed shards of a run. A sound is decoded audio.

    Attributes:
        manifest: The columns `id`, `duration_s` and `reference` of the manifest, and those that are searched.
        duplicates: The utterances that share their audio.
        heard: Number of committed utterances whose audio is known.
        heard_s: Their seconds of audio.
        leakage: Leakage over each column that was searched.
        conflicts: For each sound whose references differ, two manifest rows with different references.
    """

    manifest: pa.Table
    duplicates: Duplicates
    heard: int
    heard_s: float
    leakage: Sequence[Leakage]
    conflicts: Sequence[tuple[int, int]]

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Duration of each row of the manifest in seconds, `(rows,)`; 0 if unknown."""
        return np.nan_to_num(np.asarray(self.manifest["duration_s"].to_numpy(), dtype=np.float64))

    @property
    def copies(self) -> int:
        """Number of utterances whose audio an earlier utterance has too."""
        return len(self.duplicates.copies)

    @property
    def copies_s(self) -> float:
        """Seconds of audio of these utterances."""
        return float(self.seconds[self.duplicates.copies].sum())

    def sounds(self) -> list[NDArray[np.int64]]:
        """Return the manifest rows of each sound, ascending. Sounds with most utterances come first, then long ones."""
        duplicates = self.duplicates
        order = np.argsort(duplicates.first, kind="stable")
        firsts, begins = np.unique(duplicates.first[order], return_index=True)
        members = np.split(duplicates.rows[order], begins[1:]) if len(firsts) else []
        return sorted(members, key=lambda rows: (-len(rows), -self.seconds[rows[0]], rows[0]))

    def id(self, row: int) -> str:
        """Return the id of a row of the manifest."""
        return str(self.manifest["id"][row].as_py())


def require_digests(directory: RunDirectory, recorded: RunRecord | None) -> None:
    """Check that the transcripts of a run have digests of the audio.

    Raises:
        UserError: They do not. The message says why.
    """
    if recorded is None:
        raise UserError(f"{directory.root}: no model has run there yet; the same command of pipeline.run starts it")
    if recorded.combined.decoder is None:
        raise UserError(
            f"{directory.root}: this run has no transcripts, and digests of the audio are in that table; "
            f"run with outputs=[transcripts] to add them"
        )
    if not recorded.combined.audio_digests:
        raise UserError(
            f"{directory.root}: an earlier release began this run, and its transcripts have no digests of the audio; "
            f"run with another run_dir="
        )


def analyse(
    directory: RunDirectory, records: Mapping[int, CommittedShard], by: Sequence[str] | None = None
) -> Analysis:
    """Find the sounds that occur more than once, and where they leak.

    Args:
        directory: The run, whose transcripts have digests.
        records: The committed shards, by shard.
        by: Columns to search for leakage; crossed columns are joined by `+`. `None` takes the usual ones.

    Raises:
        UserError: The run has no such column.
        OSError, pyarrow.ArrowException: A table cannot be read.
    """
    own = own_columns(directory.manifest.schema())
    groups = None if by is None else choose_groups(by, own, setting="--by")
    searched = [field.name for field in own] if groups is None else [name for each in groups for name in each.columns]
    names = list(dict.fromkeys(("id", "shard", "duration_s", "reference", *searched)))
    manifest = directory.manifest.read(names).combine_chunks()
    if groups is None:
        scored = directory.scores.read(["group"])["group"].to_pylist() if directory.scores.is_there else None
        groups = usual_groups(own, manifest, scored)
    heard = read_digests(directory, records, manifest)
    duplicates = find_duplicates(heard.rows, heard.digests)
    return Analysis(
        manifest=manifest,
        duplicates=duplicates,
        heard=len(heard.rows),
        heard_s=float(np.nansum(np.asarray(manifest["duration_s"].to_numpy(), dtype=np.float64)[heard.rows])),
        leakage=find_leakage(duplicates, manifest, groups),
        conflicts=find_conflicts(duplicates, manifest["reference"]),
    )


def share_in_words(analysis: Analysis) -> str:
    """Say how many utterances sound like an earlier one."""
    if not analysis.heard:
        return "no utterance has a transcript yet, so there is nothing to compare"
    if not analysis.copies:
        return f"no two of {counted(analysis.heard, 'utterance')} have the same audio"
    share = 100 * analysis.copies / analysis.heard
    return (
        f"{analysis.copies:,} of {counted(analysis.heard, 'utterance')} ({share:.2g} %), "
        f"{format_hours(analysis.copies_s)} of {format_hours(analysis.heard_s)}, "
        f"{'has' if analysis.copies == 1 else 'have'} the same audio as an earlier utterance"
    )
