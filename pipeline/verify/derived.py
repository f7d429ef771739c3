"""Checks the tables that were made of committed tables: their commit records, their bytes and their ids."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from pipeline.runtime.terminal import counted
from pipeline.storage.commits import CommittedShard
from pipeline.storage.derived import DerivedTable, emissions_digest
from pipeline.storage.files import UNREADABLE
from pipeline.storage.names import pass_of_name
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.findings import Problem, reason


def audit_derived(directory: RunDirectory, done: Mapping[int, CommittedShard], notes: list[str]) -> Iterator[Problem]:
    """Check all derived tables of a run.

    Args:
        directory: The run.
        done: The sound shards, by shard.
        notes: Observations are added to it.
    """
    for table in directory.derived_tables():
        records = table.records()
        made = {shard for shard, each in records.items() if _is_made_of(each.sources, done.get(shard))}
        notes += [
            f"{table.folder}: in {counted(len(made), 'shard')} of {len(done)}; the rest is not made yet, or was made "
            "before its shard was computed again"
        ] * (len(made) < len(done))
        for name in directory.names(table.commits):
            written = pass_of_name(name, "json")
            if name != "identity.json" and (written is None or written[1] or table.read_record(written[0]) is None):
                yield _problem(directory, table, f"{table.commits}/{name}", "is no commit record, or has been edited")
        for shard in sorted(made):
            if what := _find_damage(directory, table, shard, done[shard]):
                yield _problem(directory, table, table.commit_name(shard), f"{table.table(shard).name} {what}")
        known = {table.table(shard).name for shard in records}
        for each in directory.names(table.folder):
            name, shard = f"{table.folder}/{each}", (pass_of_name(each, "parquet") or (-1, 0))[0]
            if name not in known and not directory.is_locked() and not directory.has_staging(shard):
                yield Problem(name, "has no commit record, but readers of the folder read it too", "move it away")


def _is_made_of(sources: Mapping[str, str], committed: CommittedShard | None) -> bool:
    return committed is not None and sources.get("emissions") == emissions_digest(committed)


def _find_damage(directory: RunDirectory, table: DerivedTable, shard: int, committed: CommittedShard) -> str | None:
    """Return what is wrong with the file of a shard; `None` if it is right."""
    record, stored = table.read_record(shard), table.table(shard)
    if record is None or record.file is None:
        return None  # removed meanwhile
    try:
        if directory.file_record(stored.name).sha256 != record.file.sha256:
            return "does not have the bytes that were committed"
        ids = stored.read(["id"])["id"].to_pylist()
        if len(ids) != record.file.rows:
            return f"has {len(ids)} rows, {record.file.rows} were committed"
        if table.decoding is None:
            return None
        heard = {
            id_ for each in directory.tables(committed, "emissions") for id_ in each.read(["id"])["id"].to_pylist()
        }
        if sorted(ids) != sorted(heard):
            return f"has {len(ids)} utterances, the emissions have {len(heard)}, and they are not the same"
    except UNREADABLE as error:
        return f"cannot be read ({reason(error)})"
    return None


def _problem(directory: RunDirectory, table: DerivedTable, name: str, what: str) -> Problem:
    path = shlex.quote(str(directory.locate(name)))
    return Problem(name, what, f"rm {path}, then the command that made {table.folder} makes it again")
