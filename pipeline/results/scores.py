"""Scores of a run, and of some of its utterances."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.results.frames import read_rows
from pipeline.scoring.schemas import CONFUSIONS, SCORES
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory


def read_scores(directory: RunDirectory) -> tuple[pa.Table, pa.Table]:
    """Scores and confusions as they lie there; no rows where nothing has been scored."""
    return _read(directory.scores, SCORES), _read(directory.confusions, CONFUSIONS)


def _read(stored: StoredTable, schema: pa.Schema) -> pa.Table:
    try:
        return stored.read()
    except FileNotFoundError:  # a run that goes on removes them, at any moment
        return schema.empty_table()


def score_again(
    scored: pa.Table, files: Sequence[tuple[StoredTable, Sequence[str] | None]], own: Sequence[pa.Field]
) -> tuple[pa.Table, pa.Table]:
    """Scores and confusions of some utterances of a run.

    Args:
        scored: The scores of the run, which tell the groups and the normaliser.
        files: Of `transcripts/`, with the ids to read of each; `None` for all.
        own: The dataset's own columns.

    Raises:
        UserError: The normaliser's package is not installed.
    """
    # What counts takes a moment to import.
    from pipeline.scoring.grouping import columns_to_read, score
    from pipeline.scoring.groups import choose_groups

    # The first row is of everything; a group of which only one value is left stays a group.
    groups = choose_groups(list(dict.fromkeys(scored["group"][1:].to_pylist())), own)
    normaliser = (scored.schema.metadata or {}).get(b"normaliser", b"standard").decode()
    names = [field.name for field in own]
    columns = columns_to_read(groups, names)
    shards = (read_rows(stored, ids, columns) for stored, ids in files)
    scores = score(shards, groups, normaliser, names)
    return scores.table, scores.confusions
