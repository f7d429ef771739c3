"""Stage `score`: compare all committed transcripts with their references."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pyarrow as pa

from pipeline.config.schema import ScoreSettings
from pipeline.runtime.failpoints import failpoint
from pipeline.scoring.grouping import Scores, columns_to_read, score
from pipeline.scoring.groups import choose_groups
from pipeline.storage.commits import CommitRecord
from pipeline.storage.run_directory import CONFUSIONS, SCORES, RunDirectory
from pipeline.storage.tables import own_columns


def score_run(
    directory: RunDirectory,
    records: Mapping[int, CommitRecord],
    manifest: pa.Schema,
    settings: ScoreSettings,
    tell: Callable[[int], None] = lambda utterances: None,
) -> Scores:
    """Score a run and write `scores.parquet` and `confusions.parquet`. If no utterance has a reference, remove them.

    Args:
        directory: The run.
        records: Commit records, by shard.
        manifest: Schema of the manifest, which has the dataset's own columns.
        settings: `score.*`.
        tell: Called with the number of utterances so far.

    Raises:
        UserError: A column of `score.by` does not exist, or the package of the normaliser is not installed.
    """
    own = own_columns(manifest)
    names = [field.name for field in own]
    groups = choose_groups(settings.by, own)
    columns = columns_to_read(groups, names)
    files = [directory.table("transcripts", shard) for shard, each in records.items() if "transcripts" in each.files]
    shards = (stored.read(columns) for stored in files)
    scores = score(shards, groups, settings.normaliser, names, tell)
    failpoint("scores")
    directory.remove_scores()  # the two files must never come from different scores
    if not scores.table.num_rows:
        return scores
    # `is_scored` compares the settings with this metadata.
    metadata = {**scores.table.schema.metadata, "by": made_by(settings)}
    directory.write_table(CONFUSIONS, scores.confusions)
    directory.write_table(SCORES, scores.table.replace_schema_metadata(metadata))
    failpoint("scored")
    return scores


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
    wanted = {b"normaliser": settings.normaliser.encode(), b"by": made_by(settings).encode()}
    return directory.confusions.is_there and wanted.items() <= metadata.items()


def made_by(settings: ScoreSettings) -> str:
    """Return `score.by` as it is written in the file's metadata."""
    return json.dumps(settings.by)
