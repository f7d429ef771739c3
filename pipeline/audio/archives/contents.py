"""What an archive holds: its members by their place, once for each run that lists it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import BinaryIO, NamedTuple

from pipeline.audio.archives import tars, zips
from pipeline.audio.archives.members import Member, inner_path
from pipeline.audio.archives.opening import open_member
from pipeline.audio.archives.ranges import open_file
from pipeline.audio.archives.tars import Found
from pipeline.runtime.errors import AudioError
from pipeline.runtime.remote_files import file_version

ENDINGS = (".tar", ".zip")
"""The archives from which one member can be read without the others."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".7z", ".rar")
"""Archives that can only be read from the beginning, or only by other programs."""
_MAX_LINKS = 8


class Entry(NamedTuple):
    """A file in an archive.

    Attributes:
        place: Path below the archive, as if it were a folder.
        name: Name in the archive, with undecodable bytes as `%XX`.
        position: First byte of its header.
        size: Bytes that it takes.
    """

    place: str
    name: str
    position: int
    size: int


@dataclass
class Contents:
    """The files of an archive.

    Attributes:
        entries: The files, by position. Hidden ones are left out. Of several with one name the last counts, as it
            does when the archive is unpacked.
        damage: Why the archive cannot be read to its end; empty if it can.
        repeated: Names that an earlier file has too, which does not count.
    """

    entries: list[Entry] = field(default_factory=list)
    damage: str = ""
    repeated: list[str] = field(default_factory=list)


def is_archive(path: str) -> bool:
    """Whether a path ends like one of an archive whose members can be read."""
    return path.lower().endswith(ENDINGS)


def member_in(archive: str, entry: Entry) -> Member:
    """Return a file of an archive as a member."""
    return Member(_kind(archive), entry.name, entry.position, entry.size, archive)


def read_entry(archive: str, entry: Entry, max_bytes: int) -> bytes:
    """Return the first bytes of a file in an archive, at most so many.

    Raises:
        AudioError: The archive has changed, or the file is damaged.
        OSError: The archive cannot be read.
    """
    with open_member(member_in(archive, entry), max_bytes) as (file, size):
        return file.read(min(size, max_bytes))


class Shelf:
    """The contents of archives, each listed once. They are held compressed, because a corpus may have many."""

    def __init__(self) -> None:
        """List nothing yet."""
        self._held: dict[tuple[str, int, str], bytes] = {}

    def contents(self, archive: str) -> Contents:
        """Return what an archive holds; of one that cannot be opened, only the `damage`."""
        try:
            key = archive, *file_version(archive)
        except OSError as error:
            return Contents(damage=error.strerror or type(error).__name__)
        if key not in self._held:
            contents = list_archive(archive)
            self._held[key] = zlib.compress(json.dumps(asdict(contents)).encode(), level=1)
            return contents
        found = json.loads(zlib.decompress(self._held[key]))
        return Contents(**found | {"entries": [Entry(*entry) for entry in found["entries"]]})


def list_archive(archive: str) -> Contents:
    """List the files of an archive."""
    listed: Callable[[BinaryIO], Iterator[Found]] = tars.entries if _kind(archive) == "tar" else zips.entries
    found: dict[str, Entry] = {}
    links: dict[str, str] = {}
    contents = Contents()
    try:
        with open_file(archive) as file:
            for each in listed(file):
                place = inner_path(each.name.replace("\\", "/") if _kind(archive) == "zip" else each.name)
                if any(part.startswith(".") for part in place.split("/")):
                    continue
                if found.pop(place, None) is not None:
                    contents.repeated.append(place)
                found[place] = Entry(place, each.name, each.position, each.size)
                links.pop(place, None)
                if each.target is not None:
                    links[place] = each.target
    except AudioError as error:
        contents.damage = error.message
    except OSError as error:
        contents.damage = error.strerror or type(error).__name__
    for place in links:
        target = found.get(_followed(place, links))
        if target is not None:  # otherwise reading the link says what is missing
            found[place] = target._replace(place=place)
    contents.entries = sorted(found.values(), key=lambda entry: entry.position)
    return contents


def _followed(place: str, links: Mapping[str, str]) -> str:
    """Return where a link leads through others; a link that leads to itself stays where it is."""
    for _ in range(_MAX_LINKS):
        if place not in links:
            break
        place = links[place]
    return place


def _kind(archive: str) -> str:
    return "zip" if archive.lower().endswith(".zip") else "tar"
