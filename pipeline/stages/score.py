"""Stage `score`: everything committed, compared with its references."""

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
    """Score a run and write `scores.parquet` and `confusions.parquet`, or remove them where nothing can be scored.

    Args:
        directory: The run.
        records: Of the committed shards.
        manifest: Its schema, which has the dataset's own columns.
        settings: `score.*`.
        tell: Told how many utterances have been looked at.

    Raises:
        UserError: A column of `score.by` is not there, or the normaliser's package is not.
    """
    own = own_columns(manifest)
    names = [field.name for field in own]
    groups = choose_groups(settings.by, own)
    columns = columns_to_read(groups, names)
    files = [directory.table("transcripts", shard) for shard, each in records.items() if "transcripts" in each.files]
    shards = (stored.read(columns) for stored in files)
    scores = score(shards, groups, settings.normaliser, names, tell)
    failpoint("scores")
    directory.remove_scores()  # there are two files, which must not be of different scores
    if not scores.table.num_rows:
        return scores
    # How it was made, for a run that is asked for other scores.
    metadata = {**scores.table.schema.metadata, "by": made_by(settings)}
    directory.write_table(CONFUSIONS, scores.confusions)
    directory.write_table(SCORES, scores.table.replace_schema_metadata(metadata))
    failpoint("scored")
    return scores


def read_overall(directory: RunDirectory) -> tuple[int, int, str] | None:
    """Wrong words, words of the references and the normaliser of the scores that lie there."""
    try:
        table = directory.scores.read(["word_errors", "reference_words"]).slice(0, 1)
    except (OSError, pa.ArrowException):
        return None
    normaliser = (table.schema.metadata or {}).get(b"normaliser", b"standard").decode()
    (row,) = table.to_pylist()
    return row["word_errors"], row["reference_words"], normaliser


def is_scored(directory: RunDirectory, settings: ScoreSettings) -> bool:
    """Whether the scores that lie there were made as these settings say."""
    try:
        metadata = directory.scores.schema().metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    wanted = {b"normaliser": settings.normaliser.encode(), b"by": made_by(settings).encode()}
    return directory.confusions.is_there and wanted.items() <= metadata.items()


def made_by(settings: ScoreSettings) -> str:
    """`score.by` as the file's metadata has it."""
    return json.dumps(settings.by)
