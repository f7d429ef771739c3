"""Corrected references: `references.parquet`, which overrides the references of the corpus."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runtime.errors import UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.files import UNREADABLE
from pipeline.storage.names import REFERENCES
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.stored_run import StoredRun

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("time", pa.string(), nullable=False),
    ]
)
"""The id of an utterance, its corrected reference, the file that it came from, and when, in UTC as ISO 8601."""


def read(run: StoredRun) -> pa.Table:
    """Read the corrected references of a run; no rows if there are none.

    Raises:
        UserError: The file is damaged.
    """
    try:
        table = run.references.read()
        if table.schema.equals(SCHEMA):
            return table
        reason = "it has other columns"
    except FileNotFoundError:
        return SCHEMA.empty_table()
    except UNREADABLE as error:
        reason = str(error).splitlines()[0]
    raise UserError(
        f"{run.references}: cannot be read ({reason}); remove it and import the corrections again, or restore it"
    )


def add(directory: RunDirectory, texts: Mapping[str, str], source: str, time: str) -> None:
    """Add corrected references to those that there are; a later one replaces an earlier one. The caller holds the lock.

    Args:
        directory: The run.
        texts: The references, by id.
        source: The file that they came from.
        time: The time in UTC, as ISO 8601.
    """
    before = read(directory)
    kept = before.filter(pc.invert(pc.is_in(before["id"], value_set=pa.array([*texts], pa.string()))))
    new = {"id": [*texts], "reference": [*texts.values()], "source": [source] * len(texts), "time": [time] * len(texts)}
    table = pa.concat_tables([kept, pa.table(new, schema=SCHEMA)]).sort_by("id")
    failpoint("references")
    directory.write_table(REFERENCES, table)
    failpoint("references-written")


def overlay(utterances: pa.Table, references: pa.Table) -> pa.Table:
    """Return the rows of a manifest or of a listing with the corrected references in place of their own."""
    if not references.num_rows:
        return utterances
    place = pc.index_in(utterances["id"].combine_chunks(), value_set=references["id"].combine_chunks())
    corrected = references["reference"].combine_chunks().take(place)
    index = utterances.schema.get_field_index("reference")
    column = pc.coalesce(corrected, utterances["reference"].combine_chunks())
    return utterances.set_column(index, utterances.schema.field(index), column)
