"""Draws two parts of a run's utterances: one to choose the weights on, one to measure them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.records import UtteranceEmission
from pipeline.runtime.errors import UserError
from pipeline.scoring.membership import speaker_column
from pipeline.scoring.normalisers import standard
from pipeline.stages.postprocessing.emissions import read_emissions
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import CommittedShard
from pipeline.storage.run_directory import RunDirectory

MIN_UTTERANCES = 10
"""The fewest utterances of a part."""


@dataclass(frozen=True)
class Part:
    """Some utterances with their references.

    Attributes:
        ids: Ids of the utterances.
        emissions: Emissions of the utterances.
        references: References of the utterances.
        speakers: `(utterances,)` number of each utterance's speaker; `None` if no column names them.
        audio_s: Seconds of audio.
    """

    ids: Sequence[str]
    emissions: Sequence[UtteranceEmission]
    references: Sequence[str]
    speakers: NDArray[np.int64] | None
    audio_s: float


def draw_parts(
    directory: RunDirectory, records: Mapping[int, CommittedShard], hours: float, seed: int
) -> tuple[Part, Part]:
    """Draw the part for the choice and the part for the measurement at random. They share no utterance.

    Args:
        directory: The run.
        records: The committed shards, by shard.
        hours: The most hours of audio in each part. A run with less than twice as much audio is halved, by hours.
        seed: Seed of the draw.

    Raises:
        UserError: Too few utterances have a reference and an emission, or a table is damaged.
    """
    manifest, _ = manifests.read(directory.manifest)
    table = manifest.table
    known = [reference is not None and bool(standard(reference)) for reference in table["reference"].to_pylist()]
    heard = [shard for shard, committed in records.items() if committed.having("emissions")]
    rows = np.flatnonzero(np.isin(manifest.shard_of_row, heard) & np.asarray(known, bool))
    drawn = np.random.default_rng(seed).permutation(rows)
    ends_s = np.cumsum(np.nan_to_num(manifest.duration_s[drawn]))
    total_s = float(ends_s[-1]) if len(ends_s) else 0.0
    first = int((ends_s <= min(hours * 3600, total_s / 2)).sum())
    second = int((ends_s[first:] - (ends_s[first - 1] if first else 0.0) <= hours * 3600).sum())
    # Rows of the manifest are sorted by shard, so that each file is read once.
    halves = (np.sort(drawn[:first]), np.sort(drawn[first : first + second]))
    chosen, measured = (_read(directory, manifest, records, half) for half in halves)
    found = len(chosen.references), len(measured.references)
    if min(found) < MIN_UTTERANCES:
        raise UserError(
            f"{directory.root}: {found[0]} and {found[1]} utterances with a reference and an emission in the two "
            f"halves; weights are chosen on the first and measured on the second, so {MIN_UTTERANCES} are needed in "
            "each; add references, or raise --hours"
        )
    return chosen, measured


def _read(
    directory: RunDirectory,
    manifest: manifests.Manifest,
    records: Mapping[int, CommittedShard],
    rows: NDArray[np.int64],
) -> Part:
    """Read the emissions of some rows of the manifest, ascending. Utterances that failed have none."""
    described = manifest.table.take(rows)
    columns = ["id", "start_s", "reference", "duration_s"]
    speaker = speaker_column(manifest.own_columns)
    columns += [] if speaker is None else [speaker]
    by_id = {row["id"]: row for row in described.select(columns).to_pylist()}
    found: list[UtteranceEmission] = []
    ids: list[str] = []
    shards = manifest.shard_of_row[rows]
    for shard in np.unique(shards).tolist():
        wanted = described.filter(shards == shard)
        starts_s = {id_: by_id[id_]["start_s"] or 0.0 for id_ in wanted["id"].to_pylist()}
        for id_, emission in read_emissions(directory, records[shard], starts_s):
            ids.append(id_)
            found.append(emission)
    speakers = None
    if speaker is not None:
        _, speakers = np.unique([str(by_id[id_][speaker]) for id_ in ids], return_inverse=True)
    return Part(
        ids=ids,
        emissions=found,
        references=[by_id[id_]["reference"] for id_ in ids],
        speakers=speakers,
        audio_s=float(sum(by_id[id_]["duration_s"] or 0.0 for id_ in ids)),
    )
