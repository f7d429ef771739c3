"""The headers of many files, read in processes of their own: the files are untrusted, and may lie far away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from pipeline.audio.reader import AudioError, read_header
from pipeline.records import AudioHeader
from pipeline.runtime.supervisor import Lost, Supervisor

PROBES = 16
"""Processes that read headers, which are waited for more than computed."""
_COUNTED_BYTES = 2**20
_FFMPEG_ENDINGS = (".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".webm", ".mka", ".mkv", ".wma", ".aac", ".amr")


class Headers:
    """Headers read in parallel, once for all segments of a recording that follow one another."""

    def __init__(self, timeout_s: float) -> None:
        """A header that takes longer is as good as unreadable; where samples are counted, for every MiB of the file."""
        self._probes = Supervisor(partial(_probe, timeout_s), processes=PROBES, timeout_s=timeout_s)
        self._known: dict[str, tuple[AudioHeader | None, int | None]] = {}

    def __enter__(self) -> Headers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._probes.close()

    def of(self, paths: Sequence[str]) -> Iterator[tuple[AudioHeader | None, int | None]]:
        """Header and bytes of each path; `None` for a header that cannot be read, and a file that is not there."""
        if any(path.lower().endswith(_FFMPEG_ENDINGS) for path in paths):
            with suppress(ImportError):  # the extra is not installed
                import pipeline.audio.ffmpeg  # noqa: F401 - once here, and not in every process that is forked
        before, self._known = self._known, {}
        probed = self._probes.map([path for path in dict.fromkeys(paths) if path not in before])
        for path in paths:
            if path not in self._known:
                found = before[path] if path in before else next(probed)
                # A file that hangs those who open it is not asked for its size either.
                self._known[path] = (None, None) if isinstance(found, Lost) else found
            yield self._known[path]


def _probe(timeout_s: float, path: str, alive: Callable[[], None]) -> tuple[AudioHeader | None, int | None]:
    """Header and bytes of a file, in a process of its own.

    Raises:
        MemoryError: There is not enough to read it.
    """
    size = _file_size(path)
    # Whoever counts samples gets on, but so does a decoder that never ends.
    until = time.monotonic() + timeout_s * (size or 0) / _COUNTED_BYTES

    def go_on() -> bool:
        if time.monotonic() < until:
            alive()
        return True

    try:
        header = read_header(path, go_on)
    except AudioError as error:
        if error.error == "out_of_memory":
            raise MemoryError from None
        return None, size  # the loader meets the same error again and names it
    return header, header.file_size


def _file_size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return None
