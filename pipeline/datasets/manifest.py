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

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from omegaconf import MISSING

from pipeline.datasets import refuse_empty, require_folder
from pipeline.datasets.formats import Listing, Row, kaldi
from pipeline.datasets.formats.mapping import ROLES
from pipeline.datasets.formats.opening import ListOptions, Values, open_list
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import column_value, segment_mark, shown
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path, resolve_path

_REMEDY = "give a list (JSON lines, CSV, TSV, Parquet, lhotse, RTTM, STM, ...) or a Kaldi data folder"
_SAID = {"text": "reference"}


@dataclass
class Options(ListOptions):
    """The options `dataset.*` of `dataset=manifest`.

    Attributes:
        path: The list, or a Kaldi data folder.
        audio_root: The folder that relative paths are relative to, and that contains the recordings of an RTTM or STM
            file; `None` for the folder that the list names, or the folder of the list.
    """

    path: str = MISSING
    audio_root: str | None = None


@dataclass(frozen=True)
class _Scan:
    """The result of one pass over a list.

    Attributes:
        common: The deepest folder that contains all absolute paths outside the folder that relative paths refer to.
        types: The Arrow type of every column by name.
        hint: Which column may hold references, and what to do, if the format lets a user choose the column.
    """

    common: str
    types: dict[str, str]
    hint: str


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
        self._base = self.path if os.path.isdir(self.path) else os.path.dirname(self.path)
        if options.audio_root:
            self._base = require_folder(options.audio_root, key="dataset.audio_root")

    def _check(self) -> None:
        options, name = self._options, self._source.name
        options.check()
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

    def reading(self, num_references: int) -> str:
        """Say how the list was read: which column is the path, the reference and so on, and which are the list's own.

        Args:
            num_references: Utterances with a reference. If there are none, and a column seems to hold them, its key is
                named.
        """
        listing = self._listing
        used = [role for role in ROLES if role in listing.roles and (role != "duration" or "start" in listing.roles)]
        roles = [f"{_SAID.get(role, role)} from {shown(listing.roles[role])}" for role in used]
        own = list(self._scanned.types)
        columns = f"own columns {', '.join(map(shown, own[:40])) or 'none'}"
        said = f"{os.path.basename(self.path)} read as {listing.format}: {', '.join([*roles, columns])}"
        hint = "" if num_references or self._options.columns.text == "" else self._scanned.hint
        return f"{said}; no references, but {hint}" if hint else said

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
        values = Values()
        for number, row in enumerate(listing.rows()):
            if listing.from_anywhere and number == 0:
                self._check_base(row.path)
            if os.path.isabs(row.path) and not _is_below(row.path, self._folder):
                folder = os.path.dirname(os.path.normpath(row.path))
                common = folder if common is None else os.path.commonpath((common, folder))
            values.add(row.extras)
        return _Scan(common or self._folder, values.types(listing.types), values.hint() if listing.roles else "")

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


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath((os.path.normpath(path), folder)) == folder
