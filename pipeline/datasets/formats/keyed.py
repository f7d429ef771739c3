"""Looks up single keys in files of `key value` lines with little memory, and finds repeated keys."""

from __future__ import annotations

import codecs
import os
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import BinaryIO

import numpy as np

from pipeline.datasets.formats.source import MAX_LINE_BYTES, Source
from pipeline.runtime.errors import UserError

# Only these separate fields. A transcript may contain other white space, such as a no-break space.
_BLANKS = " \t\r\n"
_FIELDS = re.compile(r"[ \t\r\n]+")


def fields(line: str, at_most: int = 0) -> list[str]:
    """Split a line at blanks into at most `at_most` parts (0: any number); the last part keeps the rest."""
    text = line.strip(_BLANKS)
    return _FIELDS.split(text, maxsplit=max(0, at_most - 1)) if text else []


class KeyedLines:
    """Looks up values by key in an uncompressed file, which need not be sorted.

    Memory holds 16 bytes per line: a hash of the key and the offset of the line. A value is read from the file when it
    is looked up.
    """

    def __init__(self, source: Source, file: BinaryIO) -> None:
        """Read the file once.

        Raises:
            UserError: The file cannot be read, its lines end in carriage returns alone, or a line is not UTF-8.
        """
        self._source = source
        self._file = file
        self._ambiguous: set[str] = set()
        hashes, offsets, offset = array("Q"), array("q"), 0
        for number, line in source.raw_lines():
            if number == 1 and line.endswith(b"\r"):  # a line is looked up by its line feed
                raise UserError(f"{source.name}: lines end in carriage returns alone; save it with line feeds")
            if key := fields(source.text(number, line), 2)[:1]:
                hashes.append(_hash(key[0]))
                offsets.append(offset)
            offset += len(line)
        unsorted = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        ordered = unsorted[order]
        # For a single key, `bisect` on an `array.array` is ten times faster than NumPy.
        self._hashes = array("Q", ordered.tobytes())
        self._offsets = array("q", np.frombuffer(offsets, dtype=np.int64)[order].tobytes())
        for index in np.flatnonzero(ordered[1:] == ordered[:-1]).tolist():
            first, second = self._line(index), self._line(index + 1)
            if first[0] == second[0] and first[1] != second[1]:
                self._ambiguous.add(first[0])

    def get(self, key: str) -> str | None:
        """Return the value of a key; an empty string if the line has only the key, `None` if there is no such key.

        Raises:
            ValueError: The key appears twice, with different values.
        """
        if key in self._ambiguous:
            raise ValueError(
                f"{key!r} appears twice in {os.path.basename(self._source.path)}; keep one of the two lines"
            )
        wanted = _hash(key)
        for index in range(bisect_left(self._hashes, wanted), len(self._hashes)):
            if self._hashes[index] != wanted:
                return None
            found, value = self._line(index)
            if found == key:
                return value
        return None

    def _line(self, index: int) -> tuple[str, str]:
        try:
            self._file.seek(self._offsets[index])
            parts = fields(self._source.text(0, self._file.readline(MAX_LINE_BYTES)), 2)
        except OSError:
            parts = []
        if not parts:
            raise UserError(f"{self._source.name}: the file changed while it was being read; start again")
        return parts[0], "".join(parts[1:])


@contextmanager
def keyed_lines(source: Source) -> Iterator[KeyedLines | None]:
    """Open a file of `key value` lines; yield `None` if the file does not exist.

    Raises:
        UserError: As `KeyedLines`.
    """
    if not os.path.lexists(source.path):
        yield None
        return
    # Only a regular file is opened, because opening a FIFO would block.
    if not os.path.isfile(source.path):
        raise UserError(f"{source.name}: not a file; restore it, or remove it")
    try:
        file = open(source.path, "rb")  # noqa: SIM115 - closed below; the `try` must not cover the body
    except OSError as error:
        raise UserError(f"{source.name}: cannot be read ({error.strerror}); restore it") from None
    with file:
        if file.read(2) in (b"\x1f\x8b", codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UserError(f"{source.name}: gzipped or UTF-16, but lines are looked up in this file; save it as UTF-8")
        yield KeyedLines(source, file)


class Repeated:
    """The set of keys that appear more than once. Construction takes 8 bytes per key."""

    def __init__(self, keys: Iterable[str]) -> None:
        values, counts = np.unique(np.array(array("Q", map(_hash, keys)), dtype=np.uint64), return_counts=True)
        self._hashes = array("Q", values[counts > 1].tobytes())

    def __contains__(self, key: str) -> bool:
        wanted = _hash(key)
        index = bisect_left(self._hashes, wanted)
        return index < len(self._hashes) and self._hashes[index] == wanted


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
