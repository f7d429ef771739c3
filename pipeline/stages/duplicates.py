"""Settles the column `same_as` when all shards are committed, so that it does not depend on their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.duplicates.digests import find_duplicates, read_digests, rows_of
from pipeline.runtime.failpoints import failpoint
from pipeline.stages.score import renew_transcripts
from pipeline.storage.commits import CommittedShard
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord
from pipeline.storage.tables import SAME_AS


def is_settled(recorded: RunRecord | None) -> bool:
    """Whether `same_as` is complete, or the run has no such column, as its `run.json` says."""
    return recorded is None or not recorded.combined.audio_digests or recorded.duplicates is not None


def settle_same_as(
    directory: RunDirectory, manifest: Manifest, records: Mapping[int, CommittedShard]
) -> Mapping[int, CommittedShard]:
    """Write `same_as` in the transcripts of all shards where it is not right yet. The caller holds the lock.

    `run.json` then says how many utterances are duplicates. The stage `infer` removes that number before it commits a
    shard. So after a kill, the next run compares the utterances again.

    Args:
        directory: The run, all of whose shards are committed.
        manifest: The manifest.
        records: The committed shards, by shard.

    Returns:
        The committed shards after that.
    """
    recorded = directory.read_record()
    if recorded is None or is_settled(recorded):
        return records
    failpoint("settle")
    heard = read_digests(directory, records, manifest.table)
    duplicates = find_duplicates(heard.rows, heard.digests)
    renewed = False
    for record in (record for shard in records.values() for record in shard.having("transcripts")):
        stored = directory.table("transcripts", record.shard, record.supplement)
        found = stored.read(["id", SAME_AS])
        right = duplicates.same_as(rows_of(found["id"], manifest.table, record.shard), manifest.table["id"])
        if not right.equals(found[SAME_AS].combine_chunks()):
            table = stored.read()
            place = table.schema.get_field_index(SAME_AS)
            renew_transcripts(directory, record, table.set_column(place, table.schema.field(place), right))
            renewed = True
    failpoint("settled")
    directory.write(RUN_JSON, replace(recorded, duplicates=len(duplicates.copies)).encode())
    return directory.commits() if renewed else records
