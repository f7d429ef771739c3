"""Writes to standard output as long as that works. A run continues if its output is closed overnight."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger("pipeline")
PLAIN_WIDTH = 110
"""Width of tables in characters if the output is not a terminal."""


def standard_output() -> TextIO:
    """Return `sys.stdout`, wrapped so that a failed write does not raise."""
    return cast(TextIO, FaultTolerantStream(sys.stdout))


def console(quiet: bool = False) -> Console:
    """Return a console for standard output. If it is no terminal, as under cron, tables are `PLAIN_WIDTH` wide.

    Args:
        quiet: Print nothing.
    """
    from rich.console import Console  # slow to import, and many commands print plain lines only

    stream = standard_output()
    if stream.isatty():
        return Console(file=stream, highlight=False, soft_wrap=True, quiet=quiet)
    # `force_terminal`: Jupyter and some CI services set FORCE_COLOR, and rich would move a cursor that is not there.
    return Console(file=stream, highlight=False, soft_wrap=True, quiet=quiet, width=PLAIN_WIDTH, force_terminal=False)


class FaultTolerantStream(io.TextIOBase):
    """Writes to a stream until a write fails, and discards everything after that.

    A write fails if a pipe is closed, or if the disk is full under `> night.log`.
    """

    def __init__(self, stream: TextIO) -> None:
        """Wrap `stream`."""
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write the text, or discard it if the stream fails."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._discard_from_now(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or discard everything from now on if that fails."""
        try:
            self._stream.flush()
        except OSError as error:
            self._discard_from_now(error)

    def _discard_from_now(self, error: OSError) -> None:
        LOG.warning("standard output cannot be written (%s); the run goes on without it", error)
        # The stream flushes its buffer when Python exits; /dev/null takes the rest.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
