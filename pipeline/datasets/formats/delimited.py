"""Reads CSV and TSV, with or without a line that names the columns. Every value is text."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from pipeline.datasets import is_recording
from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.mapping import ROLES, Columns, is_usual, roles_in, row_of
from pipeline.datasets.formats.source import MAX_LINE_BYTES, Source, line
from pipeline.datasets.formats.values import shown
from pipeline.runtime.errors import UserError

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
HEADERS = ("auto", "true", "false")
_REMEDIES = {
    True: "write one for every column, or set dataset.quotes=false if quotes are part of the text",
    False: "write one for every column, or set dataset.quotes=true if quotes enclose values",
}
_EXCEL = re.compile(r"\"?sep=(.)\"?", re.IGNORECASE)  # Excel's line for the delimiter, before the header


def listing(source: Source, columns: Columns, delimiter: str | None, quotes: bool, header: str = "auto") -> Listing:
    """Return the list in a CSV or TSV file.

    Args:
        source: The file.
        columns: The meaning of the columns.
        delimiter: The delimiter between values; `None` finds it in the first line.
        quotes: Whether `"` encloses a value that contains delimiters or line breaks.
        header: One of `HEADERS`: whether the first line names the columns. `auto` finds out.

    Raises:
        UserError: The file cannot be read, it is not clear whether the first line names the columns, or a column is not
            there.
    """
    _, first = next(records(source, delimiter, quotes, _REMEDIES[quotes]), (1, None))
    if not isinstance(first, list):
        return Listing(lambda: iter(()))
    has_header = _names_columns(first, columns, source) if header == "auto" else header == "true"
    if has_header:
        names = [name.strip() or f"column{number}" for number, name in enumerate(first, start=1)]
        remedy = ", or dataset.header=false if the first line is a recording" if header == "auto" else ""
        roles = roles_in(columns, names, source.name, remedy)
    else:
        names = [f"column{number}" for number in range(1, len(first) + 1)]
        roles = _numbered_roles(columns, names, first, source.name)

    def rows() -> Iterator[Row]:
        lines = records(source, delimiter, quotes, _REMEDIES[quotes])
        if has_header:
            next(lines, None)
        for number, cells in lines:
            if isinstance(cells, ValueError):
                yield Row.wrong(line(number), cells)
            else:
                record = {name: cell or None for name, cell in zip(names, cells, strict=True)}
                yield row_of(line(number), record, roles)

    return Listing(rows, roles=roles)


def _names_columns(first: Sequence[str], columns: Columns, source: Source) -> bool:
    """Whether the first line names the columns. A line with the name of a recording does not.

    Raises:
        UserError: The line may be either.
    """
    if any(map(is_recording, first)):
        return False
    given = [getattr(columns, role) for role in ROLES if getattr(columns, role)]
    if given and all(each.isdigit() and each not in first for each in given) and not any(map(is_usual, first)):
        raise source.refusal(
            1,
            f"{', '.join(map(shown, first[:40]))} may name the columns, or be a recording; "
            "set dataset.header=true or dataset.header=false",
        )
    return True


def _numbered_roles(columns: Columns, names: Sequence[str], first: Sequence[str], source_name: str) -> dict[str, str]:
    """Map each role to a column of a list without a header.

    The path is the only column whose first value ends like a recording; the other roles are the user's choice.

    Raises:
        UserError: A column is not there, or several or no columns may hold the path.
    """
    if columns.path is None:
        found = [name for name, cell in zip(names, first, strict=True) if is_recording(cell)]
        if len(found) != 1:
            many = " and ".join(found) + " both hold" if found else "no column seems to hold"
            raise UserError(
                f"{source_name}: has no header, and {many} the path of the recording; "
                f"set dataset.columns.path= to a number from 1 to {len(names)}"
            )
        columns = replace(columns, path=found[0])
    return roles_in(columns, names, f"{source_name} has no header, so it")


def records(
    source: Source, delimiter: str | None, quotes: bool, remedy: str = "restore the list"
) -> Iterator[tuple[int, list[str] | ValueError]]:
    """Yield the header and every row, each as the number of its first line and its values. Empty rows are left out.

    If a blank follows each delimiter of the first line, such blanks belong to the delimiters. A line with more or fewer
    values than the header, or with a quote in the wrong place, comes as an error instead of its values.

    Args:
        source: The file.
        delimiter: As in `listing`.
        quotes: As in `listing`.
        remedy: What a user can do about a line that cannot be read; part of the message.

    Raises:
        UserError: The first line cannot be read, or a wrong row goes over several lines, so that a quote may have
            swallowed rows; or the file cannot be read.
    """
    lines = source.lines()
    first = _first_of(lines)
    if first is not None and (named := _EXCEL.fullmatch(first[1].rstrip("\r\n"))):
        delimiter = delimiter or named[1]
        first = _first_of(lines)
    if first is None:
        return
    delimiter = delimiter or _delimiter_in(first[1])
    # A reference for twelve hours of speech is longer than the 128 kB that the csv module allows by default. The limit
    # holds for the whole process.
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(
        (text for _, text in chain([first], lines)),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        skipinitialspace=0 < first[1].count(delimiter) == first[1].count(f"{delimiter} "),
        strict=quotes,
    )
    width = 0
    before = first[0] - 1
    while True:
        number = before + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells, wrong = [], f"cannot be read as delimited text ({error})"
        else:
            if cells is None:
                return
            if not any(cells):
                continue
            width = width or len(cells)
            wrong = f"{len(cells)} values instead of {width}" if len(cells) != width else ""
        if not wrong:
            yield number, cells
        elif not width or before + reader.line_num > number:
            raise source.refusal(number, f"{wrong}; {remedy}")
        else:
            yield number, ValueError(f"{wrong}; {remedy}")


def _first_of(lines: Iterator[tuple[int, str]]) -> tuple[int, str] | None:
    """Return the next line that is not blank."""
    return next(((number, text) for number, text in lines if text.strip()), None)


def _delimiter_in(line: str) -> str:
    """Return the delimiter of a line. Transcripts have commas and semicolons, but hardly ever tabs or pipes."""
    rare = [delimiter for delimiter in "\t|" if delimiter in line]
    return rare[0] if rare else max(",;", key=line.count)
