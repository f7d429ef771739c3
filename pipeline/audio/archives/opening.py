"""Opens what the path of a recording names: a file, or a member of an archive. Every recording is opened here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pipeline.audio.archives import tars, zips
from pipeline.audio.archives.members import Member, file_of, member_of
from pipeline.audio.archives.ranges import open_file, size_of
from pipeline.runtime.remote_files import file_size


@contextmanager
def open_path(path: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a recording, and give it as a seekable file with its size in bytes.

    A file comes as `io.FileIO`, which has a descriptor. An object of a store and a member have none.

    Args:
        path: Path as in the manifest.

    Raises:
        AudioError: The path names no regular file, or a member that cannot be read.
        OSError: The file or the archive cannot be read.
    """
    member = member_of(path)
    if member is not None:
        with open_member(member) as found:
            yield found
        return
    with open_file(path) as file:
        size = size_of(file)
        file.seek(0)
        yield file, size


@contextmanager
def open_member(member: Member, max_bytes: int | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """Open a member of an archive, of which no more than `max_bytes` need be there. See `open_path`."""
    with open_file(member.archive) as file:
        if member.kind == "parquet":
            from pipeline.audio.archives import parquet  # loads Arrow, which no other recording needs

            yield parquet.open_entry(file, member)
        elif member.kind == "zip":
            yield zips.open_entry(file, member, max_bytes)
        else:
            yield tars.open_entry(file, member)


def current_size(path: str, known: int | None) -> int | None:
    """Return the size in bytes that a recording has now. What an archive holds is not looked at.

    Args:
        path: Path as in the manifest.
        known: The size when the manifest was made, which a member has as long as its archive is there: what has
            changed in an archive is noticed when it is listed or read.

    Raises:
        OSError: There is no such file.
        ValueError: There cannot be such a file.
    """
    file = file_of(path)
    size = file_size(file)
    return size if file == path else known
