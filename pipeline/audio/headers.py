"""Reads the headers of many files in separate processes, because files are untrusted and may be on a slow disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from pipeline.audio.archives.held import HELD, IN_ORDER_BYTES
from pipeline.audio.archives.members import member_of
from pipeline.audio.archives.opening import open_member
from pipeline.audio.reader import AudioError, read_header
from pipeline.records import AudioHeader
from pipeline.runtime.remote_files import file_size
from pipeline.runtime.supervisor import Lost, Supervisor

HEADER_PROCESSES = 16
"""Processes that read headers. There are more than cores, because they mostly wait for the disk."""
# While a process counts samples, the time limit holds for each of this many bytes of the file.
_COUNTED_BYTES = 2**20
_FFMPEG_ENDINGS = (".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".webm", ".mka", ".mkv", ".wma", ".aac", ".amr")


class Headers:
    """Reads headers in parallel.

    Consecutive calls of `of` share results, so a recording is read once for all its segments in a list.
    """

    def __init__(self, timeout_s: float, stderr: Path | None = None) -> None:
        """Start no process yet.

        Args:
            timeout_s: Seconds after which a header counts as unreadable. Where samples have to be counted, the
                limit holds for each MiB of the file.
            stderr: File that takes messages of audio libraries; `None` drops them.
        """
        self._supervisor = Supervisor(
            partial(_probe, timeout_s), processes=HEADER_PROCESSES, timeout_s=timeout_s, stderr=stderr
        )
        self._known: dict[str, tuple[AudioHeader | None, int | None]] = {}

    def __enter__(self) -> Headers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._supervisor.close()

    def of(self, paths: Sequence[str]) -> Iterator[tuple[AudioHeader | None, int | None]]:
        """Yield the header and the size in bytes of each path, in order.

        The header is `None` if it cannot be read. The size is `None` if the file is missing.
        """
        if any(path.lower().endswith(_FFMPEG_ENDINGS) for path in paths):
            with suppress(ImportError):  # the extra is not installed
                # Imported before the processes are forked, so that not each of them has to import it.
                import pipeline.audio.ffmpeg  # noqa: F401
        before, self._known = self._known, {}
        probed = self._supervisor.map([path for path in dict.fromkeys(paths) if path not in before])
        for path in paths:
            if path not in self._known:
                found = before[path] if path in before else next(probed)
                # A lost process may have been hanging in the file system, so the size is not asked for either.
                self._known[path] = (None, None) if isinstance(found, Lost) else found
            yield self._known[path]


def _probe(timeout_s: float, path: str, alive: Callable[[], None]) -> tuple[AudioHeader | None, int | None]:
    """Read the header and the size of one file. This runs in a child process.

    Raises:
        MemoryError: There is too little memory to read the header.
    """
    started = time.monotonic()
    HELD.limit_bytes = IN_ORDER_BYTES

    def go_on() -> bool:
        # Counting samples may take long, but a decoder that never ends must be stopped too: after the deadline the
        # process no longer says that it is alive.
        if time.monotonic() < started + timeout_s * (_file_size(path) or 0) / _COUNTED_BYTES:
            alive()
        return True

    try:
        header = read_header(path, go_on)
    except AudioError as error:
        if error.error == "out_of_memory":
            raise MemoryError from None
        return None, _file_size(path)  # the loader meets the same error and reports it
    return header, header.file_size


def _file_size(path: str) -> int | None:
    """Return the size of a recording in bytes, as the manifest has it; `None` if it is missing."""
    member = member_of(path)
    try:
        if member is None:
            return file_size(path)
        with open_member(member) as (_, size):
            return size
    except AudioError:
        return None if member is None else member.size  # the member is damaged
    except (OSError, ValueError):
        return None
