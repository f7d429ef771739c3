"""Sorts more lines than fit into memory."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

MAX_HELD = 200_000
_AFTER_KEY = "\0"


class SortedLines:
    """Collects lines and yields them in the order of their bytes, or of the bytes of their keys, as `LC_ALL=C sort`."""

    def __init__(self, folder: Path) -> None:
        """Hold no line yet.

        Args:
            folder: Folder for the temporary files of more than `MAX_HELD` lines.
        """
        self._folder = folder
        self._held: list[str] = []
        self._stack = ExitStack()
        self._spilled: list[Iterator[str]] = []

    def __enter__(self) -> SortedLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, line: str, key: str = "") -> None:
        """Add a line without its line break. Neither the line nor the key may hold a NUL or a line break."""
        self._held.append(f"{key}{_AFTER_KEY}{line}\n")
        if len(self._held) >= MAX_HELD:
            file = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=self._folder)  # noqa: SIM115
            self._stack.enter_context(file)
            file.writelines(sorted(self._held))
            file.seek(0)
            self._spilled.append(file)
            self._held = []

    def __iter__(self) -> Iterator[str]:
        """Yield the lines with their line breaks."""
        for line in heapq.merge(sorted(self._held), *self._spilled):
            yield line.partition(_AFTER_KEY)[2]
