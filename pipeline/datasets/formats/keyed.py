"""Files of `key value` lines that are asked for single keys, in little memory; and which keys stand twice."""

from __future__ import annotations

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

# Not every white space: a transcript may hold a no-break space, an ideographic one, or a line separator.
_BLANKS = " \t\r\n"
_FIELDS = re.compile(r"[ \t\r\n]+")


def fields(line: str, at_most: int = 0) -> list[str]:
    """The parts of a line between blanks, the last with the rest where there are more than `at_most`."""
    text = line.strip(_BLANKS)
    return _FIELDS.split(text, maxsplit=max(0, at_most - 1)) if text else []


class KeyedLines:
    """The values of an uncompressed file by their keys, sorted or not: 16 bytes a line in memory.

    What is in memory is a hash of the key and where the line begins; a value is read when it is asked for.
    """

    def __init__(self, source: Source, file: BinaryIO) -> None:
        """Reads the file once.

        Raises:
            UserError: It cannot be read, a line is not UTF-8, or a key stands twice.
        """
        self._source = source
        self._file = file
        hashes, offsets, offset = array("Q"), array("q"), 0
        for number, line in source.raw_lines():
            if key := fields(source.text(number, line), 2)[:1]:
                hashes.append(_hash(key[0]))
                offsets.append(offset)
            offset += len(line)
        unsorted = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        ordered = unsorted[order]
        # Arrays of Python's own: bisect is ten times faster there than NumPy for a single key.
        self._hashes = array("Q", ordered.tobytes())
        self._offsets = array("q", np.frombuffer(offsets, dtype=np.int64)[order].tobytes())
        for index in np.flatnonzero(ordered[1:] == ordered[:-1]).tolist():
            first, second = self._line(index), self._line(index + 1)
            if first[0] == second[0]:
                raise UserError(f"{source.name}: {first[0]!r} stands twice; keep one of the two lines")

    def get(self, key: str) -> str | None:
        """The value of a key, empty where only the key is there; `None` where that is not."""
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
            raise UserError(f"{self._source.name}: was changed while it was read; start again")
        return parts[0], "".join(parts[1:])


@contextmanager
def keyed_lines(source: Source) -> Iterator[KeyedLines | None]:
    """The lines of a file; `None` where there is none.

    Raises:
        UserError: As `KeyedLines`.
    """
    if not os.path.lexists(source.path):
        yield None
        return
    # Only what is said to be regular is opened: a FIFO would be waited for.
    if not os.path.isfile(source.path):
        raise UserError(f"{source.name}: not a file; restore it, or remove it")
    try:
        file = open(source.path, "rb")  # noqa: SIM115 - closed below; errors of the body are not its own
    except OSError as error:
        raise UserError(f"{source.name}: cannot be read ({error.strerror}); restore it") from None
    with file:
        if file.read(2) == b"\x1f\x8b":
            raise UserError(f"{source.name}: gzipped, and read at many places; unpack it")
        yield KeyedLines(source, file)


class Repeated:
    """Which keys of many stand more than once: 8 bytes a key while it is made."""

    def __init__(self, keys: Iterable[str]) -> None:
        values, counts = np.unique(np.array(array("Q", map(_hash, keys)), dtype=np.uint64), return_counts=True)
        self._hashes = array("Q", values[counts > 1].tobytes())

    def __contains__(self, key: str) -> bool:
        wanted = _hash(key)
        index = bisect_left(self._hashes, wanted)
        return index < len(self._hashes) and self._hashes[index] == wanted


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
