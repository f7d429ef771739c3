"""One file of a list, read a line at a time, gzipped or not; every mistake names the file and the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.errors import UserError

MAX_LINE_BYTES = 2**26
"""64 MB: what goes on for longer is no list, and must not fill the memory."""


@dataclass(frozen=True)
class Source:
    """A file, and what messages call it.

    Attributes:
        path: To open.
        name: Such as `dataset.path=list.csv`.
    """

    path: str
    name: str

    def refusal(self, number: int, reason: object) -> UserError:
        """The error for a line."""
        return UserError(f"{self.name}: line {number}: {reason}")

    def raw_lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of every line, with what ends it.

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
                            raise self.refusal(number, "longer than 64 MB; give a list")
                        yield number, line
                        number += 1
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.name}: no such file; give a list") from None
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.name}: cannot be read ({reason}); restore it") from None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Number and text of every line, with what ends it.

        Raises:
            UserError: As `raw_lines`, or a line is not UTF-8.
        """
        for number, line in self.raw_lines():
            yield number, self.text(number, line)

    def text(self, number: int, line: bytes) -> str:
        """The text of a line.

        Raises:
            UserError: It is not UTF-8.
        """
        try:
            return line.decode().removeprefix("\ufeff")  # of the first line, or of a file that was appended
        except UnicodeDecodeError:
            utf16 = number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff"))
            remedy = "save the list as UTF-8" if utf16 else "write bytes of a file name that are not as %XX"
            raise self.refusal(number, f"not UTF-8; {remedy}") from None

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and JSON object of every line that is not blank.

        Raises:
            UserError: As `lines`, or a line is no JSON object.
        """
        for number, line in self.lines():
            if line.strip():
                try:
                    yield number, parse_object(line)
                except ValueError as error:
                    raise self.refusal(number, error) from None


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that a text is.

    Raises:
        ValueError: It is none; with the reason.
    """
    try:
        entry = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(entry, dict):
        raise ValueError('not an object; expected is {"audio_filepath": ..., ...}')
    return entry


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
