"""Reads a table of named values, whose rows need not name recordings: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.formats import delimited
from pipeline.datasets.formats.detect import detect
from pipeline.datasets.formats.json_objects import objects
from pipeline.datasets.formats.opening import MAPPED, Values
from pipeline.datasets.formats.parquet import readable
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import column_value, shown
from pipeline.runtime.errors import UserError


def read_table(path: str) -> pa.Table:
    """Read a table. Parquet has its own types; the other formats have those that a list's own columns get.

    A file of another format than Parquet names its columns in its first line, or has objects with keys.

    Raises:
        UserError: The file cannot be read, or one of its rows is wrong.
    """
    source = Source(os.path.abspath(os.path.expanduser(path)), path)
    format_ = detect(source)
    if format_ not in MAPPED:
        raise UserError(f"{source.name}: read as {format_}; give CSV, TSV, JSON lines or Parquet")
    if format_ == "parquet":
        with readable(source):
            return pq.read_table(source.path)
    values, columns = Values(), dict[str, list[Any]]()
    for rows, record in enumerate(_records(source, format_)):
        for name in [name for name in record if name not in columns]:
            columns[name] = [None] * rows
        for name, column in columns.items():
            column.append(record.get(name))
        values.add(record)
    types = values.types({})
    return pa.table({name: _typed(source, name, column, types[name]) for name, column in columns.items()})


def _records(source: Source, format_: str) -> Iterator[dict[str, Any]]:
    if format_ == "jsonl":
        for place, entry in objects(source):
            if not isinstance(entry, dict):
                raise source.refusal(place, entry)
            yield entry
        return
    lines = delimited.records(source, "\t" if format_ == "tsv" else None, quotes=format_ == "csv")
    number, first = next(lines, (1, list[str]()))
    if isinstance(first, ValueError):
        raise source.refusal(number, first)
    names = [name.strip() or f"column{number}" for number, name in enumerate(first, start=1)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise source.refusal(number, f"column {shown(twice[0])} appears twice; give every column its own name")
    for number, cells in lines:
        if isinstance(cells, ValueError):
            raise source.refusal(number, cells)
        yield dict(zip(names, (cell or None for cell in cells), strict=True))


def _typed(source: Source, name: str, column: list[Any], type_: str) -> pa.Array:
    try:
        return pa.array([column_value(value, type_) for value in column], pa.type_for_alias(type_))
    except ValueError as error:
        raise UserError(f"{source.name}: column {shown(name)}: {error}") from None
