"""Replaces the manifest of a run, and writes its references and columns into the transcripts, without the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.runtime.failpoints import failpoint
from pipeline.stages import identity
from pipeline.stages.decode import describe_decodings_again
from pipeline.stages.score import renew_transcripts
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import CommittedShard
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import own_columns


def replace_manifest(
    directory: RunDirectory,
    before: Manifest,
    after: Manifest,
    described: NDArray[np.int64],
    made_with: Mapping[str, Any],
    retracted: Iterable[int] = (),
) -> int:
    """Replace the manifest of a run, and what the transcripts have of it. The caller holds the lock.

    The transcripts come first, so that after a kill the next run finds the same changes.

    Args:
        directory: The run.
        before: The manifest.
        after: The manifest from now on.
        described: Rows whose reference or own columns differ.
        made_with: The settings that the manifest is made with.
        retracted: Shards that are computed again.

    Returns:
        The number of files of transcripts that were written.
    """
    files = 0
    if after.chain != before.content:
        records = directory.commits()
        identity.note_manifest(directory, before.content, after.chain)
        directory.remove_scores()
        for shard in retracted:
            directory.retract(shard)
            records.pop(shard, None)
        files = _describe_again(directory, after, records, described)
    failpoint("extend")
    manifests.write(directory, after, dict(made_with))
    failpoint("extended")
    identity.note_manifest(directory, after.chain)
    return files


def finish_change(directory: RunDirectory, manifest: Manifest) -> None:
    """Write the manifest's references and columns into the transcripts, if a kill came while they were changed.

    Otherwise the change would stay in them where it is not asked for again. The caller holds the lock.
    """
    recorded = directory.read_record()
    if recorded is not None and len(recorded.manifests) > 1:
        _describe_again(directory, manifest, directory.commits(), np.arange(len(manifest)))
        identity.note_manifest(directory, manifest.content)


def _describe_again(
    directory: RunDirectory, manifest: Manifest, records: Mapping[int, CommittedShard], rows: NDArray[np.int64]
) -> int:
    """Write references and own columns of a manifest into the committed transcripts. The caller holds the lock.

    Args:
        directory: The run.
        manifest: The manifest with the new references and columns.
        records: The committed shards, by shard.
        rows: Rows of the manifest that differ from the transcripts.

    Returns:
        The number of files that were written.
    """
    shards = [shard for shard in np.unique(manifest.shard_of_row[rows]).tolist() if shard in records]
    todo = [record for shard in shards for record in records[shard].having("transcripts")]
    schema = directory.transcripts_schema(manifest.schema)
    own = {field.name for field in own_columns(manifest.schema)} | {"reference", "path"}
    for record in todo:
        stored = directory.table("transcripts", record.shard, record.supplement)
        table = stored.read()
        mine = manifest.rows_of_shard(record.shard)
        described = manifest.table.slice(mine.start, len(mine))
        place = pc.index_in(table["id"].combine_chunks(), value_set=described["id"].combine_chunks())
        taken = described.take(place)
        columns = {name: table[name] for name in table.schema.names if name in schema.names}
        columns |= {name: taken[name] for name in own}
        renew_transcripts(directory, record, pa.table([columns[name] for name in schema.names], schema=schema))
        failpoint("described", record.shard)
    describe_decodings_again(directory, manifest)
    return len(todo)
