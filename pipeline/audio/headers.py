"""Reads the headers of many files in separate processes, because files are untrusted and may be on a slow disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from pipeline.audio.archives.held import HELD, IN_ORDER_BYTES
from pipeline.audio.archives.members import file_of, member_of
from pipeline.audio.archives.opening import open_member
from pipeline.audio.reader import AudioError, read_header
from pipeline.records import AudioHeader
from pipeline.runtime.remote_files import file_size, file_version
from pipeline.runtime.supervisor import Lost, Supervisor

HEADER_PROCESSES = 16
"""Processes that read headers. There are more than cores, because they mostly wait for the disk."""
# While a process counts samples, the time limit holds for each of this many bytes of the file.
_COUNTED_BYTES = 2**20
_FFMPEG_ENDINGS = (".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".webm", ".mka", ".mkv", ".wma", ".aac", ".amr")


class Probed(NamedTuple):
    """What was read of a recording.

    Attributes:
        header: The header; `None` if it cannot be read.
        file_size: Size in bytes; `None` if the file is missing.
        version: Differs if the file, or the archive with the recording, has been replaced since; empty if unknown.
    """

    header: AudioHeader | None
    file_size: int | None
    version: str = ""


class Kept(Protocol):
    """Keeps what was read, so that a killed listing need not read it again."""

    def find(self, path: str) -> Probed | None:
        """Return what was kept of a path; `None` if nothing was."""

    def keep(self, path: str, probed: Probed) -> None:
        """Keep what was read of a path."""


class Headers:
    """Reads headers in parallel.

    Consecutive calls of `of` share results, so a recording is read once for all its segments in a list.
    """

    def __init__(self, timeout_s: float, stderr: Path | None = None, kept: Kept | None = None) -> None:
        """Start no process yet.

        Args:
            timeout_s: Seconds after which a header counts as unreadable. Where samples have to be counted, the
                limit holds for each MiB of the file.
            stderr: File that takes messages of audio libraries; `None` drops them.
            kept: What an earlier attempt has read of files that have not been replaced since; takes the other headers.
        """
        self._kept = kept
        self._supervisor = Supervisor(
            partial(_probe, timeout_s, kept is not None), processes=HEADER_PROCESSES, timeout_s=timeout_s, stderr=stderr
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
        new = [path for path in dict.fromkeys(paths) if path not in before]
        asked = [(path, None if self._kept is None else self._kept.find(path)) for path in new]
        probed = zip(asked, self._supervisor.map(asked), strict=True)
        for path in paths:
            if path in before:
                self._known[path] = before[path]
            elif path not in self._known:
                (_, kept), found = next(probed)
                # A lost process may have been hanging in the file system, so the size is not asked for either.
                self._known[path] = (None, None) if isinstance(found, Lost) else found[:2]
                if self._kept is not None and not isinstance(found, Lost) and found.version and found != kept:
                    self._kept.keep(path, found)
            yield self._known[path]


def _probe(timeout_s: float, versioned: bool, asked: tuple[str, Probed | None], alive: Callable[[], None]) -> Probed:
    """Read the header and the size of one file. This runs in a child process.

    Args:
        timeout_s: As for `Headers`.
        versioned: Whether to return the version of the file.
        asked: The path, and what an earlier attempt has read; it is returned if the file is the same.
        alive: Says that the process makes progress.

    Raises:
        MemoryError: There is too little memory to read the header.
    """
    started = time.monotonic()
    path, kept = asked
    version = _version(path) if versioned else ""  # before the header, so that a change between the two is noticed
    if kept is not None and kept.version == version:
        return kept
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
        return Probed(None, _file_size(path))  # the loader meets the same error and reports it
    return Probed(header, header.file_size, version)


def _version(path: str) -> str:
    """Return the version of the file that holds a recording; an empty string if there is none."""
    file = file_of(path)
    try:
        return _version_of_file(file) if file == path else _version_of_archive(file)
    except (OSError, ValueError):
        return ""


def _version_of_file(path: str) -> str:
    return "{}-{}".format(*file_version(path))


_version_of_archive = lru_cache(maxsize=1)(_version_of_file)  # the next recordings are often in the same archive


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
