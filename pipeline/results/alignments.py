"""Reads the alignments of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.frames import read_rows
from pipeline.storage.commits import CommittedShard
from pipeline.storage.derived import emissions_digest
from pipeline.storage.names import ALIGNMENTS
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import ALIGNMENTS as SCHEMA


def read_alignments(
    directory: RunDirectory,
    shards: Mapping[int, CommittedShard],
    ids: Mapping[int, Sequence[str]] | None = None,
    columns: Sequence[str] = SCHEMA.names,
) -> pa.Table:
    """Read the alignments that are those of the stored emissions and of the present references.

    Args:
        directory: The run.
        shards: The committed shards to read, by shard.
        ids: Ids to read, by shard; `None` for all.
        columns: Columns to read; `id` and `reference` are among them.
    """
    table = directory.derived(ALIGNMENTS)
    made = [shard for shard, record in table.records().items() if _is_made_of(record.sources, shards.get(shard))]
    read = [read_rows(table.table(shard), None if ids is None else ids[shard], [*columns]) for shard in made]
    if not read:
        return pa.schema([SCHEMA.field(name) for name in columns]).empty_table()
    rows = pa.concat_tables(read)
    manifest = directory.manifest.read(["id", "reference"])
    now = manifest["reference"].take(pc.index_in(rows["id"], value_set=manifest["id"].combine_chunks()))
    both_null = pc.and_(now.is_null(), rows["reference"].is_null())
    return rows.filter(pc.or_(both_null, pc.fill_null(pc.equal(now, rows["reference"]), False)))


def _is_made_of(sources: Mapping[str, str], committed: CommittedShard | None) -> bool:
    return committed is not None and sources.get("emissions") == emissions_digest(committed)
