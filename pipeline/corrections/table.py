"""Reads corrections from a table: a column with the id, or with the path of the recording, and one with the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.corrections.correction import Correction
from pipeline.datasets.formats.mapping import usual_columns
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.table import read_table
from pipeline.datasets.formats.values import shown
from pipeline.runtime.errors import UserError

_TEXT = "reference"


def read(source: Source) -> Iterator[Correction]:
    """Yield the rows of a CSV, TSV, JSON lines or Parquet file.

    Raises:
        UserError: The file cannot be read, or it is not known which column holds what.
    """
    rows = read_table(source.path)
    names = rows.column_names
    text = _TEXT if _TEXT in names else _column(source, "text", names)
    id_ = _column(source, "id", names, required=False)
    path = None if id_ is not None else _column(source, "path", names, or_else=" or id")
    columns = {role: _column(source, role, names, required=False) for role in ("start", "end", "channel")}
    for number, row in enumerate(rows.to_pylist(), start=1):

        def value(name: str | None, row: dict[str, Any] = row) -> Any:
            return None if name is None else row[name]

        start, end, channel = (value(columns[role]) if path else None for role in ("start", "end", "channel"))
        try:
            yield Correction(
                f"{source.name}: row {number}",
                str(value(text) or ""),
                id=None if id_ is None else str(value(id_) or ""),
                recording=None if path is None else str(value(path) or ""),
                start_s=None if start is None else float(start),
                end_s=None if end is None else float(end),
                channel=None if channel is None else int(channel),
            )
        except ValueError as error:
            raise source.refusal(f"row {number}", error) from None


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
