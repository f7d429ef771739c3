"""Reads arrays of `emissions/` and `features/`, one row group at a time. Skips row groups without requested ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import and_

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.storage.files import StoredTable
from pipeline.storage.layouts import ArrayReader, ArrayTable
from pipeline.storage.tables import metadata_of


@dataclass(frozen=True)
class Part:
    """A row of a table: all frames of an utterance, or some of them if the utterance is very long.

    Attributes:
        id: Id of the utterance.
        start_frame: First frame, counted from the start of the utterance.
        values: `(frames, width)`, in the stored type.
    """

    id: str
    start_frame: int
    values: NDArray[np.floating]


def read_parts(
    stored: StoredTable, table: ArrayTable, ids: Sequence[str] | None, layer: int | None = None
) -> Iterator[Part]:
    """Yield the rows of one file, sorted by id. The parts of an utterance are in order.

    Memory holds one row group at a time.

    Args:
        stored: The file.
        table: The table that the file belongs to.
        ids: Ids to read, sorted; `None` for all.
        layer: Layer to read, for features.
    """
    wanted = [
        *([] if ids is None else [ds.field("id").isin(ids)]),
        *([] if layer is None else [ds.field("layer") == layer]),
    ]
    groups = stored.row_groups(reduce(and_, wanted)) if wanted else None
    with stored.open() as file:
        reader = ArrayReader(file.schema_arrow, metadata_of(file.schema_arrow), table)
        for group in range(file.num_row_groups) if groups is None else groups:
            yield from _parts(file.read_row_group(group), table, reader, None if ids is None else frozenset(ids), layer)


def _parts(
    rows: pa.Table, table: ArrayTable, reader: ArrayReader, ids: frozenset[str] | None, layer: int | None
) -> Iterator[Part]:
    layers = rows["layer"].to_pylist() if layer is not None else None
    for row, id_ in enumerate(rows["id"].to_pylist()):
        if (ids is None or id_ in ids) and (layers is None or layers[row] == layer):
            values = reader.array(rows[table.values], row, rows[table.width][row].as_py())
            yield Part(id_, rows["start_frame"][row].as_py(), values)


def read_arrays(
    stored: StoredTable, table: ArrayTable, ids: Sequence[str] | None, layer: int | None = None
) -> Iterator[tuple[str, NDArray[np.floating]]]:
    """Yield `(id, array)` for each utterance of a file. The arguments are those of `read_parts`."""
    for id_, parts in groupby(read_parts(stored, table, ids, layer), key=lambda part: part.id):
        yield id_, np.concatenate([part.values for part in parts])


def stretch(parts: Iterator[Part], start_frame: int, end_frame: int | None) -> NDArray[np.floating] | None:
    """Return the frames `start_frame` to `end_frame` (exclusive) of an utterance.

    Parts after these frames are not read.

    Args:
        parts: Parts of one utterance, in order.
        start_frame: First frame.
        end_frame: Frame after the last one; `None` for all.

    Returns:
        `(frames, width)`, or `None` if there are no parts.
    """
    found: list[NDArray[np.floating]] = []
    for part in parts:
        if found and end_frame is not None and part.start_frame >= end_frame:
            break
        last = None if end_frame is None else max(0, end_frame - part.start_frame)
        found.append(part.values[max(0, start_frame - part.start_frame) : last])
    return np.concatenate(found) if found else None


def log_probabilities(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-probabilities of an emission, `(frames, labels)`. Logits of different frames do not compare."""
    highest = values.max(axis=1, keepdims=True)
    return np.asarray(values - (highest + np.log(np.exp(values - highest).sum(axis=1, keepdims=True))))


def layers_of(files: Iterable[StoredTable]) -> tuple[int, ...]:
    """Return the layers of the first file of features that has rows. All files of a run have the same layers."""
    for stored in files:
        with stored.open() as file:
            found = {layer for group in range(file.num_row_groups) for layer in _layers(file, group)}
        if found:
            return tuple(sorted(found))
    return ()


def dim_of(files: Iterable[StoredTable]) -> int:
    """Return the dimension of the features of the first file that has rows; 0 if no file has rows."""
    for stored in files:
        with stored.open() as file:
            for group in range(file.num_row_groups):
                return int(file.read_row_group(group, ["dim"])["dim"][0].as_py())
    return 0


def _layers(file: pq.ParquetFile, group: int) -> set[int]:
    """The layers in a row group, from its statistics where it holds one layer."""
    column = file.metadata.row_group(group).column(file.schema_arrow.get_field_index("layer"))
    statistics = column.statistics
    if statistics is not None and statistics.has_min_max and statistics.min == statistics.max:
        return {statistics.min}
    return set(file.read_row_group(group, ["layer"])["layer"].to_pylist())
