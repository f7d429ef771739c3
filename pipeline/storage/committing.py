"""Commits a shard, and replaces a table of a committed shard.

A commit moves the staged tables to their final names and writes the commit record last. A renewal stages the new table
in a folder, for example `.staging/renewal-00017/`, and the new commit record after it. From the moment that the record
is there, the renewal is decided: it moves the table and the record to their final names, and after a kill
`finish_renewals` does the same again. So after a kill at any point, either the old or the new table counts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.runtime.digests import sha256_of
from pipeline.runtime.errors import naming
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import CommitRecord, CommittedFile, check_accounting, encode_record, read_record
from pipeline.storage.files import fsync
from pipeline.storage.names import STAGING, TABLES
from pipeline.storage.run_directory import RunDirectory

_RENEWAL = "renewal-"
_RECORD = "record.json"


def commit(
    directory: RunDirectory,
    record: CommitRecord,
    staged: Mapping[str, Path],
    expected_ids: Sequence[str],
    rows_per_id: Mapping[str, int],
) -> CommitRecord:
    """Check the staged tables of a pass, publish them, and write the commit record last. The caller holds the lock.

    If the pass is computed again, its old record and all supplements after it are removed first.

    Args:
        directory: The run.
        record: The record without `files` and `committed_at`, which this function adds.
        staged: Staged file of each table of the pass, by table name; `failures` is always one of them.
        expected_ids: Every id that the pass was to compute.
        rows_per_id: Number of rows that an utterance with a result has in a table, by table name.

    Raises:
        AssertionError: The tables do not hold each id exactly once. This would be a bug.
        RunError: The folder or its lock file was renamed, removed or replaced.
    """
    check_accounting(staged, expected_ids, rows_per_id)
    files = {table: _describe(directory, path, table, record) for table, path in staged.items()}
    failpoint("staged", record.shard)
    directory.check_in_place()
    # An old record goes before its first file changes.
    directory.retract(record.shard, record.supplement)
    directory.remove_tables(record.shard, record.supplement, but=staged)
    return _publish(directory, replace(record, files=files), staged)


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
    files = {**record.files, table: _describe(directory, path, table, record)}
    folder = f"{STAGING}/{_RENEWAL}{record.shard:05d}"
    staged = directory.locate(folder)
    staged.mkdir(mode=0o700)
    os.replace(path, staged / f"{table}.parquet")
    failpoint("renewal", record.shard)
    directory.write(f"{folder}/{_RECORD}", encode_record(replace(record, files=files)))
    failpoint("renewal-decided", record.shard)
    _finish(directory, folder)


def finish_renewals(directory: RunDirectory) -> None:
    """Finish the renewals that were decided before a kill, and remove the others. The caller holds the lock."""
    for name in directory.names(STAGING):
        if name.startswith(_RENEWAL):
            _finish(directory, f"{STAGING}/{name}")


def _finish(directory: RunDirectory, folder: str) -> None:
    staged = directory.locate(folder)
    name = f"{folder}/{_RECORD}"
    record = read_record(directory.read(name)) if directory.has(name) else None
    if record is not None:
        paths = {table: path for table in TABLES if (path := staged / f"{table}.parquet").exists()}
        _publish(directory, record, paths)
    shutil.rmtree(staged, ignore_errors=True)


def _describe(directory: RunDirectory, path: Path, table: str, record: CommitRecord) -> CommittedFile:
    """Sync a staged file of a table, and return the file as the commit record lists it."""
    name = directory.table(table, record.shard, record.supplement).name
    with naming(directory.locate(name)):
        failpoint("sync", record.shard)
        fsync(path)
    with open(path, "rb") as source:
        return CommittedFile(name, path.stat().st_size, sha256_of(source), pq.read_metadata(path).num_rows)


def _publish(directory: RunDirectory, record: CommitRecord, staged: Mapping[str, Path]) -> CommitRecord:
    """Move staged tables of a shard to their final names, then write the commit record.

    The record of a renewal keeps the time of the commit.
    """
    shard = record.shard
    directory.publish(staged, shard, record.supplement)
    failpoint("renamed", shard)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    done = replace(record, committed_at=record.committed_at or now)
    try:
        directory.write(directory.commit_name(shard, record.supplement), encode_record(done))
    except OSError:
        with suppress(OSError):  # the record may not survive a power failure
            directory.retract(shard, record.supplement, durable=False)
        raise
    failpoint("committed", shard)
    return done
