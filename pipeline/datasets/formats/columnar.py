"""Reads the rows of a list as columns, which takes a tenth of the time of a Python object for each row.

A batch is read so only if every value in it is as usual. The rows of any other batch are read one by one, with the same
results, because what is unusual may need a warning, an error or another spelling.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.datasets.formats.values import MAX_CHANNEL, MAX_SECONDS, MAX_TEXT_BYTES, kind_of

# What `values.path` refuses, and what `Dataset._find` and `resolve_path` look for on disk.
_UNUSUAL_PATH = r"^[\s${<]|\s$|[\x00-\x1f\\%]|^[A-Za-z][A-Za-z0-9+.-]+://"
_SECONDS = r"^[0-9]{1,9}(\.[0-9]{1,15})?$"
"""Usual spellings of a time, which Arrow and Python read as the same number."""
_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))
"""Characters that `str.strip` removes. The last one is U+3000."""


class _UnusualError(Exception):
    """A value must be read by itself."""


class UtteranceColumns(NamedTuple):
    """Utterances as columns.

    Attributes:
        known: The columns `id`, `path`, `reference`, `start_s`, `end_s`, `channel` and `duration_s` of an `Utterance`.
        own: The dataset's own columns by name.
    """

    known: pa.RecordBatch
    own: Mapping[str, pa.Array]


class ColumnReader:
    """Reads batches of a list whose rows say their ids and durations."""

    def __init__(self, roles: Mapping[str, str], folder: str) -> None:
        """Read nothing yet. See `of` for the arguments."""
        self._roles = roles
        self._folder = os.path.join(folder, "")

    @classmethod
    def of(cls, roles: Mapping[str, str], folder: str) -> ColumnReader | None:
        """Return a reader of a list; `None` if its rows have no ids, or its folder an unusual name.

        Args:
            roles: The columns of the list by their role.
            folder: The folder that relative paths are relative to.
        """
        usual = folder.isascii() and "%" not in folder
        return cls(roles, folder) if usual and {"id", "path"} <= {*roles} else None

    def read(self, batch: pa.RecordBatch, types: Mapping[str, str]) -> UtteranceColumns | None:
        """Return the utterances of a batch; `None` if a value is unusual.

        Args:
            batch: Rows of the list.
            types: The Arrow type of each own column by name.
        """
        try:
            start_s, end_s, duration_s = self._times(batch)
            columns = {
                "id": self._required(batch, "id"),
                "path": self._path(batch),
                "start_s": start_s,
                "end_s": end_s,
                "duration_s": duration_s,
                "reference": self._reference(batch),
                "channel": self._channel(batch),
            }
            own = {name: _own(batch[name], type_) for name, type_ in types.items()}
        except _UnusualError:
            return None
        return UtteranceColumns(pa.RecordBatch.from_pydict(columns), own)

    def _required(self, batch: pa.RecordBatch, role: str) -> pa.Array:
        column = _text(batch[self._roles[role]])
        if column.null_count or pc.any(pc.equal(column, "")).as_py():
            raise _UnusualError
        return column

    def _path(self, batch: pa.RecordBatch) -> pa.Array:
        path = self._required(batch, "path")
        if (
            not pc.all(pc.string_is_ascii(path)).as_py()
            or pc.any(pc.match_substring_regex(path, _UNUSUAL_PATH)).as_py()
        ):
            raise _UnusualError
        return pc.if_else(pc.starts_with(path, "/"), path, pc.binary_join_element_wise(self._folder, path, ""))

    def _reference(self, batch: pa.RecordBatch) -> pa.Array:
        if "text" not in self._roles:
            return pa.nulls(len(batch), pa.string())
        column = pc.utf8_trim(_text(batch[self._roles["text"]]), _BLANKS)
        return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)

    def _channel(self, batch: pa.RecordBatch) -> pa.Array:
        if "channel" not in self._roles:
            return pa.nulls(len(batch), pa.int16())
        column = batch[self._roles["channel"]]
        if pa.types.is_null(column.type):
            return column.cast(pa.int16())
        if pa.types.is_string(column.type):
            column = _number(column, r"^[1-9][0-9]{0,4}$", pa.int32())
        if not pa.types.is_integer(column.type) or not _within(column, 1, MAX_CHANNEL):
            raise _UnusualError
        return column.cast(pa.int16())

    def _times(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Return start, end and duration in seconds."""
        start, end, duration = (_seconds(batch, self._roles.get(role)) for role in ("start", "end", "duration"))
        start = pc.if_else(pc.and_(pc.is_null(start), pc.is_valid(end)), 0.0, start)
        end = pc.coalesce(end, pc.add(start, duration))
        length = pc.if_else(pc.is_null(start), duration, pc.subtract(end, start))
        if length.null_count or not pc.all(pc.greater(length, 0.0)).as_py():
            raise _UnusualError
        return start, end, length


def kinds_in(column: pa.Array) -> set[str]:
    """Return the kinds of the texts of a column, as `kind_of` names them."""
    return {kind_of(value) for value in column.unique().to_pylist()}


def _seconds(batch: pa.RecordBatch, name: str | None) -> pa.Array:
    if name is None or pa.types.is_null(batch[name].type):
        return pa.nulls(len(batch), pa.float64())
    column = batch[name]
    if pa.types.is_string(column.type):
        column = _number(column, _SECONDS, pa.float64())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise _UnusualError
    column = column.cast(pa.float64(), safe=False)
    if not _within(column, 0, MAX_SECONDS):
        raise _UnusualError
    return column


def _within(column: pa.Array, least: float, most: float) -> bool:
    """Whether all values are from `least` to `most`, nulls left out. NaN is not."""
    values = column.drop_null().to_numpy()
    return bool(np.all((values >= least) & (values <= most)))


def _number(column: pa.Array, spelling: str, type_: pa.DataType) -> pa.Array:
    """Return the numbers that texts spell."""
    if not pc.all(pc.match_substring_regex(column, spelling)).as_py() and column.null_count < len(column):
        raise _UnusualError
    return column.cast(type_)


def _text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.string())
    if not pa.types.is_string(column.type) or (pc.max(pc.binary_length(column)).as_py() or 0) > MAX_TEXT_BYTES:
        raise _UnusualError
    return column


def _own(column: pa.Array, type_: str) -> pa.Array:
    """Return an own column as `values.column_value` converts its values."""
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.type_for_alias(type_))
    if pa.types.is_boolean(column.type) and type_ not in ("bool", "string"):
        raise _UnusualError
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return column.cast(pa.type_for_alias(type_))
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column).cast(pa.float64())
    text = _text(column)
    if type_ == "string":
        return text
    if type_ == "bool":
        raise _UnusualError
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text).cast(pa.type_for_alias(type_))
