"""Paths of recordings in archives.

    tar://calls/0017.flac@1536+83342::/data/monday.tar      the header begins at byte 1536, 83,342 bytes
    zip://calls/0017.wav@90+4711::/data/monday.zip          likewise; 4,711 bytes as compressed
    parquet://audio/0017.wav@17+123456::/data/calls.parquet  column `audio`, row 17, in a file of 123,456 bytes

Without `@...` these are the chained paths of fsspec. A member is found by its position and checked by its name and
size, so that an archive that was written again gives an error and no other recording.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

_PATH = re.compile(
    r"(?P<kind>tar|zip|parquet)://(?P<name>.*)@(?P<position>\d{1,18})\+(?P<size>\d{1,18})::(?P<archive>.+)", re.DOTALL
)


class Member(NamedTuple):
    """A recording in an archive.

    Attributes:
        kind: tar, zip or parquet.
        name: Name in the archive, in which undecodable bytes are `%XX`. In a Parquet file the column, and after a
            slash the name of the file, if there is one.
        position: First byte of the member's header; in a Parquet file the row.
        size: Bytes that the member takes; in a Parquet file those of the whole file, which is never changed in place.
        archive: Path of the archive.
    """

    kind: str
    name: str
    position: int
    size: int
    archive: str

    @property
    def path(self) -> str:
        """The path of the recording, from which `member_of` makes the member again."""
        return f"{self.kind}://{self.name}@{self.position}+{self.size}::{self.archive}"


def member_of(path: str) -> Member | None:
    """Return the member of an archive that a path names; `None` for the path of a file."""
    match = _PATH.fullmatch(path) if "://" in path else None
    if match is None:
        return None
    kind, name, position, size, archive = match.groups()
    return Member(kind, name, int(position), int(size), archive)


def file_of(path: str) -> str:
    """Return the path of the file that must be there for a recording to be read: its archive, or the file itself."""
    member = member_of(path)
    return path if member is None else member.archive


def unpacked(path: str) -> str:
    """Return the path that a recording would have if its archive were a folder; the path of a file as it is.

    `/data/monday.tar/calls/0017.flac`. Lists and annotations name recordings in this way.
    """
    member = member_of(path)
    if member is None:
        return path
    name = member.name.partition("/")[2] or str(member.position) if member.kind == "parquet" else member.name
    return f"{member.archive}/{inner_path(name)}"


def inner_path(name: str) -> str:
    """Return the name of a member as a path below its archive: without `./`, `..` and a slash at the start."""
    return posixpath.normpath(f"/{name}").lstrip("/")
