"""Standard output whose end is not the run's: nobody may be watching in the morning."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO, cast

LOG = logging.getLogger("pipeline")


def standard_output() -> TextIO:
    """`sys.stdout` that goes quiet where it cannot be written."""
    return cast(TextIO, Outlet(sys.stdout))


class Outlet(io.TextIOBase):
    """Writes to a stream until that fails (a closed pipe, a full disk under `> night.log`), then to nothing."""

    def __init__(self, stream: TextIO) -> None:
        """Wrap `stream`."""
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether a person may be watching."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write, or go quiet."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._go_quiet(error)
        return len(text)

    def flush(self) -> None:
        """Flush, or go quiet."""
        try:
            self._stream.flush()
        except OSError as error:
            self._go_quiet(error)

    def _go_quiet(self, error: OSError) -> None:
        LOG.warning("standard output cannot be written (%s); the run goes on", error)
        # What the stream still holds has to go somewhere when Python exits.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
