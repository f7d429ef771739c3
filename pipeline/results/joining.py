"""Joins a user's table to the utterances of a run. Nothing is written into the run directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.datasets.formats.mapping import usual_columns
from pipeline.datasets.formats.table import read_table
from pipeline.datasets.formats.values import column_value, shown
from pipeline.results.keys import root_of, rows_by_id, rows_by_path
from pipeline.runtime.errors import UserError, one_of
from pipeline.storage import tables
from pipeline.storage.run_directory import RunDirectory

On: TypeAlias = Literal["id", "path"]


@dataclass(frozen=True)
class Joined:
    """Columns of utterances that are in no file of the run.

    Attributes:
        ids: The id of every utterance of the manifest, in its order.
        columns: The values, `(utterances, columns)`; null for an utterance without a row in the user's table.
        said: How many rows and utterances belong together, in one line.
        complete: Whether every row belongs to an utterance, every utterance has a row, and every column has its name.
    """

    ids: pd.Index
    columns: pa.Table
    said: str
    complete: bool

    @property
    def fields(self) -> list[pa.Field]:
        """Names and types of the columns."""
        return list(self.columns.schema)

    def beside(self, rows: pa.Table) -> pa.Table:
        """Return the rows of a table that has the column `id`, with the joined columns after their own."""
        positions = self.ids.get_indexer(rows["id"].to_pandas())
        found = self.columns.take(pa.array(positions, mask=positions < 0))
        for field, column in zip(self.fields, found.columns, strict=True):
            rows = rows.append_column(field, column)
        return rows


def join(directory: RunDirectory, table: pd.DataFrame | str | Path, on: On, before: Joined | None = None) -> Joined:
    """Find the row of each utterance in a table.

    Args:
        directory: The run.
        table: The table, or the path of a CSV, TSV, JSON lines or Parquet file.
        on: What names an utterance in the table: its id, or the path of its recording.
        before: Columns that were joined earlier, which are kept.

    Raises:
        UserError: The table cannot be read, has no column or several for `on`, names an utterance twice, or names none.
        TypeError: `table` is something else.
    """
    one_of("on", on, ("id", "path"))
    name, content = _content(table)
    key = _key_column(name, on, content.column_names)
    keys = [None if value is None else str(value) for value in content[key].to_pylist()]
    manifest, schema = directory.manifest.read(["id", "path"]), directory.manifest.schema()
    paths = manifest["path"].to_pylist()
    if on == "id":
        rows = rows_by_id(name, keys, manifest["id"].to_pylist())
    else:
        root = root_of(tables.metadata_of(schema).get("made_with") or {}, paths)
        folder = root if isinstance(table, pd.DataFrame) else os.path.dirname(os.path.abspath(table))
        rows = rows_by_path(name, keys, paths, root, folder)
    columns = pa.table({}) if before is None else before.columns
    taken = tables.RESERVED.union(schema.names, columns.column_names)
    names = tables.own_column_names([each for each in content.column_names if each != key], taken)
    matched, without = np.unique(rows[rows >= 0]), int((rows < 0).sum())
    said = f"{name}: {len(matched):,} of {len(keys):,} rows belong to an utterance"
    if len(matched) < len(keys):
        first = keys[int(np.setdiff1d(np.arange(len(keys)), matched)[0])]
        said += f", the first that does not has the {on} {shown(first)}"
    if len(rows) and not len(matched):
        raise UserError(f"{said}, and the first utterance has {shown(manifest[on][0].as_py())}")
    said += f"; {without:,} of {len(rows):,} utterances have no row"
    renamed = {own: column for own, column in names.items() if own != column}
    said += "".join(f"; column {shown(own)} is called {shown(column)} here" for own, column in renamed.items())
    added = content.take(pa.array(rows, mask=rows < 0))
    for own, column in names.items():
        columns = columns.append_column(column, added[own]) if columns.num_columns else pa.table({column: added[own]})
    complete = len(matched) == len(keys) and not without and not renamed
    return Joined(pd.Index(manifest["id"].to_pandas()), columns, said, complete)


def _key_column(name: str, on: On, columns: list[str]) -> str:
    """Return the column that names the utterances.

    Raises:
        UserError: There is none, or there are several.
    """
    usual = usual_columns(on, columns)
    if len(usual) == 1:
        return usual[0]
    what = f"{' and '.join(map(shown, usual))} may both hold" if usual else "no column is known to hold"
    there = ", ".join(map(shown, columns[:40])) or "none"
    other: On = "path" if on == "id" else "id"
    instead = "".join(f", or join on={other}, which {shown(each)} holds" for each in usual_columns(other, columns)[:1])
    raise UserError(
        f"{name}: {what} the {on} of an utterance; its columns are {there}; name one of them {on!r}{instead}"
    )


def _content(table: pd.DataFrame | str | Path) -> tuple[str, pa.Table]:
    """Return the name of a table for messages, and its content. A named index becomes columns."""
    if isinstance(table, str | os.PathLike):
        name, content = os.fspath(table), read_table(os.fspath(table))
        columns = {column: content[column] for column in content.column_names}
    elif isinstance(table, pd.DataFrame):
        name = "table"
        frame = table if table.index.names == [None] else table.reset_index()
        if frame.columns.has_duplicates:
            twice = frame.columns[frame.columns.duplicated()][0]
            raise UserError(f"{name}: column {shown(twice)} appears twice; give every column its own name")
        columns = {str(column): _values(name, frame[column]) for column in frame}
    else:
        raise TypeError(f"{type(table).__name__}: give a pandas.DataFrame, or the path of a CSV or Parquet file")
    return name, pa.table({column: _plain(values) for column, values in columns.items()})


def _values(name: str, column: pd.Series) -> pa.Array:
    if isinstance(getattr(column.dtype, "categories", None), pd.IntervalIndex):  # as of pandas.cut
        column = column.astype(object).map(str, na_action="ignore")
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowException, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{name}: column {shown(column.name)} has values of several kinds ({reason}); convert it, as with "
            "astype(str)"
        ) from None


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return the values of a column as numbers, booleans, times or texts. Lists and objects become JSON."""
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    if pa.types.is_nested(values.type) or isinstance(values.type, pa.BaseExtensionType):
        return pa.array([column_value(value, "string") for value in values.to_pylist()], pa.string())
    is_text = pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type)
    return pc.cast(values, pa.string()) if is_text or pa.types.is_null(values.type) else values
