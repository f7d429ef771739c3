"""Goes through a list once, to find the types of its columns and the folder that its recordings have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.audio.archives.members import unpacked
from pipeline.datasets.formats import Listing
from pipeline.datasets.formats.opening import LOOKED_AT, Values
from pipeline.runtime.places import common_folder, is_absolute, is_below, is_url

if TYPE_CHECKING:
    from pipeline.datasets.formats.columnar import ColumnReader


@dataclass(frozen=True)
class Scan:
    """The result of one pass over a list.

    Attributes:
        common: The deepest folder that contains all absolute paths outside the folder that relative paths refer to.
        types: The Arrow type of every column by name.
        hint: Which column may hold references, and what to do, if the format lets a user choose the column.
    """

    common: str
    types: dict[str, str]
    hint: str


def scan_rows(listing: Listing, folder: str, check: Callable[[str], None]) -> Scan:
    """Go through the rows of a list.

    Args:
        listing: The list.
        folder: The folder that relative paths refer to.
        check: Called with the first path, if the list does not tell which folder is meant.
    """
    common: str | None = None
    values = Values()
    unchecked = listing.from_anywhere
    for row in listing.rows():
        if unchecked and row.error is None:
            unchecked = False
            check(row.path)
        path = unpacked(row.path)
        if is_absolute(path) and not is_below(path, folder):
            parent = os.path.dirname(path if is_url(path) else os.path.normpath(path))
            common = parent if common is None else common_folder([common, parent])
        values.add(row.extras)
    common = folder if common is None else common
    return Scan(common, values.types(listing.types), values.hint() if listing.roles else "")


def scan_columns(listing: Listing, reader: ColumnReader) -> Scan:
    """Go through the columns of a list until all their types are known, without an object for each usual row.

    `common` is not looked for.
    """
    from pipeline.datasets.formats.columnar import kinds_in  # loads Arrow

    assert listing.batches is not None
    values = Values()
    for row in islice(listing.rows(), LOOKED_AT):
        values.add(row.extras)
    known = {*listing.roles.values(), *listing.types}
    for batch in listing.batches():
        if batch.columns is not None:
            names = batch.columns.schema.names
            undecided = [name for name in names if name not in known and not values.is_text(name)]
            if not undecided:
                break
            if reader.read(batch.columns, {}) is not None:
                for name in undecided:
                    values.add_kinds(name, kinds_in(batch.columns[name]))
                continue
        for row in batch.rows():
            values.add(row.extras)
    return Scan("", values.types(listing.types), values.hint())
