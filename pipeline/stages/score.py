"""Stage `score`: compare all committed transcripts with their references."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from pipeline.config.schema import ScoreSettings
from pipeline.runtime.errors import naming
from pipeline.runtime.failpoints import failpoint
from pipeline.scoring.counting import COUNTED_AFTER, COUNTS, count_columns, is_counted_now
from pipeline.scoring.grouping import Scores, columns_to_read, score
from pipeline.scoring.groups import choose_groups
from pipeline.scoring.normalisers import made_after
from pipeline.storage.commits import CommitRecord, CommittedShard
from pipeline.storage.committing import renew
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import open_writer, own_columns


def score_run(
    directory: RunDirectory,
    records: Mapping[int, CommittedShard],
    manifest: pa.Schema,
    settings: ScoreSettings,
    tell: Callable[[int], None] = lambda utterances: None,
    default: Sequence[str] | None = None,
) -> Scores:
    """Score a run and write `scores.parquet` and `confusions.parquet`. If no utterance has a reference, remove them.

    Counts in `transcripts/` that were made after an earlier version of the normaliser are made again.

    Args:
        directory: The run.
        records: The committed shards, by shard.
        manifest: Schema of the manifest, which has the dataset's own columns.
        settings: `score.*`.
        tell: Called with the number of utterances so far.
        default: The columns that the dataset is usually scored by; `None` for all.

    Raises:
        UserError: A column of `score.by` does not exist, or the package of the normaliser is not installed.
    """
    own = own_columns(manifest)
    names = [field.name for field in own]
    groups = choose_groups(settings.by, own, default)
    columns = columns_to_read(groups, names)
    with_texts = (record for shard in records.values() for record in shard.having("transcripts"))
    shards = (_counted_now(directory, record).read(columns) for record in with_texts)
    scores = score(shards, groups, settings.normaliser, names, tell)
    failpoint("scores")
    directory.remove_scores()  # the two files must never come from different scores
    if not scores.table.num_rows:
        return scores
    # `is_scored` compares the settings with this metadata.
    metadata = {**scores.table.schema.metadata, "by": made_by(settings)}
    directory.write_table(directory.confusions.name, scores.confusions)
    directory.write_table(directory.scores.name, scores.table.replace_schema_metadata(metadata))
    failpoint("scored")
    return scores


def _counted_now(directory: RunDirectory, record: CommitRecord) -> StoredTable:
    """Return the transcripts of a shard, whose errors are counted again if an earlier version counted them."""
    stored = directory.table("transcripts", record.shard, record.supplement)
    if is_counted_now(stored.schema()):
        return stored
    renew_transcripts(directory, record, stored.read())
    return stored


def renew_transcripts(directory: RunDirectory, record: CommitRecord, table: pa.Table) -> None:
    """Replace the transcripts of a committed shard by a table whose errors are counted anew. The caller holds the lock.

    Args:
        directory: The run.
        record: The commit record of the pass that wrote the transcripts.
        table: The columns of `transcripts`; those of the errors are ignored.
    """
    columns, sums = count_columns(table["text"].to_pylist(), table["reference"].to_pylist())
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    counts = {name: count for name, count in record.counts.items() if name not in COUNTS} | sums
    folder = directory.new_staging(record.shard)
    path = folder / "transcripts.parquet"
    try:
        with naming(path), open_writer(path, table.schema, COUNTED_AFTER) as writer:
            writer.write_table(table)
        renew(directory, replace(record, counts=counts), "transcripts", path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_overall(directory: RunDirectory) -> tuple[int, int, str] | None:
    """Read word errors, reference words and normaliser from `scores.parquet`; return `None` if it cannot be read."""
    try:
        table = directory.scores.read(["word_errors", "reference_words"]).slice(0, 1)
    except (OSError, pa.ArrowException):
        return None
    normaliser = (table.schema.metadata or {}).get(b"normaliser", b"standard").decode()
    (row,) = table.to_pylist()
    return row["word_errors"], row["reference_words"], normaliser


def is_scored(directory: RunDirectory, settings: ScoreSettings) -> bool:
    """Whether the scores in the run directory were made with these settings."""
    try:
        metadata = directory.scores.schema().metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    wanted = {**made_after(settings.normaliser), "by": made_by(settings)}
    return directory.confusions.is_there and all(
        metadata.get(name.encode()) == value.encode() for name, value in wanted.items()
    )


def made_by(settings: ScoreSettings) -> str:
    """Return `score.by` as it is written in the file's metadata."""
    return json.dumps(settings.by)
