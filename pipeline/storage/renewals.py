"""Replaces one table of a committed shard. After a kill at any point, either the old or the new table counts.

The new table is staged in a folder, for example `.staging/renewal-00017/`, and the new commit record after it. From the
moment that the record is there, the renewal is decided. It moves the table and the record to their final names; after a
kill, `finish` does the same again.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import CommitRecord, encode_record, read_record
from pipeline.storage.run_directory import STAGING, TABLES, RunDirectory

_PREFIX = "renewal-"
_RECORD = "record.json"


def renew(directory: RunDirectory, record: CommitRecord, table: str, path: Path) -> None:
    """Replace a table of a committed shard. The other tables are not touched. The caller holds the lock.

    Args:
        directory: The run.
        record: The commit record with its new sums. This function writes the table's file into it.
        table: Name of the table.
        path: The new file, on the same file system.
    """
    files = {**record.files, table: directory.describe(path, table, record.shard)}
    folder = f"{STAGING}/{_PREFIX}{record.shard:05d}"
    staged = directory.locate(folder)
    staged.mkdir(mode=0o700)
    os.replace(path, staged / f"{table}.parquet")
    failpoint("renewal", record.shard)
    directory.write(f"{folder}/{_RECORD}", encode_record(replace(record, files=files)))
    failpoint("renewal-decided", record.shard)
    _publish(directory, folder)


def finish(directory: RunDirectory) -> None:
    """Finish the renewals that were decided before a kill, and remove the others. The caller holds the lock."""
    for name in directory.names(STAGING):
        if name.startswith(_PREFIX):
            _publish(directory, f"{STAGING}/{name}")


def _publish(directory: RunDirectory, folder: str) -> None:
    staged = directory.locate(folder)
    name = f"{folder}/{_RECORD}"
    record = read_record(directory.read(name)) if directory.has(name) else None
    if record is not None:
        paths = {table: path for table in TABLES if (path := staged / f"{table}.parquet").exists()}
        directory.publish(record, paths)
    shutil.rmtree(staged, ignore_errors=True)
