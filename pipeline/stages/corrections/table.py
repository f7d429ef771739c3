"""Reads corrections from a table: a column with the id, or with the path of the recording, and one with the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.datasets.formats.mapping import usual_columns
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.table import read_table
from pipeline.datasets.formats.values import channel, is_missing, number_in, point, shown, written
from pipeline.runtime.errors import UserError
from pipeline.stages.corrections.correction import Correction

_TEXT = "reference"


def read(source: Source) -> Iterator[Correction]:
    """Yield the rows of a CSV, TSV, JSON lines or Parquet file.

    A row whose id is empty is found by its path.

    Raises:
        UserError: The file cannot be read, has no row or a wrong value, or it is not known which column holds what.
    """
    rows = read_table(source.path)
    if not rows.num_rows:
        raise UserError(f"{source.name}: has no row; give a table with a column id or path, and a column {_TEXT}")
    names = rows.column_names
    text = _TEXT if _TEXT in names else _column(source, "text", names)
    id_ = _column(source, "id", names, required=False)
    path = _column(source, "path", names, required=id_ is None, or_else=" or id")
    columns = {role: _column(source, role, names, required=False) for role in ("start", "end", "channel")}
    for number, row in enumerate(rows.to_pylist(), start=1):

        def value(name: str | None, row: dict[str, Any] = row) -> str | None:
            return None if name is None or is_missing(row[name]) else written(row[name])

        place, named = f"row {number}", value(id_)
        start, end, side = (None if named else number_in(value(columns[role])) for role in ("start", "end", "channel"))
        try:
            yield Correction(
                source.name,
                f"{source.name}: {place}",
                value(text) or "",
                id=named,
                recording=None if named else value(path),
                start_s=point("start", start),
                end_s=point("end", end),
                channel=channel("channel", side),
            )
        except ValueError as error:
            raise source.refusal(place, error) from None


def _column(source: Source, role: str, names: list[str], *, required: bool = True, or_else: str = "") -> str | None:
    """Return the column that has a role; `None` if there is none.

    Raises:
        UserError: There are several, or there is none although it is required.
    """
    found = usual_columns(role, names)
    if len(found) == 1 or (not found and not required):
        return found[0] if found else None
    what = f"{' and '.join(map(shown, found))} may both hold" if found else "no column is known to hold"
    there = ", ".join(map(shown, names[:40])) or "none"
    wanted = _TEXT if role == "text" else role
    raise UserError(f"{source.name}: {what} the {wanted}; its columns are {there}; name one of them {wanted}{or_else}")
