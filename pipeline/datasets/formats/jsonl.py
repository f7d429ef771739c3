"""Reads JSON lines as NVIDIA NeMo and others write them, also gzipped.

{"audio_filepath": "calls/a.wav", "duration": 3.6, "offset": 12.3, "text": "good morning", "caller": 7}
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.mapping import ROLES, Columns, json_keys, row_of
from pipeline.datasets.formats.source import Source
from pipeline.runtime.errors import UserError


def listing(source: Source, columns: Columns) -> Listing:
    """Return the list in a file of JSON lines; `columns` gives the meaning of the keys."""
    roles = json_keys(columns)
    # A default key may be missing in every line. A key that the user names must be in some line, or it is misspelt.
    named = {role for role in ROLES if getattr(columns, role)}

    def rows() -> Iterator[Row]:
        unseen = set(named)
        number = 0
        for number, entry in source.objects():
            try:
                yield row_of(entry, roles)
            except ValueError as error:
                raise source.refusal(number, error) from None
            unseen = {role for role in unseen if roles[role] not in entry}
        for role in sorted(unseen) if number else ():
            raise UserError(f"dataset.columns.{role}={roles[role]}: no line of {source.name} has this key; correct it")

    return Listing(rows)
