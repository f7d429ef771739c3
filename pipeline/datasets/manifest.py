"""Recordings listed by somebody else: JSON lines, CSV, TSV, Parquet, Kaldi, lhotse, RTTM.

The readers of the formats are in `pipeline.datasets.formats`. Relative paths are relative to `dataset.audio_root`,
without it to the folder of the list (of a Kaldi data folder, to that folder); what a list says beside path,
times, channel, id and reference becomes columns.

Ids, the same wherever the list and its recordings lie: the list's own as it stands. Otherwise the path: as
listed, if relative; an absolute one relative to the folder that relative ones are relative to, if it is
below; else relative to the deepest folder that holds all absolute paths which are not. A segment of a file
adds `#12340-15980` (milliseconds; nothing after the dash where the end is the file's), a channel `#c2`.
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

_GIVE = "give a list (JSON lines, CSV, TSV, Parquet, lhotse, RTTM) or a Kaldi data folder"
_MAPPED = ("jsonl", "csv", "tsv", "parquet")


@dataclass
class Options:
    """`dataset.*` of `dataset=manifest`.

    Attributes:
        path: The list, or a Kaldi data folder.
        format: One of `FORMATS`; auto: from the name and the beginning of the list.
        audio_root: The folder that relative paths are relative to, and that holds the recordings of an RTTM
            file; `None`: the list's.
        columns: What the columns of CSV, TSV and Parquet, and the keys of JSON lines, mean.
        delimiter: Of CSV: auto, comma, semicolon, tab or pipe.
        quotes: Whether quotes enclose values; `None`: in CSV they do, in TSV they are text.
        extensions: Of the recordings of an RTTM file.
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
    """What one pass over a list finds.

    Attributes:
        common: The folder that holds all absolute paths outside the list's own.
        types: Key to Arrow type.
    """

    common: str
    types: dict[str, str]


class Dataset:
    """The utterances of a list, in the list's order."""

    def __init__(self, options: Options) -> None:
        """Looks whether there is a list; its lines are read when the manifest is made.

        Raises:
            UserError: There is no list, it is not one to be read twice, or an option does not fit.
        """
        if options.path in ("", MISSING):
            raise UserError(f"dataset.path is required and has no default; {_GIVE}")
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
            raise UserError(f"dataset.extensions=[{','.join(options.extensions)}]: give some, such as [wav,flac]")
        if not os.path.exists(self.path):
            raise UserError(f"{name}: no such file; {_GIVE}")
        if os.path.isdir(self.path):
            if options.format not in ("auto", "kaldi"):
                raise UserError(f"{name}: not a file; give a list, or say dataset.format=kaldi")
            if not kaldi.is_data_folder(self.path):
                raise UserError(f"{name}: not a file, and no Kaldi data folder, since it has no wav.scp; {_GIVE}")
        elif not os.path.isfile(self.path):
            raise UserError(f"{name}: not a file; {_GIVE}")
        elif options.format == "kaldi":
            raise UserError(f"{name}: not a folder; give the Kaldi data folder, which holds wav.scp")

    def columns(self) -> dict[str, str]:
        """What the list says that has no meaning here.

        Raises:
            UserError: The list cannot be read, or a line is wrong; with the number of the line.
        """
        return self._scanned.types

    def utterances(self) -> Iterator[Utterance]:
        """Every row as an utterance.

        Raises:
            UserError: There is none, or a line is wrong.
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
        """Refuse to guess: the first path is not where it would be looked for, but in the working directory.

        Raises:
            UserError: So it is.
        """
        path, other = os.path.join(self._folder, listed), os.path.abspath(listed)
        if not os.path.isabs(listed) and not os.path.lexists(path) and os.path.lexists(other):
            raise UserError(
                f"{self._source.name}: {listed!r} is not below {self._folder}, but below the working directory; "
                "say dataset.audio_root=. if that is meant"
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
            raise UserError(f"dataset.columns.{named[0]}={value}: {format_} has its own names; leave it out")
        match format_:
            case "csv" | "tsv":
                delimiter = delimited.DELIMITERS.get(options.delimiter, "\t" if format_ == "tsv" else None)
                quotes = format_ == "csv" if options.quotes is None else options.quotes
                return delimited.listing(source, options.columns, delimiter, quotes)
            case "parquet":
                from pipeline.datasets.formats import parquet  # loads Arrow, which no other list needs

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
        """Where the recordings of an RTTM file are, by their names without extension.

        Raises:
            UserError: A name fits two files, or the folder cannot be read.
        """
        endings = tuple(f".{extension.removeprefix('.').lower()}" for extension in self._options.extensions)
        found: dict[str, str] = {}
        for relative in walk_files(self._folder, key="dataset.audio_root"):
            name = os.path.basename(relative)
            for stem in {name[: -len(ending)] for ending in endings if name.lower().endswith(ending)} & names:
                if stem in found:
                    both = f"{encode_path(found[stem])!r} and {encode_path(relative)!r}"
                    raise UserError(
                        f"{self._source.name}: {stem!r} may be {both} in {self._folder}; "
                        "narrow dataset.audio_root, or dataset.extensions"
                    )
                found[stem] = relative
        return {name: found.get(name, f"{name}{endings[0]}") for name in names}


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath((os.path.normpath(path), folder)) == folder
