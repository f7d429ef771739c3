"""Reads lists of JSON objects as NVIDIA NeMo, Hugging Face and others write them, also gzipped.

{"audio_filepath": "calls/a.wav", "duration": 3.6, "offset": 12.3, "text": "good morning", "caller": 7}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.datasets.formats import Batch, Listing, Row
from pipeline.datasets.formats.json_objects import is_document, objects
from pipeline.datasets.formats.mapping import Columns, roles_in, row_of
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import WrittenFloat, written

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_ROWS = 4096
Entry = tuple[str, dict[str, Any] | ValueError]
"""The place of an object, and the object, or why there is none."""


def listing(source: Source, columns: Columns) -> Listing:
    """Return the list in a file of JSON objects; `columns` gives the meaning of the keys.

    Raises:
        UserError: The file cannot be read, or no line is an object with the path of a recording.
    """
    # A key may be missing in some lines, so the keys of all lines together are the columns.
    keys: dict[str, None] = {}
    wrong = None
    for place, entry in objects(source):
        if isinstance(entry, dict):
            keys |= dict.fromkeys(entry)
        else:
            wrong = wrong or source.refusal(place, entry)
    if not keys:
        if wrong:
            raise wrong
        return Listing(lambda: iter(()))
    roles = roles_in(columns, list(keys), source.name)

    def row(place: str, entry: dict[str, Any] | ValueError) -> Row:
        return row_of(place, entry, roles) if isinstance(entry, dict) else Row.wrong(place, entry)

    def rows() -> Iterator[Row]:
        return (row(*each) for each in objects(source))

    def batches() -> Iterator[Batch]:
        found = objects(source)
        while block := list(islice(found, _BLOCK_ROWS)):
            yield Batch(_columns(block, list(keys), roles["path"]), partial(_rows_of, block, row))

    return Listing(rows, roles=roles, batches=None if is_document(source) else batches)


def _rows_of(block: Sequence[Entry], row: Callable[[str, dict[str, Any] | ValueError], Row]) -> Iterator[Row]:
    return (row(*each) for each in block)


def _columns(block: Sequence[Entry], keys: Sequence[str], path: str) -> pa.RecordBatch | None:
    """Return the values of some objects as columns; `None` if one has another kind of value, such as a list.

    Numbers become texts in their spelling, because that decides the type of an own column.
    """
    import pyarrow as pa

    entries = [entry for _, entry in block if isinstance(entry, dict)]
    if len(entries) < len(block):
        return None
    columns = []
    for key in keys:
        values = [entry.get(key) for entry in entries]
        kinds = {*map(type, values)} - {type(None)}
        if kinds == {bool}:
            columns.append(pa.array(values, pa.bool_()))
            continue
        if not kinds <= ({str} if key == path else {str, int, WrittenFloat}):
            return None
        if kinds - {str}:
            values = [None if value is None else written(value) for value in values]
        try:
            columns.append(pa.array(values, pa.string()))
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
    return pa.RecordBatch.from_arrays(columns, names=list(keys))
