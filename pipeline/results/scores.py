"""Reads the scores of a run, and scores a selection of its utterances."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.results.frames import read_rows
from pipeline.results.joining import Joined
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
    files: Sequence[tuple[StoredTable, Sequence[str] | None]],
    own: Sequence[pa.Field],
    joined: Joined | None,
    scored: pa.Table,
    by: Sequence[str] | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Score utterances of a run as the stage `score` does, and return scores and confusions.

    Memory holds the texts of one shard.

    Args:
        files: Files of `transcripts/`, with the ids to read; `None` for all.
        own: The dataset's own columns.
        joined: Columns that were joined; `None` for none.
        scored: The scores of the run, from which the normaliser is taken.
        by: Names of columns to group by; crossed columns are joined by `+`. `None` takes the joined columns, and the
            groups of `scored`.

    Raises:
        UserError: There is no such column, or the package of the normaliser is not installed.
    """
    # These imports are slow, and most scripts do not need them.
    from pipeline.scoring.grouping import columns_to_read, score
    from pipeline.scoring.groups import choose_groups

    added = [] if joined is None else joined.fields
    everything = [*own, *added]
    if by is None:
        # The first row is the overall row. A group with only one value in the selection is kept.
        before = list(dict.fromkeys(scored["group"][1:].to_pylist())) if scored.num_rows else None
        groups = [*choose_groups(None, added), *choose_groups(before, own)]
    else:
        groups = choose_groups(by, everything, setting="by")
    normaliser = (scored.schema.metadata or {}).get(b"normaliser", b"standard").decode()
    names, stored = [field.name for field in everything], {field.name for field in added}
    columns = [name for name in columns_to_read(groups, names) if name not in stored]
    parts = (read_rows(file, ids, columns) for file, ids in files)
    scores = score((part if joined is None else joined.beside(part) for part in parts), groups, normaliser, names)
    return scores.table, scores.confusions
