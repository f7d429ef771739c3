"""Stage `compact`: copy the rows of many shards into few large files, sorted by id."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError, naming
from pipeline.runtime.terminal import counted
from pipeline.storage import tables
from pipeline.storage.commits import IN_PARTS, CommittedShard
from pipeline.storage.compacted import SHARDS, CompactedRecord
from pipeline.storage.files import StoredTable
from pipeline.storage.layouts import ARRAY_TABLES
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import own_columns

_GROUP_BYTES = 2**24
"""Size in memory of a row group, about."""
_PART_BYTES = 2**28
"""Size in memory of the rows that are sorted at once."""


def compact(
    directory: RunDirectory,
    records: Mapping[int, CommittedShard],
    names: Sequence[str],
    tell: Callable[[str], None] = lambda what: None,
    by: str | None = None,
) -> str:
    """Write the compacted files that are missing or whose shards have changed.

    Args:
        directory: The run, locked by this process.
        records: The committed shards, by shard.
        names: The tables to compact. One that no shard has is left out.
        tell: Called with what is done.
        by: A column of the dataset that the rows are sorted by before their ids, in the tables that have the column.

    Returns:
        What was written, in one line.

    Raises:
        UserError: A file of a shard cannot be read, or the dataset has no such column.
    """
    if by is not None and by not in (own := [each.name for each in own_columns(directory.manifest.schema())]):
        listed = ", ".join(own) or "none"
        raise UserError(f"compact.by={by}: the dataset has no column {by!r}; its own columns are {listed}")
    written, there = 0, 0
    for name in names:
        table = directory.compacted(name)
        planned = table.plan(records)
        for first, record in planned.items():
            there += 1
            record = replace(record, by=by if name == "transcripts" and by else "")
            done = table.record(first)
            if done is None or done.by != record.by or not table.is_made_of(first, record):
                tell(f"compacting {name}: {there:,} of {counted(len(planned), 'file')}")
                _write(directory, name, first, record)
                written += 1
        for first in {*table.files()} - {*planned}:
            table.remove(first)
    folders = ", ".join(f"compacted-{name}" for name in names)
    return f"{counted(there, 'file')} in {folders}, {written:,} of them written now"


def _write(directory: RunDirectory, name: str, first: int, record: CompactedRecord) -> None:
    folder = directory.new_staging(first)
    path = folder / f"{name}.parquet"
    try:
        with naming(path):
            merge([directory.stored(source) for source in record.sources], path, name, record.shards, record.by)
        directory.check_in_place()
        directory.compacted(name).commit(first, record, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def merge(sources: Sequence[StoredTable], path: Path, name: str, shards: Sequence[int] = (), by: str = "") -> None:
    """Write the rows of several files of a table into one, sorted by id, with an index of the ids.

    The rows are sorted in parts that fit into memory, and the sorted parts are merged. So each row is read twice, in
    whatever order the ids are. Memory holds one part, and then a small row group of each part and the ids of all rows.

    Args:
        sources: The files, whose schemas may differ in the dataset's own columns.
        path: The file to write. The parts are written beside it.
        name: Name of the table.
        shards: The shards that the files belong to. The metadata of the file list them.
        by: A column that the rows are sorted by before their ids; empty for none.

    Raises:
        UserError: A file cannot be read.
        OSError: The file cannot be written.
    """
    schemas = []
    for source in sources:
        with source.readable():
            schemas.append(source.schema())
    schema = pa.unify_schemas([each.remove_metadata() for each in schemas], promote_options="permissive")
    metadata = {**tables.metadata_of(schemas[-1]), SHARDS: list(shards)}
    values = ARRAY_TABLES[name].values if name in ARRAY_TABLES else None
    keys = [
        *([by] if by else []),
        *(["layer"] if name == "features" else []),
        "id",
        *(["part"] if name in IN_PARTS else []),
    ]
    merged = _Merged(list(_sorted_parts(sources, schema, keys, path)), schema, keys)
    sorting = pq.SortingColumn.from_ordering(schema, [(key, "ascending") for key in keys])
    # Readers that know Bloom filters, such as DuckDB, skip row groups by them, also where ids are not in the order of
    # the shards.
    blooms = {"id": {"ndv": merged.rows_of_piece, "fpp": 0.01}}
    options = {"sorting_columns": sorting, "write_page_index": True, "bloom_filter_options": blooms}
    with tables.open_writer(path, schema, metadata, values, options) as writer:
        for piece in merged.pieces():
            writer.write_table(piece, row_group_size=max(1, len(piece)))


def _sorted_parts(sources: Sequence[StoredTable], schema: pa.Schema, keys: Sequence[str], path: Path) -> Iterator[Path]:
    """Write the rows of several files into files beside `path`, each of them sorted, and yield their paths."""
    held: list[pa.Table] = []
    part = 0
    for table in chain(_row_groups(sources, schema), [None]):
        if held and (table is None or sum(each.nbytes for each in held) + table.nbytes > _PART_BYTES):
            whole = pa.concat_tables(held).combine_chunks()
            held = []
            whole = whole.take(pc.sort_indices(whole, sort_keys=[(key, "ascending") for key in keys]))
            there = path.with_name(f"part-{part}.parquet")
            rows = max(1, _GROUP_BYTES // 4 * len(whole) // max(1, whole.nbytes))
            pq.write_table(whole, there, row_group_size=rows, compression="lz4", write_statistics=False)
            yield there
            part += 1
        if table is not None and len(table):
            held.append(table)


def _row_groups(sources: Sequence[StoredTable], schema: pa.Schema) -> Iterator[pa.Table]:
    for source in sources:
        with source.readable(), source.open() as file:
            groups = file.metadata.num_row_groups
        for group in range(groups):
            with source.readable(), source.open() as file:
                table = file.read_row_group(group)
            yield pa.table({each.name: _column(table, each) for each in schema}, schema=schema)


class _Merged:
    """The rows of several sorted files, in the order of their keys.

    Attributes:
        rows_of_piece: The most rows of a piece.
    """

    def __init__(self, parts: Sequence[Path], schema: pa.Schema, keys: Sequence[str]) -> None:
        self._files = [pq.ParquetFile(part) for part in parts]
        self._schema = schema
        self._held: dict[int, tuple[int, pa.Table]] = {}
        found, places = [schema.empty_table().select(keys)], [np.empty((0, 3), np.int32)]
        for index, file in enumerate(self._files):
            found.append(file.read(columns=list(keys)).cast(found[0].schema))
            for group in range(file.metadata.num_row_groups):
                place = np.empty((file.metadata.row_group(group).num_rows, 3), np.int32)
                place[:, 0], place[:, 1], place[:, 2] = index, group, np.arange(len(place))
                places.append(place)
        ids = pa.concat_tables(found)
        order = pc.sort_indices(ids, sort_keys=[(key, "ascending") for key in keys])
        self._order = np.asarray(order.to_numpy(), dtype=np.int64)
        self._places = np.concatenate(places)
        self._layers = np.asarray(ids["layer"].to_numpy()) if "layer" in keys else None
        first = self._group(0, 0) if self._files else schema.empty_table()
        self.rows_of_piece = max(1, _GROUP_BYTES * len(first) // max(1, first.nbytes))

    def pieces(self) -> Iterator[pa.Table]:
        """Yield the rows in pieces, each a row group. A piece of features has one layer."""
        cuts = [0, len(self._order)]
        if self._layers is not None:
            cuts = [0, *(np.flatnonzero(np.diff(self._layers[self._order])) + 1).tolist(), len(self._order)]
        for start, stop in pairwise(cuts):
            for first in range(start, stop, self.rows_of_piece):
                yield self._piece(self._order[first : min(stop, first + self.rows_of_piece)])

    def _piece(self, order: NDArray[np.int64]) -> pa.Table:
        places = self._places[order]
        distinct, member = np.unique(places[:, :2], axis=0, return_inverse=True)
        member = member.reshape(-1)
        read, positions = [], []
        for number, (part, group) in enumerate(distinct.tolist()):
            mine = np.flatnonzero(member == number)
            read.append(self._group(part, group).take(pa.array(places[mine, 2])))
            positions.append(mine)
        table = pa.concat_tables(read).combine_chunks()
        return table.take(pa.array(np.argsort(np.concatenate(positions))))

    def _group(self, part: int, group: int) -> pa.Table:
        """Return a row group of a part, which stays in memory until another one of the part is read."""
        if part not in self._held or self._held[part][0] != group:
            self._held.pop(part, None)
            self._held[part] = group, self._files[part].read_row_group(group).cast(self._schema).combine_chunks()
        return self._held[part][1]


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.schema.names:
        return pa.chunked_array([pa.nulls(len(table), field.type)])
    return table[field.name].cast(field.type)
