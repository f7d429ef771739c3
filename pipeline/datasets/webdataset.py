"""Reads the recordings in shards of WebDataset: tar files whose samples are files with the same name up to a dot.

    shard-000000.tar: talk_1.flac talk_1.txt talk_1.json talk_2.flac ...

`.txt` or `.transcript` is the reference. The values of `.json` are columns, and may hold the id and the reference.
Where they hold no id, it is `shard-000000/talk_1`. If a sample has several recordings, each is an utterance, and the
rest of its name is added: `shard-000000/talk_1.left.flac`.

Source: https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from omegaconf import MISSING

from pipeline.audio.archives.contents import COMPRESSED, Contents, Entry, is_archive
from pipeline.datasets import EXTENSIONS, Warnings, refuse_empty, walk_files
from pipeline.datasets.formats import Row
from pipeline.datasets.formats.json_objects import parse
from pipeline.datasets.formats.mapping import named_column, usual_columns
from pipeline.datasets.formats.opening import Values, usable
from pipeline.datasets.formats.source import check_encoding
from pipeline.datasets.formats.values import is_missing, shown, written
from pipeline.datasets.packed import Packed, broken, require_folder_or_archive
from pipeline.datasets.texts import reference_in
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path

_TEXTS = ("txt", "transcript")
_OTHERS = ("audio",)
"""The ending that an export of this project gives a recording whose format its name does not tell."""


@dataclass
class Keys:
    """The options `dataset.columns.*`: keys of the JSON objects. `None` looks for the usual names, '' for none.

    Attributes:
        text: Key of the reference, which then counts before `.txt`.
        id: Key of the id.
    """

    text: str | None = None
    id: str | None = None


@dataclass
class Options:
    """The options `dataset.*` of `dataset=webdataset`.

    Attributes:
        root: The folder of the tar files, or one of them.
        columns: The meaning of the keys of the JSON objects.
        extensions: Extensions of the recordings, with or without dot, in upper or lower case.
        encoding: The encoding of texts that are not UTF-8; `None` uses no such text.
    """

    root: str = MISSING
    columns: Keys = field(default_factory=Keys)
    extensions: list[str] = field(default_factory=lambda: [*EXTENSIONS, *_OTHERS])
    encoding: str | None = None


class _Sample(NamedTuple):
    """The files of a sample.

    Attributes:
        id: Path of the shard relative to the root without its ending, and the key of the sample.
        place: Where the sample is, for messages.
        recordings: The recordings by the rest of their names after the key.
        text: The content of `.txt` or `.transcript`; `None` if there is none.
        values: The JSON object; empty if there is none.
    """

    id: str
    place: str
    recordings: Mapping[str, str]
    text: str | None
    values: Mapping[str, Any]


class Dataset:
    """The recordings of the shards in a folder, in the order of the shards and of the samples in them."""

    def __init__(self, options: Options) -> None:
        self.root = require_folder_or_archive(options.root, (".tar",))
        self.run_name = f"webdataset-{encode_path(os.path.basename(self.root)) or 'root'}"
        self.notice: str | None = None
        self._options = options
        self._extensions = {extension.removeprefix(".").lower() for extension in options.extensions}
        if not self._extensions or "" in self._extensions:
            given = ",".join(options.extensions)
            raise UserError(f"dataset.extensions=[{given}]: must be a list of extensions, such as [wav,flac]")
        self._packed = Packed()
        self._warnings = Warnings()
        check_encoding(options.encoding)

    def columns(self) -> dict[str, str]:
        """Return the keys of the JSON objects that are neither the id nor the reference.

        Raises:
            UserError: A folder cannot be read, or `dataset.columns` does not fit.
        """
        return self._scanned[0]

    def utterances(self) -> Iterator[Utterance]:
        """Yield every recording.

        Raises:
            UserError: There are no recordings, a folder cannot be read, or `dataset.columns` does not fit.
        """
        message = f"dataset.root={self.root}: no samples with a recording found; looked into files that end in .tar"
        return refuse_empty(self._utterances(), message)

    def reading(self, num_references: int) -> str:
        """Say where ids, references and columns come from.

        Args:
            num_references: Utterances with a reference.
        """
        types, roles = self._scanned
        said = [f"{role} from the key {shown(key)}" for role, key in sorted(roles.items())]
        said.append(f"own columns {', '.join(map(shown, types)) or 'none'}")
        if not num_references:
            said.append("no references, which a .txt or .transcript of each sample or dataset.columns.text would give")
        return f"{self.run_name}: {'; '.join(said)}"

    def warnings(self) -> list[str]:
        """Return a line for each kind of file and value that could not be used."""
        return self._warnings.lines()

    def _utterances(self) -> Iterator[Utterance]:
        types, roles = self._scanned
        self._warnings = Warnings()
        for sample in self._samples():
            if isinstance(sample, Utterance):
                yield sample
                continue
            values = {key: value for key, value in sample.values.items() if key not in roles.values()}
            listed = sample.values.get(roles["text"]) if "text" in roles else None
            id_ = sample.values.get(roles["id"]) if "id" in roles else None
            text = sample.text if is_missing(listed) else listed
            row = Row("", reference=text, extras=values, place=sample.place)
            reference, columns = usable(row, types, self._warnings.add)
            base = sample.id if is_missing(id_) or not str(id_).strip() else encode_path(written(id_))
            for rest, path in sample.recordings.items():
                several = f".{rest}" if len(sample.recordings) > 1 else ""
                yield Utterance(f"{base}{several}", path, reference, columns=columns)

    def _samples(self) -> Iterator[_Sample | Utterance]:
        """Yield every sample with a recording, and a failed utterance for each shard that is damaged."""
        for relative, archive in self._shards():
            shard = encode_path(os.path.splitext(relative)[0].replace(os.sep, "/"))
            contents = self._packed.contents(archive, self._warnings)
            for key, files in _by_key(contents).items():
                recordings = {
                    rest: self._packed.path(archive, entry)
                    for rest, entry in files.items()
                    if rest.rpartition(".")[2].lower() in self._extensions
                }
                place = f"{relative}: {key}"
                if recordings:
                    text, values = self._text(archive, files, place), self._values(archive, files, place)
                    yield _Sample(f"{shard}/{key}", place, recordings, text, values)
                else:
                    self._warnings.add("samples without a recording, which are left out", place)
            if contents.damage:
                yield broken(archive, relative, contents)

    def _shards(self) -> Iterator[tuple[str, str]]:
        if is_archive(self.root):
            yield os.path.basename(self.root), self.root
            return
        for relative in walk_files(self.root):
            if relative.lower().endswith(".tar"):
                yield relative, os.path.join(self.root, relative)
            elif relative.lower().endswith(COMPRESSED):
                self._warnings.add("compressed shards, which are not read; gunzip a .tar.gz", relative)

    def _text(self, archive: str, files: Mapping[str, Entry], place: str) -> str | None:
        entry = next((files[name] for name in _TEXTS if name in files), None)
        try:
            return None if entry is None else reference_in(self._packed.read(archive, entry), self._options.encoding)
        except ValueError as error:
            self._warnings.add("references that cannot be used, so that the recording has none", f"{place}: {error}")
            return None

    def _values(self, archive: str, files: Mapping[str, Entry], place: str) -> Mapping[str, Any]:
        if "json" not in files:
            return {}
        try:
            values = parse(reference_in(self._packed.read(archive, files["json"]), self._options.encoding) or "{}")
            if isinstance(values, dict):
                return values
            raise ValueError("not an object")
        except ValueError as error:
            self._warnings.add("JSON that cannot be used, so that the recording has no columns", f"{place}: {error}")
            return {}

    @cached_property
    def _scanned(self) -> tuple[dict[str, str], dict[str, str]]:
        """The Arrow type of every column, and the keys of the id and the reference, as far as there are any."""
        values, keys, has_texts = Values(), dict[str, None](), False
        for sample in self._samples():
            if not isinstance(sample, Utterance):
                values.add(sample.values)
                keys |= dict.fromkeys(sample.values)
                has_texts = has_texts or sample.text is not None
        roles = {role: self._key(role, list(keys)) for role in ("id", "text") if role == "id" or not has_texts}
        if has_texts and self._options.columns.text:
            roles["text"] = self._key("text", list(keys))
        roles = {role: key for role, key in roles.items() if key}
        types = {key: type_ for key, type_ in values.types({}).items() if key not in roles.values()}
        return types, roles

    def _key(self, role: str, keys: list[str]) -> str:
        """Return the key of a role; an empty string if there is none.

        Raises:
            UserError: The key that is given is not there, or several may have the role.
        """
        given: str | None = getattr(self._options.columns, role)
        has = f"the keys of the JSON objects are {', '.join(map(shown, keys[:40])) or 'none'}"
        if given is not None:
            if given and not (found := named_column(given, keys)):
                raise UserError(f"dataset.columns.{role}={given}: no such key; {has}")
            return found if given else ""
        usual = usual_columns(role, keys)
        if len(usual) > 1:
            both, choice = " and ".join(usual), f"set dataset.columns.{role}={usual[0]}"
            raise UserError(f"dataset.root={self.root}: keys {both} may both hold the {role}; {choice}")
        return usual[0] if usual else ""


def _by_key(contents: Contents) -> dict[str, dict[str, Entry]]:
    """Return the files of each sample by the rest of their names after the key, which ends at the first dot."""
    samples: dict[str, dict[str, Entry]] = {}
    for entry in contents.entries:
        folder, name = posixpath.split(entry.place)
        stem, _, rest = name.partition(".")
        samples.setdefault(posixpath.join(folder, stem), {})[rest] = entry
    return samples
