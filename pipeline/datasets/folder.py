"""Finds the recordings in any folder. A `.txt` file beside a recording is its reference transcript.

The folders on the way from the root to a recording are columns: `folder1`, `folder2`, ... A list of any format can add
references and columns of its own (`dataset.metadata`).
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from omegaconf import MISSING

from pipeline.datasets import EXTENSIONS, Warnings, refuse_empty, require_folder, walk_files
from pipeline.datasets.formats.metadata import Metadata
from pipeline.datasets.formats.source import check_encoding, decoded, utf16_remedy
from pipeline.datasets.formats.values import MAX_TEXT_BYTES, shown
from pipeline.records import Scalar, Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path

# A text of TIMIT begins with the numbers of the first and last sample: 0 46797 She had your dark suit.
_TIMIT = re.compile(r"\A0 [1-9][0-9]{3,6} (?=\D+\Z)")


@dataclass
class Options:
    """The options `dataset.*` of `dataset=folder`.

    Attributes:
        root: The folder.
        extensions: Extensions of the recordings, with or without dot, in upper or lower case.
        metadata: A list with a row for each recording, whose columns are added; `None` for no list.
        encoding: The encoding of references and of the list where they are not UTF-8; `None` uses no such reference.
    """

    root: str = MISSING
    extensions: list[str] = field(default_factory=lambda: list(EXTENSIONS))
    metadata: str | None = None
    encoding: str | None = None


class Dataset:
    """The recordings below a folder, recognised by their extensions.

    The id is the path relative to the root, with `/` and the extension; undecodable bytes appear as `%XX`.
    """

    def __init__(self, options: Options) -> None:
        self.root = require_folder(options.root)
        self.extensions = {extension.removeprefix(".").lower() for extension in options.extensions}
        if not self.extensions or "" in self.extensions:
            given = ",".join(options.extensions)
            raise UserError(f"dataset.extensions=[{given}]: must be a list of extensions, such as [wav,flac]")
        self.run_name = f"folder-{encode_path(os.path.basename(self.root)) or 'root'}"
        self.notice: str | None = None
        self._options = options
        self._texts: dict[str, set[str]] = {}
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
        """Yield every recording, sorted bytewise by its path.

        Raises:
            UserError: There are no recordings, or a folder cannot be read.
        """
        endings = ", ".join(sorted(self.extensions))
        message = f"dataset.root={self.root}: no recordings found; looked for files that end in {endings}"
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
        return "; ".join(said)

    def warnings(self) -> list[str]:
        """Return a line for each kind of reference and row that could not be used."""
        return self._warnings.lines() + (self._metadata.warnings.lines() if self._metadata else [])

    def _utterances(self) -> Iterator[Utterance]:
        self._warnings, self._texts = Warnings(), {}
        relative = None
        for relative in self._recordings():
            columns = self._folder_columns(relative)
            path, text = os.path.join(self.root, relative), self._text_beside(relative)
            reference = None if text is None else self._reference(text)
            if self._metadata:
                listed, described = self._metadata.of(relative)
                reference, columns = listed or reference, columns | described
            yield Utterance(encode_path(relative.replace(os.sep, "/")), path, reference, columns=columns)
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
                names = os.listdir(os.path.join(self.root, folder))
                self._texts[folder] = {name for name in names if name.lower().endswith(".txt")}
        stem, texts = os.path.splitext(name)[0], self._texts[folder]
        found = (f"{stem}.{ending}" for ending in ("txt", "TXT", "Txt") if f"{stem}.{ending}" in texts)
        text = next(found, None)
        return None if text is None else os.path.join(self.root, folder, text)

    def _reference(self, path: str) -> str | None:
        try:
            return read_reference(path, self._options.encoding)
        except ValueError as error:
            name = encode_path(os.path.relpath(path, self.root))
            self._warnings.add("references that cannot be used, so that the recording has none", f"{name}: {error}")
            return None

    def _recordings(self) -> Iterator[str]:
        for relative in walk_files(self.root):
            if os.path.splitext(relative)[1][1:].lower() in self.extensions:
                yield relative

    @cached_property
    def _levels(self) -> dict[str, str]:
        """The columns of the folders, all of them text, so that a new folder never changes the type of a column."""
        depth = max((relative.count(os.sep) for relative in self._recordings()), default=0)
        return {f"folder{level}": "string" for level in range(1, depth + 1)}

    def _folder_columns(self, relative: str) -> dict[str, Scalar]:
        # A folder may have become deeper since its depth was found.
        return {
            name: encode_path(folder) for name, folder in zip(self._levels, relative.split(os.sep)[:-1], strict=False)
        }

    @cached_property
    def _metadata(self) -> Metadata | None:
        return Metadata(self._options.metadata, self.root, self._options.encoding) if self._options.metadata else None


def read_reference(path: str, encoding: str | None = None) -> str | None:
    """Return the text of a file without surrounding white space; `None` if there is no such file, or it has no text.

    The numbers of samples in a text of TIMIT are left out.

    Args:
        path: The file. It is UTF-8, or UTF-16 with a byte order mark.
        encoding: The encoding of a file that is neither.

    Raises:
        ValueError: The file is not regular, cannot be read, is larger than 1 MB, or is in none of these encodings.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a file")
        if status.st_size > MAX_TEXT_BYTES:
            raise ValueError("larger than 1 MB")
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT_BYTES)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            text = decoded(data, encoding).removeprefix("\ufeff")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8, or name its encoding with dataset.encoding=, such as cp1252"
        raise ValueError(f"not {error.encoding.upper()}; {remedy}") from None
    if "\0" in text:
        raise ValueError(f"has NUL characters; save it as UTF-8, or {utf16_remedy(text)}")
    return _TIMIT.sub("", text.strip()) or None
