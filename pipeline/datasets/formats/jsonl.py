"""Reads lists of JSON objects as NVIDIA NeMo, Hugging Face and others write them, also gzipped.

{"audio_filepath": "calls/a.wav", "duration": 3.6, "offset": 12.3, "text": "good morning", "caller": 7}
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.json_objects import objects
from pipeline.datasets.formats.mapping import Columns, roles_in, row_of
from pipeline.datasets.formats.source import Source


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

    def rows() -> Iterator[Row]:
        for place, entry in objects(source):
            yield row_of(place, entry, roles) if isinstance(entry, dict) else Row.wrong(place, entry)

    return Listing(rows, roles=roles)
