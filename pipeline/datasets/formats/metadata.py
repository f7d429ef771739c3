"""Reads a list that describes recordings which are found without it, and finds the row of each recording."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from pipeline.datasets import Warnings
from pipeline.datasets.formats import Row
from pipeline.datasets.formats.detect import detect
from pipeline.datasets.formats.mapping import Columns
from pipeline.datasets.formats.naming import ByPath, relative_key, spelled
from pipeline.datasets.formats.opening import MAPPED, ListOptions, Values, open_list, usable
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import shown
from pipeline.records import Scalar
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path


@dataclass
class _Columns(Columns):
    """A path or an id names the recording. There are no segments, so times are columns like others."""

    start: str | None = ""
    end: str | None = ""
    duration: str | None = ""
    channel: str | None = ""
    id_is_enough: ClassVar[bool] = True


class Metadata:
    """The rows of a list by the recording that they name. Memory holds all of them.

    A row names a recording by its path, or by its id, which is the path relative to the root. The extension may be
    missing. If no row names a folder, a file name is enough.

    Attributes:
        types: The Arrow type of every column by name.
        warnings: What cannot be used.
    """

    def __init__(self, path: str, root: str, encoding: str | None = None) -> None:
        """Read the list.

        Args:
            path: The list: CSV, TSV, JSON or Parquet.
            root: The folder of the recordings.
            encoding: The encoding of a list that is not UTF-8.

        Raises:
            UserError: The list cannot be read.
        """
        self._source = Source(os.path.abspath(os.path.expanduser(path)), f"dataset.metadata={path}", encoding)
        self.warnings = Warnings()
        format_ = detect(self._source)
        if format_ not in MAPPED:
            raise UserError(f"{self._source.name}: read as {format_}; give CSV, TSV, JSON lines or Parquet")
        listing = open_list(self._source, root, ListOptions(columns=_Columns()))
        values = Values()
        by_path: dict[str, Row | None] = {}
        by_id: dict[str, Row | None] = {}
        for row in listing.rows():
            if row.error is not None:
                self.warnings.add("rows of dataset.metadata that cannot be used", row.error)
                continue
            key = relative_key(row.path, root, os.path.dirname(self._source.path), os.path.lexists)
            if key in by_path:
                # Nobody knows which of two rows is right.
                twice = f"{row.place}: {shown(row.path)}"
                self.warnings.add("rows of dataset.metadata that repeat a recording, so that none is used", twice)
            by_path[key] = None if key in by_path else row
            if row.id is not None:
                id_ = spelled(row.id)
                by_id[id_] = None if id_ in by_id else row  # an id that appears twice says nothing
            values.add(row.extras)
        self.types = values.types(listing.types)
        self._by_path, self._by_id = ByPath(by_path), ByPath(by_id)
        self._paths = list(by_path)
        self._used: dict[str, str] = {}

    def of(self, relative: str) -> tuple[str | None, dict[str, Scalar]]:
        """Return the reference and the columns of a recording; nothing if it has no row.

        Args:
            relative: The path of the recording relative to the root.

        Raises:
            UserError: The row may belong to another recording too.
        """
        row = self._by_path.find(relative) or self._by_id.find(relative)
        if row is None:
            return None, {}
        if self._used.setdefault(row.path, relative) != relative:
            both = f"{encode_path(self._used[row.path])!r} and {encode_path(relative)!r}"
            raise UserError(
                f"{self._source.name}: {shown(row.path)} matches both {both}; give the path relative to dataset.root"
            )
        return usable(row, self.types, self.warnings.add)

    def said(self) -> str:
        """Say how many rows belong to a recording that was asked for."""
        return (
            f"{os.path.basename(self._source.path)}: {len(self._used)} of {len(self._paths)} rows belong to a recording"
        )

    def check_used(self, relative: str) -> None:
        """Check that a row belongs to one of the recordings that were asked for; `relative` is one of them.

        Raises:
            UserError: No row does.
        """
        if not self._used:
            raise UserError(
                f"{self._source.name}: no row belongs to a recording; its rows name recordings as "
                f"{shown(next(iter(self._paths), ''))}, but their paths in dataset.root are like "
                f"{shown(encode_path(relative))}"
            )
