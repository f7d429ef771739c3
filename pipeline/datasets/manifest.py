"""Reads recordings from a list that the user gives: JSON lines, CSV, TSV, Parquet, Kaldi, lhotse or RTTM.

The readers of the formats are in `pipeline.datasets.formats`. Relative paths are relative to `dataset.audio_root`, by
default to the folder of the list, or to the Kaldi data folder. All values of a list other than path, times, channel, id
and reference become columns.

An id does not depend on where the list and its recordings are stored. If the list has ids, they are used unchanged.
Otherwise the id is made from the path:

- a relative path is used as listed;
- an absolute path below the folder that relative paths refer to is made relative to that folder;
- any other absolute path is made relative to the deepest folder that contains all such paths.

A segment adds `#12340-15980` (in milliseconds; nothing after the dash if the segment ends with the file), and a channel
adds `#c2`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

from omegaconf import MISSING

from pipeline.datasets import refuse_empty, require_folder, walk_files
from pipeline.datasets.formats import Listing, Row, delimited, jsonl, kaldi, lhotse, rttm
from pipeline.datasets.formats.detect import FORMATS, detect
from pipeline.datasets.formats.mapping import ROLES, Columns
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import column_type, column_value, segment_mark
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path, resolve_path

_REMEDY = "give a list (JSON lines, CSV, TSV, Parquet, lhotse, RTTM) or a Kaldi data folder"
_MAPPED = ("jsonl", "csv", "tsv", "parquet")


@dataclass
class Options:
    """The options `dataset.*` of `dataset=manifest`.

    Attributes:
        path: The list, or a Kaldi data folder.
        format: One of `FORMATS`, or `auto` to recognise the format from the name and the first lines of the list.
        audio_root: The folder that relative paths are relative to, and that contains the recordings of an RTTM file;
            `None` for the folder of the list.
        columns: The meaning of the columns of CSV, TSV and Parquet, and of the keys of JSON lines.
        delimiter: The delimiter of CSV: auto, comma, semicolon, tab or pipe.
        quotes: Whether quotes enclose values; `None` means yes for CSV and no for TSV.
        extensions: Extensions of the recordings of an RTTM file.
    """

    path: str = MISSING
    format: str = "auto"
    audio_root: str | None = None
    columns: Columns = field(default_factory=Columns)
    delimiter: str = "auto"
    quotes: bool | None = None
    extensions: list[str] = field(default_factory=lambda: ["wav", "flac", "sph", "ogg", "opus", "mp3", "m4a"])


@dataclass(frozen=True)
class _Scan:
    """The result of one pass over a list.

    Attributes:
        common: The deepest folder that contains all absolute paths outside the folder that relative paths refer to.
        types: The Arrow type of every column by name.
    """

    common: str
    types: dict[str, str]


class Dataset:
    """The utterances of a list, in the list's order."""

    def __init__(self, options: Options) -> None:
        """Check that the list exists. Its lines are read when the manifest is made.

        Raises:
            UserError: The list does not exist or cannot be read twice, or an option is wrong.
        """
        if options.path in ("", MISSING):
            raise UserError(f"dataset.path is required and has no default; {_REMEDY}")
        self.path = os.path.abspath(os.path.expanduser(options.path))
        self._options = options
        self._source = Source(self.path, f"dataset.path={options.path}")
        self.run_name = "manifest"
        self.notice: str | None = None
        self._check()
        self._folder = self.path if os.path.isdir(self.path) else os.path.dirname(self.path)
        if options.audio_root:
            self._folder = require_folder(options.audio_root, key="dataset.audio_root")

    def _check(self) -> None:
        options, name = self._options, self._source.name
        for key, value, allowed in (
            ("format", options.format, ("auto", *FORMATS)),
            ("delimiter", options.delimiter, ("auto", *delimited.DELIMITERS)),
        ):
            if value not in allowed:
                raise UserError(f"dataset.{key}={value}: not allowed; there are {', '.join(allowed)}")
        if not options.extensions or not all(options.extensions):
            given = ",".join(options.extensions)
            raise UserError(f"dataset.extensions=[{given}]: must be a list of extensions, such as [wav,flac]")
        if not os.path.exists(self.path):
            raise UserError(f"{name}: no such file; {_REMEDY}")
        if os.path.isdir(self.path):
            if options.format not in ("auto", "kaldi"):
                raise UserError(f"{name}: not a file; give a list, or set dataset.format=kaldi")
            if not kaldi.is_data_folder(self.path):
                raise UserError(f"{name}: not a file, but a folder without wav.scp; {_REMEDY}")
        elif not os.path.isfile(self.path):
            raise UserError(f"{name}: not a file; {_REMEDY}")
        elif options.format == "kaldi":
            raise UserError(f"{name}: not a folder; give the Kaldi data folder, which holds wav.scp")

    def columns(self) -> dict[str, str]:
        """Return the columns of the list that are not path, times, channel, id or reference.

        Raises:
            UserError: The list cannot be read, or a line is wrong; the message has the line's number.
        """
        return self._scanned.types

    def utterances(self) -> Iterator[Utterance]:
        """Yield every row of the list as an utterance.

        Raises:
            UserError: The list is empty, or a line is wrong.
        """
        return refuse_empty(self._utterances(), f"{self._source.name}: lists no recordings")

    def _utterances(self) -> Iterator[Utterance]:
        types = self._scanned.types
        for row in self._listing.rows():
            yield Utterance(
                id=self._id(row),
                path=resolve_path(os.path.join(self._folder, row.path)),
                reference=row.reference,
                start_s=row.start_s,
                end_s=row.end_s,
                columns={key: column_value(value, types[key]) for key, value in row.extras.items()},
                channel=row.channel,
            )

    def _id(self, row: Row) -> str:
        if row.id is not None:
            return encode_path(row.id)
        listed = row.path
        if os.path.isabs(listed):
            base = self._folder if _is_below(listed, self._folder) else self._scanned.common
            listed = os.path.relpath(listed, base)
        id_ = encode_path(posixpath.normpath(listed.replace(os.sep, "/")))
        return f"{id_}{segment_mark(row.start_s, row.end_s)}{'' if row.channel is None else f'#c{row.channel}'}"

    @cached_property
    def _scanned(self) -> _Scan:
        listing = self._listing
        common: str | None = None
        kinds: dict[str, set[str]] = {}
        for number, row in enumerate(listing.rows()):
            if listing.from_anywhere and number == 0:
                self._check_base(row.path)
            if os.path.isabs(row.path) and not _is_below(row.path, self._folder):
                folder = os.path.dirname(os.path.normpath(row.path))
                common = folder if common is None else os.path.commonpath((common, folder))
            for key, value in row.extras.items():
                kinds.setdefault(key, set()).add(listing.kind(value))
        types = listing.types or {key: column_type(found) for key, found in sorted(kinds.items())}
        return _Scan(common or self._folder, dict(types))

    def _check_base(self, listed: str) -> None:
        """Refuse a list whose first path exists only relative to the working directory, and not to the list's folder.

        Raises:
            UserError: The path exists only there. The user must say which folder is meant.
        """
        path, other = os.path.join(self._folder, listed), os.path.abspath(listed)
        if not os.path.isabs(listed) and not os.path.lexists(path) and os.path.lexists(other):
            raise UserError(
                f"{self._source.name}: {listed!r} is not below {self._folder}, but below the working directory; "
                "set dataset.audio_root=. if paths are relative to the working directory"
            )

    @cached_property
    def _listing(self) -> Listing:
        options, source = self._options, self._source
        named = [role for role in ROLES if getattr(options.columns, role) is not None]
        format_ = options.format if options.format != "auto" else detect(source)
        if format_ == "lhotse" and named and options.format == "auto":
            format_ = "jsonl"  # lhotse's keys need no mapping
        if named and format_ not in _MAPPED:
            value = getattr(options.columns, named[0])
            raise UserError(f"dataset.columns.{named[0]}={value}: the format {format_} has fixed names; leave this out")
        match format_:
            case "csv" | "tsv":
                delimiter = delimited.DELIMITERS.get(options.delimiter, "\t" if format_ == "tsv" else None)
                quotes = format_ == "csv" if options.quotes is None else options.quotes
                return delimited.listing(source, options.columns, delimiter, quotes)
            case "parquet":
                from pipeline.datasets.formats import parquet  # loads Arrow, which no other format needs

                return parquet.listing(source, options.columns)
            case "kaldi":
                return kaldi.listing(source)
            case "lhotse":
                return lhotse.listing(source)
            case "rttm":
                return rttm.listing(source, self._find)
            case _:
                return jsonl.listing(source, options.columns)

    def _find(self, names: Set[str]) -> Mapping[str, str]:
        """Return the paths of the recordings of an RTTM file by their names without extension.

        Raises:
            UserError: A name matches two files, or the folder cannot be read.
        """
        endings = tuple(f".{extension.removeprefix('.').lower()}" for extension in self._options.extensions)
        found: dict[str, str] = {}
        for relative in walk_files(self._folder, key="dataset.audio_root"):
            name = os.path.basename(relative)
            for stem in {name[: -len(ending)] for ending in endings if name.lower().endswith(ending)} & names:
                if stem in found:
                    both = f"{encode_path(found[stem])!r} and {encode_path(relative)!r}"
                    raise UserError(
                        f"{self._source.name}: {stem!r} matches both {both} in {self._folder}; "
                        "narrow dataset.audio_root or dataset.extensions"
                    )
                found[stem] = relative
        return {name: found.get(name, f"{name}{endings[0]}") for name in names}


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath((os.path.normpath(path), folder)) == folder
