"""Commits a shard, and replaces a table of a committed shard.

A commit moves the staged tables to their final names and writes the commit record last. Nothing but a lock keeps two
processes from committing the same shard, and not every file system has locks that reach other machines. Both compute
the same, but on different processors the last bits may differ. So a commit that comes second leaves the first one as it
is. If two come at the same moment, files of both may be mixed. Then the one that ends last finds other files than its
own under the final names, and it retracts a commit record that does not fit them.

A renewal stages the new table
in a folder, for example `.staging/renewal-00017/`, and the new commit record after it. From the moment that the record
is there, the renewal is decided: it moves the table and the record to their final names, and after a kill
`finish_renewals` does the same again. So after a kill at any point, either the old or the new table counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.runtime.clock import timestamp
from pipeline.runtime.errors import naming
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import (
    CommitRecord,
    CommittedFile,
    check_accounting,
    encode_record,
    read_record,
    staged_file,
)
from pipeline.storage.derived import DerivedRecord, DerivedTable
from pipeline.storage.files import Published
from pipeline.storage.names import STAGING, TABLES
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import open_writer

_RENEWAL = "renewal-"
_RECORD = "record.json"


def commit(
    directory: RunDirectory,
    record: CommitRecord,
    staged: Mapping[str, Path],
    expected_ids: Sequence[str],
    rows_per_id: Mapping[str, int],
    again: bool = False,
) -> CommitRecord | None:
    """Check the staged tables of a pass, publish them, and write the commit record last. The caller holds the lock.

    If the pass is computed again, its old record and all supplements after it are removed first. If another process has
    committed the same pass meanwhile, its tables stay, and its record is returned.

    Args:
        directory: The run.
        record: The record without `files` and `committed_at`, which this function adds.
        staged: Staged file of each table of the pass, by table name; `failures` is always one of them.
        expected_ids: Every id that the pass was to compute.
        rows_per_id: Number of rows that an utterance with a result has in a table, by table name.
        again: Whether a commit of the same pass, which was there before, is replaced.

    Returns:
        The record; `None` if another process committed the same pass at the same moment, so that neither counts.

    Raises:
        AssertionError: The tables do not hold each id exactly once. This would be a bug.
        RunError: The folder or its lock file was renamed, removed or replaced.
    """
    check_accounting(staged, expected_ids, rows_per_id)
    files = {table: _describe(directory, path, table, record) for table, path in staged.items()}
    failpoint("staged", record.shard)
    directory.check_in_place()
    if not again and (there := directory.committed_pass(record)) is not None:
        return there
    # An old record goes before its first file changes.
    passes = directory.retract(record.shard, record.supplement)
    _remove_outdated(directory, record, files)
    directory.remove_tables(record.shard, passes, but=staged)
    return _publish(directory, replace(record, files=files), staged)


def _remove_outdated(directory: RunDirectory, record: CommitRecord, files: Mapping[str, CommittedFile]) -> None:
    """Remove what was made of other emissions of the shard: its files in derived tables, and scores of decodings."""
    if record.supplement and "emissions" not in files:
        return  # the emissions of an earlier pass stay
    digest = files["emissions"].sha256 if "emissions" in files else None
    for table in directory.derived_tables():
        there = table.read_record(record.shard)
        if there is not None and there.sources.get("emissions") == digest:
            continue
        if there is not None and table.decoding is not None:
            directory.of_decoding(table.decoding).remove_scores()
        table.remove(record.shard)


def renew(directory: RunDirectory, record: CommitRecord, table: str, path: Path) -> None:
    """Replace a table of a committed shard. The other tables are not touched. The caller holds the lock.

    Args:
        directory: The run.
        record: The commit record with its new sums. This function writes the table's file into it.
        table: Name of the table.
        path: The new file, on the same file system.

    Raises:
        RunError: As `commit`.
    """
    if table == "transcripts" and directory.decoded is not None:
        directory.decoded.renew(record.shard, record.counts, path)
        return
    files = {**record.files, table: _describe(directory, path, table, record)}
    folder = _folder_of(record.shard)
    directory.stage(f"{folder}/{table}.parquet", path)
    failpoint("renewal", record.shard)
    directory.write(f"{folder}/{_RECORD}", encode_record(replace(record, files=files)), record.shard)
    failpoint("renewal-decided", record.shard)
    _finish(directory, folder)


def commit_derived(
    directory: RunDirectory, table: DerivedTable, record: DerivedRecord, rows: pa.Table, metadata: Mapping[str, Any]
) -> None:
    """Write and commit the file of a shard in a derived table. The caller holds the lock.

    Args:
        directory: The run.
        table: The derived table.
        record: The record without `file` and `committed_at`.
        rows: The rows of the file.
        metadata: File metadata.

    Raises:
        RunError: As `commit`.
    """
    folder = directory.new_staging(record.shard)
    path = folder / f"{table.folder}.parquet"
    try:
        with naming(path), open_writer(path, rows.schema, metadata) as writer:
            writer.write_table(rows)
            failpoint("table", record.shard)
        table.commit(record, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def finish_renewals(directory: RunDirectory) -> None:
    """Finish the renewals that were decided before a kill, and remove the others. The caller holds the lock."""
    for name in directory.names(STAGING):
        if name.startswith(_RENEWAL):
            _finish(directory, f"{STAGING}/{name}")


class Renewal(NamedTuple):
    """A renewal that was decided and is not finished.

    Attributes:
        record: The new commit record.
        staged: Tables that still have to be moved to their final names, by name.
    """

    record: CommitRecord
    staged: Mapping[str, Path]


def read_renewal(directory: RunDirectory, shard: int) -> Renewal | None:
    """Return the renewal of a shard that was decided and is not finished; `None` if there is none."""
    return _read_renewal(directory, _folder_of(shard))


def _read_renewal(directory: RunDirectory, folder: str) -> Renewal | None:
    name = f"{folder}/{_RECORD}"
    try:
        record = read_record(directory.read(name)) if directory.has(name) else None
    except FileNotFoundError:  # the run that works on it has just finished the renewal
        return None
    if record is None:
        return None
    staged = {table: directory.staged(f"{folder}/{table}.parquet") for table in TABLES}
    return Renewal(record, {table: path for table, path in staged.items() if path is not None})


def _folder_of(shard: int) -> str:
    return f"{STAGING}/{_RENEWAL}{shard:05d}"


def _finish(directory: RunDirectory, folder: str) -> None:
    renewal = _read_renewal(directory, folder)
    if renewal is not None:
        _publish(directory, renewal.record, renewal.staged, again=True)
    directory.remove_staged(folder)


def _describe(directory: RunDirectory, path: Path, table: str, record: CommitRecord) -> CommittedFile:
    """Sync a staged file of a table, and return the file as the commit record lists it."""
    return staged_file(directory.table(table, record.shard, record.supplement), path, record.shard)


def _publish(
    directory: RunDirectory, record: CommitRecord, staged: Mapping[str, Path], again: bool = False
) -> CommitRecord | None:
    """Move staged tables of a shard to their final names, then write the commit record.

    The record of a renewal (`again`) replaces the one that is there, and keeps the time of the commit.

    Returns:
        As `commit`.
    """
    shard = record.shard
    published = directory.publish(staged, shard, record.supplement)
    failpoint("renamed", shard)
    now = timestamp()
    done = replace(record, committed_at=record.committed_at or now)
    try:
        name, data = directory.commit_name(shard, record.supplement), encode_record(done)
        directory.write(name, data, shard) if again else directory.create(name, data, shard)
    except FileExistsError:
        return _of_another(directory, done)
    except OSError:
        with suppress(OSError):  # the record may not survive a power failure
            directory.retract(shard, record.supplement, durable=False)
        raise
    failpoint("committed", shard)
    directory.note_commit()
    return done if _are_ours(directory, done, published) else _of_another(directory, done)


def _are_ours(directory: RunDirectory, record: CommitRecord, published: Published) -> bool:
    """Whether the files under the final names are those that this process has put there, and its record is there."""
    return directory.are_there(published) and directory.record_of(record) == record


def _of_another(directory: RunDirectory, record: CommitRecord) -> CommitRecord | None:
    """Return the record of a pass that another process committed at the same moment. Retract it if files are mixed.

    If there is no record, the other process has yet to write its own, and it compares then.
    """
    there = directory.committed_pass(record)
    if there is None:
        return None
    with suppress(OSError):
        if all(directory.file_record(f.path).sha256 == f.sha256 for f in there.files.values()):
            return there
    directory.retract(record.shard, record.supplement)
    return None
