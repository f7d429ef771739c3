"""Finds the recordings in any folder, or in tar and zip archives. A `.txt` file beside a recording is its reference.

The folders on the way from the root to a recording are columns: `folder1`, `folder2`, ... An archive is one of them.
A list of any format can add references and columns of its own (`dataset.metadata`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from omegaconf import MISSING

from pipeline.audio.archives.contents import COMPRESSED, ENDINGS, Entry, is_archive
from pipeline.datasets import EXTENSIONS, Warnings, refuse_empty, walk_files
from pipeline.datasets.formats.metadata import Metadata
from pipeline.datasets.formats.source import check_encoding
from pipeline.datasets.formats.values import shown
from pipeline.datasets.packed import Packed, broken, require_folder_or_archive
from pipeline.datasets.texts import read_reference, reference_in
from pipeline.records import Scalar, Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.remote_files import names_in
from pipeline.runtime.terminal import counted


@dataclass
class Options:
    """The options `dataset.*` of `dataset=folder`.

    Attributes:
        root: The folder, or a tar or zip archive.
        archives: Whether recordings in the tar and zip archives below the folder are read too.
        extensions: Extensions of the recordings, with or without dot, in upper or lower case.
        metadata: A list with a row for each recording, whose columns are added; `None` for no list.
        encoding: The encoding of references and of the list where they are not UTF-8; `None` uses no such reference.
    """

    root: str = MISSING
    archives: bool = False
    extensions: list[str] = field(default_factory=lambda: list(EXTENSIONS))
    metadata: str | None = None
    encoding: str | None = None


class _Found(NamedTuple):
    """A recording that was found.

    Attributes:
        relative: Path relative to the root, as if archives were folders.
        path: Path of the recording.
        archive: The archive that it is in; `None` for a file.
        text: The text beside it in the archive; `None` if there is none.
    """

    relative: str
    path: str
    archive: str | None = None
    text: Entry | None = None


class Dataset:
    """The recordings below a folder, recognised by their extensions.

    The id is the path relative to the root, with `/` and the extension; undecodable bytes appear as `%XX`.
    """

    def __init__(self, options: Options) -> None:
        self.root = require_folder_or_archive(options.root)
        self.extensions = {extension.removeprefix(".").lower() for extension in options.extensions}
        if not self.extensions or "" in self.extensions:
            given = ",".join(options.extensions)
            raise UserError(f"dataset.extensions=[{given}]: must be a list of extensions, such as [wav,flac]")
        self.run_name = f"folder-{encode_path(os.path.basename(self.root)) or 'root'}"
        self.notice: str | None = None
        self._options = options
        self._texts: dict[str, set[str]] = {}
        self._packed = Packed()
        self._unread = 0
        self._warnings = Warnings()
        check_encoding(options.encoding)
        if options.metadata and not os.path.isfile(os.path.expanduser(options.metadata)):
            raise UserError(
                f"dataset.metadata={options.metadata}: no such file; give a list with a row for each recording"
            )

    def columns(self) -> dict[str, str]:
        """Return `folder1`, `folder2`, ..., one for each level of folders, and the columns of `dataset.metadata`.

        Raises:
            UserError: A folder or the list cannot be read.
        """
        return self._levels | (self._metadata.types if self._metadata else {})

    def utterances(self) -> Iterator[Utterance]:
        """Yield every recording, sorted bytewise by its path; those of an archive in the order of the archive.

        Raises:
            UserError: There are no recordings, or a folder cannot be read.
        """
        endings = ", ".join(sorted(self.extensions))
        packed = "" if self._options.archives else "; dataset.archives=true also looks into tar and zip archives"
        message = f"dataset.root={self.root}: no recordings found; looked for files that end in {endings}{packed}"
        return refuse_empty(self._utterances(), message)

    def reading(self, num_references: int) -> str:
        """Say where references and columns come from.

        Args:
            num_references: Utterances with a reference.
        """
        said = [f"{self.run_name}: own columns {', '.join(map(shown, self.columns())) or 'none'}"]
        if self._metadata:
            said.append(self._metadata.said())
        if not num_references and not self.warnings():
            said.append("no references, which a .txt beside each recording or dataset.metadata would give")
        if self._unread:
            said.append(f"{counted(self._unread, 'archive')} not read (dataset.archives=true reads tar and zip)")
        return "; ".join(said)

    def warnings(self) -> list[str]:
        """Return a line for each kind of reference and row that could not be used."""
        return self._warnings.lines() + (self._metadata.warnings.lines() if self._metadata else [])

    def _utterances(self) -> Iterator[Utterance]:
        depth = len(self._levels)  # found before the warnings are counted
        self._warnings, self._texts, self._unread = Warnings(), {}, 0
        relative = None
        for found in self._recordings():
            if isinstance(found, Utterance):
                yield found
                continue
            relative = found.relative
            # A folder may have become deeper since its depth was found.
            folders = relative.split(os.sep)[:-1][:depth]
            columns: dict[str, Scalar] = {f"folder{level}": encode_path(name) for level, name in enumerate(folders, 1)}
            reference = self._reference(found)
            if self._metadata:
                listed, described = self._metadata.of(relative)
                reference, columns = listed or reference, columns | described
            yield Utterance(encode_path(relative.replace(os.sep, "/")), found.path, reference, columns=columns)
        if self._metadata and relative is not None:
            self._metadata.check_used(relative)

    def _text_beside(self, relative: str) -> str | None:
        """Return the path of the text file beside a recording; `None` if there is none.

        Each folder is listed once, because looking for each text costs more than listing the recordings.
        """
        folder, name = os.path.split(relative)
        if folder not in self._texts:
            is_above = {each: not each or f"{folder}/".startswith(f"{each}/") for each in self._texts}
            self._texts = {each: names for each, names in self._texts.items() if is_above[each]}
            self._texts[folder] = set()
            with suppress(OSError):  # removed in the meantime
                names = names_in(os.path.join(self.root, folder))
                self._texts[folder] = {name for name in names if name.lower().endswith(".txt")}
        texts = self._texts[folder]
        text = next((text for text in _texts_of(name) if text in texts), None)
        return None if text is None else os.path.join(self.root, folder, text)

    def _reference(self, found: _Found) -> str | None:
        encoding, text = self._options.encoding, ""
        try:
            if found.archive is None:
                text = self._text_beside(found.relative) or ""
                return read_reference(text, encoding) if text else None
            if found.text is None:
                return None
            text = os.path.join(found.archive, found.text.place)
            return reference_in(self._packed.read(found.archive, found.text), encoding)
        except ValueError as error:
            name = encode_path(os.path.relpath(text, self.root))
            self._warnings.add("references that cannot be used, so that the recording has none", f"{name}: {error}")
            return None

    def _recordings(self) -> Iterator[_Found | Utterance]:
        """Yield every recording, and a failed utterance for each archive that is damaged."""
        if is_archive(self.root):
            yield from self._in_archive(self.root, "")
            return
        for relative in walk_files(self.root):
            path = os.path.join(self.root, relative)
            if self._is_recording(relative):
                yield _Found(relative, path)
            elif is_archive(relative) and self._options.archives:
                yield from self._in_archive(path, f"{relative}/")
            elif relative.lower().endswith((*ENDINGS, *COMPRESSED)):
                self._unread += 1

    def _in_archive(self, archive: str, prefix: str) -> Iterator[_Found | Utterance]:
        """Yield the recordings of an archive, whose path relative to the root is `prefix`."""
        contents = self._packed.contents(archive, self._warnings)
        texts = {entry.place: entry for entry in contents.entries if entry.place.lower().endswith(".txt")}
        for entry in contents.entries:
            if self._is_recording(entry.place):
                text = next((texts[name] for name in _texts_of(entry.place) if name in texts), None)
                yield _Found(f"{prefix}{entry.place}", self._packed.path(archive, entry), archive, text)
            elif is_archive(entry.place):
                self._warnings.add("archives inside archives, which are not read", f"{prefix}{entry.place}")
        if contents.damage:
            yield broken(archive, prefix.rstrip("/") or os.path.basename(archive), contents)

    def _is_recording(self, name: str) -> bool:
        return os.path.splitext(name)[1][1:].lower() in self.extensions

    @cached_property
    def _levels(self) -> dict[str, str]:
        """The columns of the folders, all of them text, so that a new folder never changes the type of a column."""
        found = (each for each in self._recordings() if isinstance(each, _Found))
        depth = max((each.relative.count(os.sep) for each in found), default=0)
        return {f"folder{level}": "string" for level in range(1, depth + 1)}

    @cached_property
    def _metadata(self) -> Metadata | None:
        return Metadata(self._options.metadata, self.root, self._options.encoding) if self._options.metadata else None


def _texts_of(recording: str) -> Iterator[str]:
    """Yield the paths that the text beside a recording may have."""
    stem = os.path.splitext(recording)[0]
    return (f"{stem}.{ending}" for ending in ("txt", "TXT", "Txt"))
