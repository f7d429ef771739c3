"""Checks the compacted files of a run: their records, their bytes, and whether their shards have changed since."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from pipeline.storage.commits import CommittedShard
from pipeline.storage.compacted import CompactedTable
from pipeline.storage.files import UNREADABLE
from pipeline.storage.names import TABLES, first_of_compacted
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.findings import Problem, reason


def audit_compacted(directory: RunDirectory, done: Mapping[int, CommittedShard], notes: list[str]) -> Iterator[Problem]:
    """Check all compacted files of a run.

    Args:
        directory: The run.
        done: The sound shards, by shard.
        notes: Observations are added to it.
    """
    for table in map(directory.compacted, TABLES):
        if not directory.names(table.folder):
            continue
        if said := table.stale(done):
            notes.append(f"{said}; stages=[compact] writes them")
        for first in table.files():
            if what := _find_damage(directory, table, first):
                path = shlex.quote(str(table.table(first)))
                yield Problem(table.table(first).name, what, f"rm {path}, then stages=[compact] writes it again")
        for name in directory.names(table.folder):
            if first_of_compacted(name, "parquet") is None:
                what = "is no compacted file, but readers of the folder read it too"
                yield Problem(f"{table.folder}/{name}", what, "move it away")


def _find_damage(directory: RunDirectory, table: CompactedTable, first: int) -> str | None:
    """Return what is wrong with a file; `None` if it is right, or is being replaced."""
    record, stored = table.record(first), table.table(first)
    if directory.is_locked():
        return None
    if record is None or record.file is None:
        return "has no record"
    try:
        found = directory.file_record(stored.name)
    except UNREADABLE as error:
        return f"cannot be read ({reason(error)})"
    return None if found.sha256 == record.file.sha256 else "does not have the bytes that were committed"
