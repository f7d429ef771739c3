"""Reads recordings from a list that the user gives, in one of the formats of `pipeline.datasets.formats`.

Relative paths are relative to `dataset.audio_root`, by default to the folder that the list names, the folder of the
list, or the Kaldi data folder. All values of a list other than path, times, channel, id and reference become columns.

An id does not depend on where the list and its recordings are stored. If the list has ids, they are used unchanged.
Otherwise the id is made from the path:

- a relative path is used as listed;
- an absolute path below the folder that relative paths refer to is made relative to that folder;
- any other absolute path is made relative to the deepest folder that contains all such paths.

A segment adds `#12340-15980` (in milliseconds; nothing after the dash if the segment ends with the file), and a channel
adds `#c2`.
"""

from __future__ import annotations

import math
import ntpath
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from omegaconf import MISSING

from pipeline.audio.archives.members import unpacked
from pipeline.datasets import Warnings, refuse_empty, require_folder
from pipeline.datasets.formats import Listing, Row, kaldi
from pipeline.datasets.formats.detect import parquet_files
from pipeline.datasets.formats.locating import PLACEHOLDER, located
from pipeline.datasets.formats.mapping import ROLES
from pipeline.datasets.formats.opening import ListOptions, open_list, usable
from pipeline.datasets.formats.scanning import Scan, scan_columns, scan_rows
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import segment_mark, shown
from pipeline.records import Utterance
from pipeline.runtime.digests import sha256_of
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.places import absolute, is_absolute, is_below, is_url
from pipeline.runtime.remote_files import is_folder, is_there, open_buffered

if TYPE_CHECKING:
    from pipeline.datasets.formats.columnar import ColumnReader, UtteranceColumns

_REMEDY = (
    "give a list (JSON lines, CSV, TSV, Parquet, lhotse, RTTM, STM, ...), a Kaldi data folder, or a folder of Parquet "
    "files"
)
_SAID = {"text": "reference"}


@dataclass
class Options(ListOptions):
    """The options `dataset.*` of `dataset=manifest`.

    Attributes:
        path: The list, or a Kaldi data folder.
        audio_root: The folder that relative paths are relative to, and that contains the recordings of an RTTM or STM
            file; `None` for the folder that the list names, or the folder of the list.
        segment_slack_s: Seconds by which a segment may end after its recording. Such an end is cut with a warning.
        read_headers: Whether the headers of all recordings are read for the manifest. Otherwise only those of which the
            list says neither the duration nor the end.
    """

    path: str = MISSING
    audio_root: str | None = None
    segment_slack_s: float = 0.5
    read_headers: bool = True


class Dataset:
    """The utterances of a list, in the list's order."""

    def __init__(self, options: Options) -> None:
        """Check that the list exists. Its lines are read when the manifest is made.

        Raises:
            UserError: The list does not exist or cannot be read twice, or an option is wrong.
        """
        if options.path in ("", MISSING):
            raise UserError(f"dataset.path is required and has no default; {_REMEDY}")
        self.path = absolute(options.path)
        self._options = options
        self._source = Source(self.path, f"dataset.path={options.path}", options.encoding)
        self._warnings = Warnings()
        self._first = ""
        self.list_sha256 = ""  # set where `blocks` has read all of the list without looking at a recording
        self.run_name = "manifest"
        self.notice: str | None = None
        self.segment_slack_s = options.segment_slack_s
        self._check()
        self._base = self.path if is_folder(self.path) else os.path.dirname(self.path)
        if options.audio_root:
            key, root = "dataset.audio_root", options.audio_root
            self._base = absolute(root) if is_url(root) else require_folder(root, key=key)

    def _check(self) -> None:
        options, name = self._options, self._source.name
        options.check()
        if not 0 <= options.segment_slack_s < math.inf:
            raise UserError(
                f"dataset.segment_slack_s={options.segment_slack_s}: must be a number of seconds, 0 or more"
            )
        if not is_there(self.path):
            raise UserError(f"{name}: no such file; {_REMEDY}")
        if is_folder(self.path):
            if options.format not in ("auto", "kaldi", "parquet"):
                raise UserError(f"{name}: not a file; give a list, or set dataset.format=kaldi or parquet")
            if not kaldi.is_data_folder(self.path) and not parquet_files(self.path):
                raise UserError(f"{name}: not a file, but a folder without wav.scp and Parquet files; {_REMEDY}")
        elif not (is_url(self.path) or os.path.isfile(self.path)):
            raise UserError(f"{name}: not a file; {_REMEDY}")
        elif options.format == "kaldi":
            raise UserError(f"{name}: not a folder; give the Kaldi data folder, which holds wav.scp")

    def columns(self) -> dict[str, str]:
        """Return the columns of the list that are not path, times, channel, id or reference.

        Raises:
            UserError: The list cannot be read.
        """
        return self._scanned.types

    def utterances(self) -> Iterator[Utterance]:
        """Yield every row of the list as an utterance.

        Raises:
            UserError: The list is empty, or no row can be used. Otherwise a wrong row is an utterance with an `error`.
        """
        return self._refuse_empty(self._utterances())

    def _refuse_empty(self, utterances: Iterator[Utterance]) -> Iterator[Utterance]:
        return refuse_empty(utterances, f"{self._source.name}: lists no recordings")

    def reading(self, num_references: int) -> str:
        """Say how the list was read: which column is the path, the reference and so on, and which are the list's own.

        Args:
            num_references: Utterances with a reference. If there are none, and a column seems to hold them, its key is
                named.
        """
        listing = self._listing
        times = "start" in listing.roles or not self._options.read_headers
        used = [role for role in ROLES if role in listing.roles and (role != "duration" or times)]
        roles = [f"{_SAID.get(role, role)} from {shown(listing.roles[role])}" for role in used]
        own = list(self._scanned.types)
        columns = f"own columns {', '.join(map(shown, own[:40])) or 'none'}"
        said = f"{os.path.basename(self.path)} read as {listing.format}: {', '.join([*roles, columns])}"
        hint = "" if num_references or self._options.columns.text == "" else self._scanned.hint
        return f"{said}; no references, but {hint}" if hint else said

    def warnings(self) -> list[str]:
        """Return a line for each kind of value or row that could not be used."""
        return self._warnings.lines()

    def not_found(self) -> str:
        """Say where the recordings of the list are looked for, and what to do if none exists."""
        if is_absolute(self._first) or ntpath.splitdrive(self._first)[0]:
            return (
                "the paths of the list are absolute; mount their disk, or write them relative to a folder and set "
                "dataset.audio_root= to that folder"
            )
        said = (
            f"the paths of the list are relative to {self._folder}; "
            "set dataset.audio_root= to the folder of the recordings"
        )
        if found := PLACEHOLDER.match(self._first):
            return f"{said}, for which {shown(found[0])} stands"
        return said

    def _utterances(self) -> Iterator[Utterance]:
        types, self._warnings, self._first = self._scanned.types, Warnings(), ""
        for row in self._listing.rows():
            yield self._utterance(row, types)

    @property
    def by_columns(self) -> bool:
        """Whether `blocks` can be read, which takes less time than `utterances`."""
        return self._columns is not None

    def blocks(self) -> Iterator[Sequence[Utterance] | UtteranceColumns]:
        """Yield what `utterances` yields in blocks, as columns where no value is unusual.

        Raises:
            UserError: As `utterances`.
        """
        assert self._columns is not None
        assert self._listing.batches is not None
        types, self._warnings, self._first = self._scanned.types, Warnings(), ""
        unusable: list[Utterance] = []
        some, alone, sha256 = False, True, self.sha256()
        for batch in self._listing.batches():
            columns = None if batch.columns is None else self._columns.read(batch.columns, types)
            if columns is not None:
                some = some or len(batch.columns) > 0
                self._first = self._first or batch.columns[self._listing.roles["path"]][0].as_py()
                yield columns
                continue
            block = [self._utterance(row, types) for row in batch.rows()]
            some = some or any(each.error is None for each in block)
            unusable = unusable or block[:1]
            alone = False
            yield block
        self.list_sha256 = sha256 if alone else ""
        if not some:
            list(self._refuse_empty(iter(unusable)))

    def sha256(self) -> str:
        """Return the SHA-256 of the file of the list."""
        with open_buffered(self.path) as source:
            return sha256_of(source)

    def _utterance(self, row: Row, types: Mapping[str, str]) -> Utterance:
        error = None
        if row.error is not None:
            error = str(UserError(f"{self._source.name}: {row.error}"))  # escapes what cannot be seen
            self._warnings.add("rows that cannot be used, each of them a failure", row.error)
        self._first = self._first or row.path
        reference, columns = usable(row, types, self._warnings.add)
        duration_s = row.duration_s
        if row.start_s is not None:
            duration_s = None if row.end_s is None else row.end_s - row.start_s
        return Utterance(
            id=self._id(row),
            path=self._find(row),
            reference=reference,
            start_s=row.start_s,
            end_s=row.end_s,
            columns=columns,
            channel=row.channel,
            error=error,
            duration_s=duration_s if not self._options.read_headers and duration_s and duration_s > 0 else None,
        )

    def _id(self, row: Row) -> str:
        if row.id is not None:
            return encode_path(row.id)
        if not row.path:
            return row.place
        listed = unpacked(row.path)
        if is_absolute(listed):
            base = self._folder if is_below(listed, self._folder) else self._common
            listed = os.path.relpath(listed, base) if base else listed
        id_ = encode_path(posixpath.normpath(listed.replace("\\", "/")))
        if row.error is not None:
            return f"{id_}#{row.place}"  # its times and its channel are not known
        return f"{id_}{segment_mark(row.start_s, row.end_s)}{'' if row.channel is None else f'#c{row.channel}'}"

    def _find(self, row: Row) -> str:
        return located(self._folder, row, self._warnings.add) if row.path else ""

    @cached_property
    def _columns(self) -> ColumnReader | None:
        """Reads the list as columns; `None` if the format has none, or a recording has to be opened."""
        if self._options.read_headers or self._listing.batches is None:
            return None
        from pipeline.datasets.formats.columnar import ColumnReader  # loads Arrow

        return ColumnReader.of(self._listing.roles, self._folder)

    @cached_property
    def _scanned(self) -> Scan:
        return self._scan_rows() if self._columns is None else scan_columns(self._listing, self._columns)

    @cached_property
    def _common(self) -> str:
        return (self._scanned if self._columns is None else self._scan_rows()).common

    def _scan_rows(self) -> Scan:
        return scan_rows(self._listing, self._folder, self._check_base)

    def _check_base(self, listed: str) -> None:
        """Refuse a list whose first path exists only relative to the working directory, and not to the list's folder.

        Raises:
            UserError: The path exists only there. The user must say which folder is meant.
        """
        path, other = os.path.join(self._folder, listed), os.path.abspath(listed)
        if not is_absolute(listed) and not os.path.lexists(path) and os.path.lexists(other):
            raise UserError(
                f"{self._source.name}: {listed!r} is not below {self._folder}, but below the working directory; "
                "set dataset.audio_root=. if paths are relative to the working directory"
            )

    @cached_property
    def _listing(self) -> Listing:
        return open_list(self._source, self._base, self._options)

    @cached_property
    def _folder(self) -> str:
        """The folder that relative paths are relative to.

        Raises:
            UserError: The list names a folder that is not there.
        """
        listed = self._listing.folder
        if listed is None or self._options.audio_root:
            return self._base
        if not os.path.isdir(listed):
            raise UserError(
                f"{self._source.name}: line 1: {listed!r}: no such folder; "
                "set dataset.audio_root= to the folder of the recordings"
            )
        return os.path.normpath(listed)
