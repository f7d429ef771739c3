"""Reads CSV and TSV, with or without a line that names the columns. Every value is text.

Lines are read in blocks. Arrow reads a block whose lines it takes for the same values as the module `csv`; that module
reads any other block.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import chain, islice
from typing import TYPE_CHECKING

from pipeline.datasets import is_recording
from pipeline.datasets.formats import Batch, Listing, Row
from pipeline.datasets.formats.mapping import ROLES, Columns, is_usual, roles_in, row_of
from pipeline.datasets.formats.source import MAX_LINE_BYTES, Source, line
from pipeline.datasets.formats.values import shown
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_LINES = 4096
Record = tuple[int, list[str] | ValueError]
"""The number of the first line of a row, and its values, or why it has none."""
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

    def row(number: int, cells: list[str] | ValueError) -> Row:
        if isinstance(cells, ValueError):
            return Row.wrong(line(number), cells)
        return row_of(line(number), {name: cell or None for name, cell in zip(names, cells, strict=True)}, roles)

    def rows() -> Iterator[Row]:
        lines = records(source, delimiter, quotes, _REMEDIES[quotes])
        return (row(*each) for each in islice(lines, int(has_header), None))

    def batches() -> Iterator[Batch]:
        opened = _open(source, delimiter, quotes, _REMEDIES[quotes])
        assert opened is not None
        dialect, lines = opened
        if has_header:
            next(dialect.records(lines))
        while block := list(islice(lines, _BLOCK_LINES)):
            columns = dialect.columns(block, names)
            if columns is not None:
                yield Batch(columns, partial(_rows_of, partial(dialect.records, block, len(names)), row))
                continue
            found = list(dialect.records_of_block(block, lines, len(names)))
            yield Batch(None, partial(_rows_of, partial(iter, found), row))

    opened = _open(source, delimiter, quotes, "")
    by_columns = opened is not None and opened[0].delimiter.isascii() and not opened[0].skips_blanks
    return Listing(rows, roles=roles, batches=batches if by_columns else None)


def _rows_of(read: Callable[[], Iterator[Record]], row: Callable[[int, list[str] | ValueError], Row]) -> Iterator[Row]:
    return (row(*each) for each in read())


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


def records(source: Source, delimiter: str | None, quotes: bool, remedy: str = "restore the list") -> Iterator[Record]:
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
    opened = _open(source, delimiter, quotes, remedy)
    if opened is not None:
        dialect, lines = opened
        yield from dialect.records(lines)


def _open(
    source: Source, delimiter: str | None, quotes: bool, remedy: str
) -> tuple[_Dialect, Iterator[tuple[int, str]]] | None:
    """Return how a list is written, and its lines from the first that is not blank; `None` if there is none."""
    lines = source.lines()
    first = _first_of(lines)
    if first is not None and (named := _EXCEL.fullmatch(first[1].rstrip("\r\n"))):
        delimiter = delimiter or named[1]
        first = _first_of(lines)
    if first is None:
        return None
    delimiter = delimiter or _delimiter_in(first[1])
    skips_blanks = 0 < first[1].count(delimiter) == first[1].count(f"{delimiter} ")
    return _Dialect(source, delimiter, quotes, skips_blanks, remedy), chain([first], lines)


@dataclass(frozen=True)
class _Dialect:
    """How a list is written. `skips_blanks`: a blank after each delimiter belongs to the delimiter."""

    source: Source
    delimiter: str
    quotes: bool
    skips_blanks: bool
    remedy: str

    def records(self, lines: Iterable[tuple[int, str]], width: int = 0) -> Iterator[Record]:
        """Yield the rows of some lines as `records` does; the first row says how many values a row has, or `width`.

        No line is taken from `lines` before it is needed.
        """
        # A reference for twelve hours of speech is longer than the 128 kB that the csv module allows by default. The
        # limit holds for the whole process.
        csv.field_size_limit(MAX_LINE_BYTES)
        numbers: list[int] = []
        reader = csv.reader(
            (numbers.append(number) or text for number, text in lines),  # type: ignore[func-returns-value]
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
            skipinitialspace=self.skips_blanks,
            strict=self.quotes,
        )
        while True:
            numbers.clear()
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
                yield numbers[0], cells
            elif not width or len(numbers) > 1:
                raise self.source.refusal(numbers[0], f"{wrong}; {self.remedy}")
            else:
                yield numbers[0], ValueError(f"{wrong}; {self.remedy}")

    def records_of_block(
        self, block: Sequence[tuple[int, str]], further: Iterator[tuple[int, str]], width: int
    ) -> Iterator[Record]:
        """Yield the rows that begin in a block of lines. The last row may end in `further`, the lines after it."""
        taken = 0

        def lines() -> Iterator[tuple[int, str]]:
            nonlocal taken
            for each in chain(block, further):
                taken += 1
                yield each

        found = self.records(lines(), width)
        while taken < len(block) and (record := next(found, None)) is not None:
            yield record

    def columns(self, block: Sequence[tuple[int, str]], names: Sequence[str]) -> pa.RecordBatch | None:
        """Return the rows of a block as columns of texts; `None` if Arrow may read it otherwise than `records`."""
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import csv as arrow

        text = "".join(each for _, each in block)
        if "\0" in text or text.count("\r") != text.count("\r\n"):
            return None
        if self.quotes and '"' in text:
            delimiter = rf"\x{{{ord(self.delimiter):x}}}"
            value = rf'(?:[^"{delimiter}\r\n]*|"(?:[^"\r\n]|"")*")'
            each = rf"^{value}(?:{delimiter}{value})*\r?\n?$"
            if not pc.all(pc.match_substring_regex(pa.array([line_ for _, line_ in block]), each)).as_py():
                return None
        data = text.encode()
        try:
            table = arrow.read_csv(
                pa.BufferReader(data),
                arrow.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(names)),
                arrow.ParseOptions(
                    delimiter=self.delimiter, quote_char='"' if self.quotes else False, ignore_empty_lines=False
                ),
                arrow.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
                ),
            )
        except pa.ArrowInvalid:
            return None
        batches = table.combine_chunks().to_batches()
        if len(table) != len(block) or len(batches) != 1 or _has_blank_row(batches[0]):
            return None
        return batches[0]


def _has_blank_row(batch: pa.RecordBatch) -> bool:
    import pyarrow.compute as pc

    return bool(pc.any(reduce(pc.and_, map(pc.is_null, batch.columns))).as_py())


def _first_of(lines: Iterator[tuple[int, str]]) -> tuple[int, str] | None:
    """Return the next line that is not blank."""
    return next(((number, text) for number, text in lines if text.strip()), None)


def _delimiter_in(line: str) -> str:
    """Return the delimiter of a line. Transcripts have commas and semicolons, but hardly ever tabs or pipes."""
    rare = [delimiter for delimiter in "\t|" if delimiter in line]
    return rare[0] if rare else max(",;", key=line.count)
