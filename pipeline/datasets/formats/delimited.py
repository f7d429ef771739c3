"""Reads CSV and TSV. The first line names the columns, and every value is text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.mapping import Columns, header_columns, row_of
from pipeline.datasets.formats.source import MAX_LINE_BYTES, Source
from pipeline.datasets.formats.values import kind_of_text, number_in

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_REMEDIES = {
    True: "write one for every column, or set dataset.quotes=false if quotes are part of the text",
    False: "write one for every column, or set dataset.quotes=true if quotes enclose values",
}
_NUMBERS = ("start", "end", "duration", "channel")


def listing(source: Source, columns: Columns, delimiter: str | None, quotes: bool) -> Listing:
    """Return the list in a CSV or TSV file.

    Args:
        source: The file.
        columns: The meaning of the columns.
        delimiter: The delimiter between values; `None` takes the most frequent of `DELIMITERS` in the first line.
        quotes: Whether `"` encloses a value that contains delimiters or line breaks.
    """

    def rows() -> Iterator[Row]:
        lines = records(source, delimiter, quotes, _REMEDIES[quotes])
        _, header = next(lines, (1, []))
        if not header:
            return
        roles = header_columns(columns, header, source.name)
        for number, cells in lines:
            record: dict[str, object] = {name: cell or None for name, cell in zip(header, cells, strict=True)}
            for role in _NUMBERS:
                if role in roles:
                    cell = record[roles[role]]
                    record[roles[role]] = number_in(cell.strip()) if isinstance(cell, str) else None
            try:
                yield row_of(record, roles)
            except ValueError as error:
                raise source.refusal(number, error) from None

    return Listing(rows, kind=kind_of_text)


def records(
    source: Source, delimiter: str | None, quotes: bool, remedy: str = "restore the list"
) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and every row, each as the number of its first line and its values.

    Args:
        source: The file.
        delimiter: As in `listing`.
        quotes: As in `listing`.
        remedy: What a user can do about a line that cannot be read; part of the message.

    Raises:
        UserError: A row has more or fewer values than the header, a quote never ends, or the file cannot be read.
    """
    lines = source.lines()
    first = next(lines, None)
    if first is None:
        return
    if delimiter is None:
        delimiter = max(DELIMITERS.values(), key=first[1].count)
    # A reference for twelve hours of speech is longer than the 128 kB that the csv module allows by default. The limit
    # holds for the whole process.
    csv.field_size_limit(MAX_LINE_BYTES)
    texts = (text for _, text in chain([first], lines))
    if quotes:
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(texts, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    width = 0
    number = 1
    try:
        for cells in reader:
            if cells:
                width = width or len(cells)
                if len(cells) != width:
                    raise source.refusal(number, f"{len(cells)} values instead of {width}; {remedy}")
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise source.refusal(number, f"cannot be read as delimited text ({error}); {remedy}") from None
