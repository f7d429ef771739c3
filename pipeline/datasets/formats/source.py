"""Reads one file of a list line by line, gzipped or not. Every error names the file and the line."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import BufferedIOBase, TextIOWrapper

from pipeline.runtime.errors import UserError
from pipeline.runtime.remote_files import open_buffered

MAX_LINE_BYTES = 2**26
"""64 MB. A file with a longer line is not a list, and must not fill the memory."""

_AFTER_OLD_END = re.compile(rb"(?<=\r)(?![\r\n])")


@dataclass(frozen=True)
class Source:
    """A file and its name in messages.

    Attributes:
        path: The path to open.
        name: The name in messages, such as `dataset.path=list.csv`.
        encoding: The encoding of lines that are not UTF-8; `None` refuses them.
    """

    path: str
    name: str
    encoding: str | None = None

    def beside(self, path: str, name: str) -> Source:
        """Return another file of the same list."""
        return replace(self, path=path, name=name)

    def refusal(self, place: int | str, reason: object) -> UserError:
        """Return the error for a wrong line; `place` is its number, or says where else the mistake is."""
        return UserError(f"{self.name}: {place if isinstance(place, str) else line(place)}: {reason}")

    def raw_lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the bytes of every line, with its line ending. UTF-16 comes as UTF-8.

        Raises:
            UserError: The file cannot be read, or a line is longer than `MAX_LINE_BYTES`.
        """
        try:
            with open_buffered(self.path) as raw:
                gzipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                with gzip.GzipFile(fileobj=raw) if gzipped else nullcontext(raw) as file:
                    yield from self._lines_of(file)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.name}: no such file; give the path of a list") from None
        except (OSError, EOFError, UnicodeError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.name}: cannot be read ({reason}); restore it") from None

    def _lines_of(self, file: BufferedIOBase) -> Iterator[tuple[int, bytes]]:
        mark = file.read(2)
        file.seek(0)
        wide = "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else self.encoding
        if _is_wide(wide):
            lines = TextIOWrapper(file, wide, newline="\n")  # type: ignore[type-var]  # GzipFile has what is needed
            encoded = (text.encode() for text in iter(lambda: lines.readline(MAX_LINE_BYTES), ""))
        else:
            encoded = (raw for raw in iter(lambda: file.readline(MAX_LINE_BYTES), b""))
        for number, line in enumerate(_without_old_line_ends(encoded), start=1):
            if len(line) >= MAX_LINE_BYTES:
                raise self.refusal(number, "longer than 64 MB; give a list with a recording in each line")
            yield number, line

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of every line, with its line ending.

        Raises:
            UserError: As `raw_lines`, or a line is not UTF-8.
        """
        for number, line in self.raw_lines():
            yield number, self.text(number, line)

    def text(self, number: int, line: bytes) -> str:
        """Decode a line.

        Raises:
            UserError: The line is neither UTF-8 nor in the encoding that the user names.
        """
        try:
            # A byte order mark begins the first line, or a later one if files were joined.
            text = decoded(line, None if _is_wide(self.encoding) else self.encoding).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            # The lists of single corpora have no such key.
            named = ", or name its encoding with dataset.encoding=, such as cp1252"
            remedy = f"save the list as UTF-8{named if self.name.startswith('dataset.') else ''}"
            bad = f"not {error.encoding.upper()} (byte {line[error.start]:#04x} after {error.start} bytes)"
            raise self.refusal(number, f"{bad}; {remedy}") from None
        if number == 1 and "\0" in text:
            named = f", or {utf16_remedy(text)}" if self.name.startswith("dataset.") else ""
            raise self.refusal(number, f"has NUL characters; save the list as UTF-8{named}")
        return text


def _without_old_line_ends(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file. If its first line has a carriage return inside, carriage returns end lines.

    Excel writes such files as "CSV (Macintosh)".
    """
    old = None
    for each in lines:
        if old is None:
            old = b"\r" in each.rstrip(b"\r\n")
        yield from filter(None, _AFTER_OLD_END.split(each)) if old else (each,)


def line(number: int) -> str:
    """Return the place of a line, for messages."""
    return f"line {number}"


def utf16_remedy(text: str) -> str:
    """Say which setting reads a text with NUL characters, if it is UTF-16 without a byte order mark."""
    order = "be" if text.startswith("\0") else "le"
    return f"set dataset.encoding=utf-16-{order} if it is UTF-16"


def decoded(data: bytes, encoding: str | None) -> str:
    """Decode text as UTF-8 where it is UTF-8, and otherwise in the encoding that the user names.

    Text in another encoding with letters beyond ASCII is practically never UTF-8, so one folder may hold both.

    Raises:
        UnicodeDecodeError: The text is in neither.
    """
    if encoding is None or not data.isascii():
        try:
            return data.decode()
        except UnicodeDecodeError:
            if encoding is None:
                raise
    return data.decode(encoding)


def _is_wide(encoding: str | None) -> bool:
    """Whether a line break takes more than one byte, as in UTF-16."""
    return encoding is not None and "\n".encode(encoding) != b"\n"


def check_encoding(encoding: str | None) -> None:
    """Check the value of `dataset.encoding`.

    Raises:
        UserError: Python knows no such encoding of text.
    """
    try:
        "\n".encode(encoding or "utf-8").decode(encoding or "utf-8")
    except (LookupError, UnicodeError):
        raise UserError(
            f"dataset.encoding={encoding}: no such encoding; give one that Python knows, such as cp1252 or utf-16-le"
        ) from None
