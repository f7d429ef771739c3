"""Compares a corpus with the manifest of a run, and makes the manifest of a corpus that has grown.

New recordings become new shards behind the old ones. Shard numbers and results of earlier rows stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.audio.archives.members import member_of
from pipeline.audio.archives.opening import current_size
from pipeline.inference.planning import assign_shards
from pipeline.records import AudioHeader, Utterance
from pipeline.runtime.clock import timestamp
from pipeline.runtime.paths import encode_path
from pipeline.stages.build_manifest import Facts, Listing
from pipeline.storage.manifest import Generation, Manifest, chain_of
from pipeline.storage.tables import CHANNEL, MANIFEST_FIELDS, VANISHED, own_columns

_WORK = ("start_s", "end_s", CHANNEL, "file_size")
"""Columns that say what is computed. If one differs, the results of a row are those of another recording."""
_MEASURED = (*_WORK, "duration_s", "sample_rate", "num_channels", "num_samples")


class KnownHeaders:
    """The headers of the recordings that a manifest lists, for files that still have the same size."""

    def __init__(self, manifest: Manifest) -> None:
        """Index the rows of a manifest by id."""
        table = manifest.table
        self._rows = {id_: row for row, id_ in enumerate(table["id"].to_pylist())}
        names = ("sample_rate", "num_channels", "num_samples", "file_size", "start_s")
        self._paths = table["path"]
        self._facts = {name: table[name].fill_null(-1).to_numpy() for name in names}

    def of(self, utterance: Utterance) -> Facts | None:
        """Return header and file size as `Headers.of` does; `None` if the header must be read."""
        row = self._rows.get(utterance.id)
        if row is None:
            row = self._rows.get(f"{utterance.id}#c1")  # `channels=each` adds the channel to the id
        if row is None or f"{utterance.id}#2" in self._rows or self._facts["num_samples"][row] < 0:
            return None
        rate, channels, samples, size = (int(self._facts[name][row]) for name in [*self._facts][:4])
        try:
            if current_size(utterance.path, size if self._is_same_member(row, utterance.path) else None) != size:
                return None
        except OSError:
            return None
        first = round(max(0.0, float(self._facts["start_s"][row])) * rate)  # the samples of a segment are counted
        return AudioHeader(rate, channels, first + samples, size), size

    def _is_same_member(self, row: int, path: str) -> bool:
        """Whether the path of a row names the same place of an archive, which may have been moved."""
        before, now = member_of(self._paths[row].as_py()), member_of(encode_path(path))
        return before is not None and now is not None and before[:-1] == now[:-1]


@dataclass(frozen=True)
class Changes:
    """How a corpus differs from the manifest of a run.

    Attributes:
        manifest: The manifest.
        listed: The utterances of the corpus now.
        place: `(rows,)` row of each row of the manifest in `listed`; -1 if it is no longer listed.
        new: Rows of `listed` that the manifest lacks, ascending.
    """

    manifest: Manifest
    listed: Listing
    place: NDArray[np.int64]
    new: NDArray[np.int64]

    @cached_property
    def vanished(self) -> NDArray[np.int64]:
        """Rows of the manifest that are no longer listed, or whose file is gone."""
        gone = np.full(len(self.place), True)
        sizes = np.asarray(self.listed.table["file_size"].is_valid().to_numpy())
        there = self.place >= 0
        gone[there] = self._had_file[there] & ~sizes[self.place[there]]
        return np.flatnonzero(gone)

    @cached_property
    def replaced(self) -> NDArray[np.int64]:
        """Rows of the manifest that stand for another recording now: the file, the segment or the channel differs."""
        differs = self._differ(_WORK)
        differs[~self._had_file] = False
        differs[self.vanished] = False
        return np.flatnonzero(differs)

    @cached_property
    def found(self) -> NDArray[np.int64]:
        """Rows of the manifest that had no readable file or a wrong cell, and have a file now. They have no result."""
        sizes = np.append(np.asarray(self.listed.table["file_size"].is_valid().to_numpy()), False)  # for a place of -1
        return np.flatnonzero(~self._had_file & sizes[self.place])

    @cached_property
    def _had_file(self) -> NDArray[np.bool_]:
        return np.asarray(self.manifest.table["file_size"].is_valid().to_numpy())

    @cached_property
    def redoable(self) -> NDArray[np.int64]:
        """Replaced rows that can be computed again without losing the result of a vanished recording in their shard."""
        shards = self.manifest.shard_of_row
        return self.replaced[~np.isin(shards[self.replaced], shards[self.vanished])]

    @cached_property
    def other_reference(self) -> NDArray[np.int64]:
        """Rows of the manifest whose reference differs."""
        return np.flatnonzero(self._differ(["reference"]))

    @cached_property
    def other_columns(self) -> NDArray[np.int64]:
        """Rows of the manifest in which a column of the dataset's own differs; every row if one is new or gone."""
        before, now = own_columns(self.manifest.schema), own_columns(_schema(self))
        if before != now:
            return np.arange(len(self.place))
        return np.flatnonzero(self._differ([field.name for field in now if field.name != CHANNEL]))

    @cached_property
    def elsewhere(self) -> NDArray[np.int64]:
        """Rows of the manifest whose recording lies in another place, such as in an archive that was written again."""
        return np.flatnonzero(self._differ(["path"]))

    @property
    def none(self) -> bool:
        """Whether nothing has changed, except perhaps the place of the files."""
        return not len(self.replaced) and not self.to_take_over(redo=False)

    def to_take_over(self, redo: bool) -> bool:
        """Whether the manifest or the transcripts change. A replaced recording keeps its result unless `redo`."""
        changed = (self.newly_vanished, self.returned, self.found, self.other_reference, self.other_columns)
        return len(self.new) > 0 or any(map(len, changed)) or (redo and len(self.redoable) > 0)

    @cached_property
    def _was_gone(self) -> NDArray[np.bool_]:
        table = self.manifest.table
        if VANISHED not in table.schema.names:
            return np.full(len(self.place), False)
        return np.asarray(table[VANISHED].is_valid().to_numpy())

    @property
    def newly_vanished(self) -> NDArray[np.int64]:
        """Rows that have vanished since the corpus was listed last."""
        return self.vanished[~self._was_gone[self.vanished]]

    @property
    def returned(self) -> NDArray[np.int64]:
        """Rows that had vanished and are there again."""
        return np.setdiff1d(np.flatnonzero(self._was_gone), self.vanished)

    def _differ(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Whether one of these columns differs, `(rows,)`; `False` for rows that are no longer listed."""
        differs = np.full(len(self.place), False)
        rows = np.flatnonzero(self.place >= 0)
        for name in names:
            both = (self.manifest.table, self.listed.table)
            types = {table.schema.field(name).type for table in both if name in table.schema.names}
            field = pa.field(name, types.pop() if len(types) == 1 else pa.string())
            before = _column(self.manifest.table, field).take(pa.array(rows))
            now = _column(self.listed.table, field).take(pa.array(self.place[rows]))
            both_null = pc.and_(before.is_null(), now.is_null())
            same = pc.or_(pc.fill_null(pc.equal(before, now), False), both_null)
            differs[rows] |= ~np.asarray(same.to_numpy(zero_copy_only=False))
        return differs

    def said(self, redo: bool) -> str:
        """Return one line that says what has changed; an empty string if nothing has.

        Args:
            redo: Whether replaced recordings are computed again.
        """
        remark = " (redo_changed=true computes them again)"
        if redo:
            kept = len(self.replaced) - len(self.redoable)
            remark = f" ({kept:,} keep their results, because a vanished recording is in their shard)" if kept else ""
        parts = [
            (self.new, "new", ""), (self.newly_vanished, "vanished", ""), (self.returned, "there again", ""),
            (self.found, "found at last", " (retry_failed=true computes them)"), (self.replaced, "replaced", remark),
            (self.other_reference, "with another reference", ""), (self.other_columns, "with other columns", ""),
        ]  # fmt: skip
        found = [f"{len(rows):,} {what}{note}" for rows, what, note in parts if len(rows)]
        return f"the corpus has changed: {', '.join(found)}" if found else ""


def compare(manifest: Manifest, listed: Listing) -> Changes:
    """Compare the rows of a manifest with the utterances of the corpus now, by id."""
    ids, now = (table["id"].combine_chunks() for table in (manifest.table, listed.table))
    place = pc.fill_null(pc.index_in(ids, value_set=now), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    new = np.flatnonzero(~pc.is_in(now, value_set=ids).to_numpy(zero_copy_only=False))
    return Changes(manifest, listed, place, new)


def grown(changes: Changes, shard_hours: float, redo: bool) -> Manifest:
    """Return the manifest of the grown corpus. Its earlier rows keep their place, their shard and what is computed.

    Args:
        changes: The differences.
        shard_hours: Hours of audio in one of the new shards.
        redo: Whether the rows that were replaced are measured anew.
    """
    before, listed = changes.manifest.table, changes.listed.table
    now = timestamp()
    schema = _schema(changes)
    there = changes.place >= 0
    taken = listed.take(pa.array(np.maximum(changes.place, 0))) if len(listed) else listed
    measured = np.isin(np.arange(len(there)), [*changes.found, *(changes.redoable if redo else ())])
    fresh = {"shard": np.full(len(there), False), **dict.fromkeys(_MEASURED, measured)}
    columns = {
        field.name: pc.if_else(pa.array(fresh.get(field.name, there)), _column(taken, field), _column(before, field))
        for field in schema
    }
    columns["path"] = pc.if_else(pa.array(there), columns["path"], _paths_of_other_rows(changes))
    if VANISHED in columns:
        columns[VANISHED] = _vanished(changes, now)
    rows = pa.table(columns, schema=schema)
    added = listed.take(pa.array(changes.new))
    shards = changes.manifest.num_shards + assign_shards(added["duration_s"].to_numpy(), shard_hours)
    behind = {field.name: _column(added, field) for field in schema}
    behind["shard"] = pa.array(shards, pa.int32())
    table = pa.concat_tables([rows, pa.table(behind, schema=schema)]).combine_chunks()
    generations = changes.manifest.generations or (Generation(len(before)),)
    if len(added):
        generations = (*generations, Generation(len(added), now))
    chain = chain_of(table, [each.rows for each in generations])
    fresh_ids = {*added["id"].to_pylist(), *rows["id"].filter(pa.array(measured)).to_pylist()}
    rejected = {id_: why for id_, why in changes.manifest.rejected.items() if id_ not in fresh_ids}
    rejected |= {id_: why for id_, why in changes.listed.rejected.items() if id_ in fresh_ids}
    return Manifest(table, changes.manifest.digest, rejected, generations, chain, changes.listed.list_sha256)


def _schema(changes: Changes) -> pa.Schema:
    """The columns of the new listing; `vanished_at` if anything is missing, or ever was."""
    names = changes.manifest.schema.names
    own = own_columns(changes.listed.table.schema)
    if CHANNEL in names and CHANNEL not in changes.listed.table.schema.names:
        own = [changes.manifest.schema.field(CHANNEL), *own]
    vanished = [pa.field(VANISHED, pa.string())] if len(changes.vanished) or VANISHED in names else []
    return pa.schema([*MANIFEST_FIELDS, *own, *vanished])


def _column(table: pa.Table, field: pa.Field) -> pa.Array:
    if field.name not in table.schema.names:
        return pa.nulls(len(table), field.type)
    column = table[field.name].combine_chunks()
    if column.type == field.type:
        return column
    if field.type == pa.string():
        return column.cast(pa.string())
    return pa.array([None] * len(table), field.type)  # of another type before: a vanished row has no value of this one


def _vanished(changes: Changes, now: str) -> pa.Array:
    before = _column(changes.manifest.table, pa.field(VANISHED, pa.string()))
    gone = np.isin(np.arange(len(changes.place)), changes.vanished)
    return pc.if_else(pa.array(gone), pc.coalesce(before, pa.scalar(now)), pa.scalar(None, pa.string()))


def _paths_of_other_rows(changes: Changes) -> pa.Array:
    """Return where the recording of each row is now, as far as another row of the recording is still listed.

    Otherwise a segment that is no longer listed would keep the path from before the corpus moved, so that its recording
    had two paths.
    """
    listed = pa.array(np.flatnonzero(changes.place >= 0))
    before = changes.manifest.table["path"].combine_chunks()
    now = changes.listed.table["path"].combine_chunks().take(pa.array(changes.place[changes.place >= 0]))
    return pc.coalesce(now.take(pc.index_in(before, value_set=before.take(listed))), before)
