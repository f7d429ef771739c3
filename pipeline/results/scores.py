"""Reads the scores of a run, and scores a selection of its utterances."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.results.frames import read_rows
from pipeline.scoring.schemas import CONFUSIONS, SCORES
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory


def read_scores(directory: RunDirectory) -> tuple[pa.Table, pa.Table]:
    """Read scores and confusions. They have no rows if nothing has been scored."""
    return _read(directory.scores, SCORES), _read(directory.confusions, CONFUSIONS)


def _read(stored: StoredTable, schema: pa.Schema) -> pa.Table:
    try:
        return stored.read()
    except FileNotFoundError:  # a run may remove them at any time
        return schema.empty_table()


def score_again(
    scored: pa.Table, files: Sequence[tuple[StoredTable, Sequence[str] | None]], own: Sequence[pa.Field]
) -> tuple[pa.Table, pa.Table]:
    """Score some utterances of a run, and return scores and confusions.

    Args:
        scored: The scores of the run, from which the groups and the normaliser are taken.
        files: Files of `transcripts/`, with the ids to read; `None` for all.
        own: The dataset's own columns.

    Raises:
        UserError: The package of the normaliser is not installed.
    """
    # These imports are slow, and most scripts do not need them.
    from pipeline.scoring.grouping import columns_to_read, score
    from pipeline.scoring.groups import choose_groups

    # The first row is the overall row. A group with only one value in the selection is kept.
    groups = choose_groups(list(dict.fromkeys(scored["group"][1:].to_pylist())), own)
    normaliser = (scored.schema.metadata or {}).get(b"normaliser", b"standard").decode()
    names = [field.name for field in own]
    columns = columns_to_read(groups, names)
    shards = (read_rows(stored, ids, columns) for stored, ids in files)
    scores = score(shards, groups, normaliser, names)
    return scores.table, scores.confusions
