"""Reads one file of a list line by line, gzipped or not. Every error names the file and the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from pipeline.runtime.errors import UserError

MAX_LINE_BYTES = 2**26
"""64 MB. A file with a longer line is not a list, and must not fill the memory."""


@dataclass(frozen=True)
class Source:
    """A file and its name in messages.

    Attributes:
        path: The path to open.
        name: The name in messages, such as `dataset.path=list.csv`.
    """

    path: str
    name: str

    def refusal(self, place: int | str, reason: object) -> UserError:
        """Return the error for a wrong line; `place` is its number, or says where else the mistake is."""
        return UserError(f"{self.name}: {place if isinstance(place, str) else f'line {place}'}: {reason}")

    def raw_lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the bytes of every line, with its line ending.

        Raises:
            UserError: The file cannot be read, or a line is longer than `MAX_LINE_BYTES`.
        """
        try:
            with open(self.path, "rb") as raw:
                gzipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                with gzip.GzipFile(fileobj=raw) if gzipped else nullcontext(raw) as file:
                    number = 1
                    while line := file.readline(MAX_LINE_BYTES):
                        if len(line) == MAX_LINE_BYTES:
                            raise self.refusal(number, "longer than 64 MB; give a list with a recording in each line")
                        yield number, line
                        number += 1
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.name}: no such file; give the path of a list") from None
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.name}: cannot be read ({reason}); restore it") from None

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
            UserError: The line is not UTF-8.
        """
        try:
            # A byte order mark begins the first line, or a later one if files were joined.
            return line.decode().removeprefix("\ufeff")
        except UnicodeDecodeError:
            utf16 = number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff"))
            remedy = "save the list as UTF-8" if utf16 else "write the bytes of a file name that are not UTF-8 as %XX"
            raise self.refusal(number, f"not UTF-8; {remedy}") from None
