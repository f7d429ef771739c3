"""Opens a list of any format, and finds out what its columns hold."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.datasets import walk_files
from pipeline.datasets.formats import (
    Listing,
    Row,
    delimited,
    fairseq,
    jsonl,
    kaldi,
    lhotse,
    ljspeech,
    mls,
    rttm,
    stm,
    turns,
)
from pipeline.datasets.formats.detect import FORMATS, detect
from pipeline.datasets.formats.mapping import ROLES, Columns, sounds_like_text
from pipeline.datasets.formats.source import Source, check_encoding
from pipeline.datasets.formats.values import column_type, column_value, kind_of, reference, shown
from pipeline.records import Scalar
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path

MAPPED = ("jsonl", "csv", "tsv", "parquet")
"""The formats in which a user can say which column or key holds what."""
_SIMILAR = {"lhotse": "jsonl", "ljspeech": "csv", "mls": "tsv"}
"""The formats that read a list of a format with fixed names where a user says which column holds what."""

LOOKED_AT = 1000  # rows, and characters of a value
_WORDS = re.compile(r"[^\W\d_]+\s+[^\W\d_]+")  # two words, and not a date with a time


@dataclass
class ListOptions:
    """The options `dataset.*` of a list.

    Attributes:
        format: One of `FORMATS`, or `auto` to recognise the format from the name and the first lines of the list.
        columns: The meaning of the columns of CSV, TSV and Parquet, and of the keys of JSON objects.
        header: Whether the first line of CSV and TSV names the columns: auto, true or false.
        delimiter: The delimiter of CSV: auto, comma, semicolon, tab or pipe.
        quotes: Whether quotes enclose values; `None` means yes for CSV and no for TSV.
        extensions: Extensions of the recordings of an RTTM or STM file.
        encoding: The encoding of a list that is not UTF-8; `None` refuses such a list.
    """

    format: str = "auto"
    columns: Columns = field(default_factory=Columns)
    header: str = "auto"
    delimiter: str = "auto"
    quotes: bool | None = None
    extensions: list[str] = field(default_factory=lambda: ["wav", "flac", "sph", "ogg", "opus", "mp3", "m4a"])
    encoding: str | None = None

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: A value is not allowed.
        """
        for key, value, allowed in (
            ("format", self.format, ("auto", *FORMATS)),
            ("header", self.header.lower(), delimited.HEADERS),
            ("delimiter", self.delimiter, ("auto", *delimited.DELIMITERS)),
        ):
            if value not in allowed:
                raise UserError(f"dataset.{key}={value}: not allowed; there are {', '.join(allowed)}")
        if not self.extensions or not all(self.extensions):
            given = ",".join(self.extensions)
            raise UserError(f"dataset.extensions=[{given}]: must be a list of extensions, such as [wav,flac]")
        check_encoding(self.encoding)


def open_list(source: Source, folder: str, options: ListOptions) -> Listing:
    """Return a list.

    Args:
        source: The list.
        folder: The folder that relative paths are relative to.
        options: How to read the list.

    Raises:
        UserError: The list cannot be read, or an option does not fit its format.
    """
    columns = options.columns
    named = [role for role in ROLES if getattr(columns, role) is not None]
    format_ = options.format if options.format != "auto" else detect(source, folder)
    if named and format_ not in MAPPED:
        value, similar = getattr(columns, named[0]), _SIMILAR.get(format_)
        if options.format != "auto" or similar is None:
            raise UserError(f"dataset.columns.{named[0]}={value}: the format {format_} has fixed names; leave this out")
        format_ = similar
    return replace(_listing(source, folder, options, format_), format=format_)


def _listing(source: Source, folder: str, options: ListOptions, format_: str) -> Listing:
    columns = options.columns
    match format_:
        case "csv" | "tsv":
            delimiter = delimited.DELIMITERS.get(options.delimiter, "\t" if format_ == "tsv" else None)
            quotes = format_ == "csv" if options.quotes is None else options.quotes
            return delimited.listing(source, columns, delimiter, quotes, options.header.lower())
        case "parquet":
            from pipeline.datasets.formats import parquet  # loads Arrow, which no other format needs

            return parquet.listing(source, columns)
        case "kaldi":
            return kaldi.listing(source)
        case "lhotse":
            return lhotse.listing(source)
        case "rttm" | "stm":
            parse = rttm.parse if format_ == "rttm" else stm.parse
            return turns.listing(source, parse, lambda names: _find(source, folder, options.extensions, names))
        case "fairseq":
            return fairseq.listing(source)
        case "ljspeech":
            return ljspeech.listing(source, folder)
        case "mls":
            return mls.listing(source, folder)
        case _:
            return jsonl.listing(source, columns)


def _find(source: Source, folder: str, extensions: Iterable[str], names: Set[str]) -> Mapping[str, str]:
    """Return the paths of the recordings of an RTTM or STM file by their names without extension.

    Raises:
        UserError: A name matches two files, or the folder cannot be read.
    """
    endings = tuple(f".{extension.removeprefix('.').lower()}" for extension in extensions)
    found: dict[str, str] = {}
    for relative in walk_files(folder, key="dataset.audio_root"):
        name = os.path.basename(relative)
        for stem in {name[: -len(ending)] for ending in endings if name.lower().endswith(ending)} & names:
            if stem in found:
                both = f"{encode_path(found[stem])!r} and {encode_path(relative)!r}"
                raise UserError(
                    f"{source.name}: {stem!r} matches both {both} in {folder}; "
                    "narrow dataset.audio_root or dataset.extensions"
                )
            found[stem] = relative
    return {name: found.get(name, f"{name}{endings[0]}") for name in names}


def usable(
    row: Row, types: Mapping[str, str], warn: Callable[[str, str], None]
) -> tuple[str | None, dict[str, Scalar]]:
    """Return the reference and the own columns of a row. What cannot be used is null.

    Args:
        row: The row.
        types: The Arrow type of every column by name.
        warn: Called with the kind and the place of a value that cannot be used.
    """
    text: str | None = None
    columns: dict[str, Scalar] = {}
    try:
        text = reference("reference", row.reference)
    except ValueError as error:
        warn("references that cannot be used, so that the utterance has none", f"{row.place}: {error}")
    for key, value in row.extras.items():
        try:
            columns[key] = column_value(value, types[key])
        except ValueError as error:
            warn(f"values of column {shown(key)} that cannot be used, and are null", f"{row.place}: {error}")
    return text, columns


class Values:
    """The values of the columns of a list, a row at a time: their types, and which of them may be references."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}
        self._rows = 0
        self._sentences: Counter[str] = Counter()
        self._nested: set[str] = set()

    def add(self, values: Mapping[str, Any]) -> None:
        """Take the values of a row into account."""
        self._rows += 1
        for key, value in values.items():
            kinds = self._kinds.setdefault(key, set())
            if "string" not in kinds:  # once a string, always a string
                kinds.add(kind_of(value))
            if self._rows <= LOOKED_AT:
                self._look_for_text(key, value)

    def add_kinds(self, key: str, kinds: set[str]) -> None:
        """Take values of a column into account whose kinds are known."""
        self._kinds.setdefault(key, set()).update(kinds)

    def is_text(self, key: str) -> bool:
        """Whether a column has a text, so that its type is known whatever its other values are."""
        return "string" in self._kinds.get(key, ())

    def _look_for_text(self, key: str, value: Any) -> None:
        if isinstance(value, str):
            self._sentences[key] += _WORDS.search(value, 0, LOOKED_AT) is not None
        names = (name for item in value if isinstance(item, dict) for name in item) if isinstance(value, list) else ()
        if any(map(sounds_like_text, names)):
            self._nested.add(key)

    def types(self, declared: Mapping[str, str]) -> dict[str, str]:
        """Return the Arrow type of every column by name, sorted by name. A declared type stands."""
        return {key: declared.get(key) or column_type(kinds) for key, kinds in sorted(self._kinds.items())}

    def hint(self) -> str:
        """Say which column may hold references, by its name or its values, and what to do; an empty string if none."""
        if columns := self._like_references():
            key = shlex.quote(f"dataset.columns.text={columns[0]}")
            return f"{' and '.join(map(shown, columns[:5]))} may hold them: set {key}"
        nested = " and ".join(map(shown, sorted(self._nested)))
        return f"the objects in {nested} may hold them: write each as a line, with its path and times" if nested else ""

    def _like_references(self) -> list[str]:
        """Return the columns that may hold references, the likeliest first."""
        half = min(self._rows, LOOKED_AT) / 2
        likely = {
            key: sounds_like_text(key) + 2 * (self._sentences[key] > half)
            for key, kinds in self._kinds.items()
            if column_type(kinds) == "string" and kinds != {"null"}
        }
        return [key for key in sorted(likely, key=lambda key: -likely[key]) if likely[key]]
