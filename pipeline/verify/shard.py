"""Checks one shard: its commit record, its files and their rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.commits import CommitRecord, CommittedFile, CommittedShard, decode_record, encode_record
from pipeline.storage.committing import read_renewal
from pipeline.storage.files import UNREADABLE, StoredTable
from pipeline.storage.identity import Identity
from pipeline.storage.layouts import ARRAY_TABLES
from pipeline.storage.names import TABLES
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.arrays import check_arrays
from pipeline.verify.findings import Problem, ShardAudit, Work, reason
from pipeline.verify.rows import check_rows

ATTEMPTS = 3
"""Number of checks of a shard that a run commits meanwhile."""


def audit_shard(directory: RunDirectory, work: Work, shard: int) -> ShardAudit:
    """Check one shard. If a run commits the shard meanwhile, check it again."""
    for _ in range(ATTEMPTS):
        before = _records_of(directory, shard)
        found = _audit_passes(directory, work, shard, before)
        if not found.problems or _records_of(directory, shard) == before:
            return found
    return _being_written(shard)


def _records_of(directory: RunDirectory, shard: int) -> list[bytes | None]:
    """Return the bytes of each pass's commit record; `None` for a pass that has no record."""
    return [_read_or_none(directory, directory.commit_name(shard, number)) for number in directory.passes(shard)]


def _being_written(shard: int) -> ShardAudit:
    return ShardAudit(shard, "pending", notes=(f"shard {shard} is being written now",))


def _audit_passes(directory: RunDirectory, work: Work, shard: int, records: Sequence[bytes | None]) -> ShardAudit:
    """Check the passes over a shard in their order. The first pass that is not sound ends the check."""
    sound: list[CommitRecord] = []
    renewal = read_renewal(directory, shard)
    for number, data in enumerate(records):
        if renewal is not None and renewal.record.supplement == number and not renewal.staged:
            data = encode_record(renewal.record)  # its tables are in place already
        found = _audit_without_record(directory, work, shard, number) if data is None else None
        if data is not None:
            record, problems = _audit_record(directory, work, shard, data, sound)
            if record is not None and not problems:
                sound.append(record)
                continue
            found = ShardAudit(shard, "damaged", problems=tuple(replace(each, supplement=number) for each in problems))
        assert found is not None
        return replace(found, committed=CommittedShard(tuple(sound))) if sound else found
    committed = CommittedShard(tuple(sound))
    lacks = work.recorded is not None and not work.recorded.complete({shard: committed})
    said = f"shard {shard}: the renewal of a table was interrupted; the next run, or the next import, finishes it"
    notes = () if renewal is None or directory.is_locked() else (said,)
    return ShardAudit(shard, "pending" if lacks else "sound", committed, notes=notes)


def _audit_record(
    directory: RunDirectory, work: Work, shard: int, data: bytes, before: Sequence[CommitRecord]
) -> tuple[CommitRecord | None, list[Problem]]:
    """Check one pass over a shard.

    Args:
        directory: The run.
        work: What the run computes.
        shard: The shard.
        data: The bytes of the commit record.
        before: Commit records of the passes before.

    Returns:
        The commit record, and what is wrong.
    """
    name = directory.commit_name(shard, len(before))
    record = None
    try:
        record = decode_record(data)
        wrong = _find_wrong_field(directory, work, shard, len(before), record)
        if not wrong and json.dumps(json.loads(data), indent=1).encode() != data:
            wrong = "has been edited"
    except ValueError as error:
        wrong = f"cannot be read ({reason(error)})"
    if record is None or wrong:
        return None, [Problem(name, wrong, shard=shard)]
    damage = _find_damage(directory, work, record, name, before)
    return record, [Problem(path, what, shard=shard) for path, what in damage]


def _find_wrong_field(directory: RunDirectory, work: Work, shard: int, supplement: int, record: CommitRecord) -> str:
    """Return why this record cannot be the record of this pass; an empty string if it can."""
    if (record.shard, record.supplement) != (shard, supplement):
        return f"is the record of shard {record.shard}" + (
            f", supplement {record.supplement}" * (record.supplement > 0)
        )
    if record.fingerprint not in work.fingerprints:
        return f"has the fingerprint {record.fingerprint}, this run has {' or '.join(sorted(work.fingerprints))}"
    identity = work.identity_of(record)
    expected = {*(record.files if identity is None else identity.outputs), "failures"}
    if {*record.files} != expected:
        return f"lists {', '.join(sorted(record.files))}; the tables are {', '.join(sorted(expected))}"
    for table, file in record.files.items():
        path = directory.table(table, shard, supplement).name
        if table not in TABLES or file.path != path:
            return f"lists {file.path!r} for {path}"
    return ""


def _audit_without_record(directory: RunDirectory, work: Work, shard: int, supplement: int) -> ShardAudit:
    """Check a pass that has no commit record. It is pending, or damaged if it has tables without an explanation."""
    names = [table for table in TABLES if work.tables is None or table in work.tables]
    passes = directory.passes(shard, supplement)  # with later ones: all files of this pass may have been deleted
    files = [directory.table(table, shard, number) for number in passes for table in names]
    there = ", ".join(stored.name for stored in files if stored.is_there)
    if not there:
        return ShardAudit(shard, "pending")
    if directory.is_locked():
        return _being_written(shard)
    if directory.has_staging(shard):
        said = f"{there}: left by an unfinished commit; a rerun replaces them"
        return ShardAudit(shard, "pending", notes=(said,))
    what = f"missing, though there is {there}: the record was deleted, or the commit did not finish"
    problem = Problem(directory.commit_name(shard, supplement), what, shard=shard, supplement=supplement)
    return ShardAudit(shard, "damaged", problems=(problem,))


def _find_damage(
    directory: RunDirectory, work: Work, record: CommitRecord, name: str, before: Sequence[CommitRecord]
) -> Iterator[tuple[str, str]]:
    """Yield the path of each damaged file of a pass, and what is wrong with the file.

    Bytes are checked first, then columns, then rows, then arrays. A later check runs only if the earlier ones found
    nothing.

    Args:
        directory: The run.
        work: What the run computes.
        record: The commit record.
        name: The record's file.
        before: Commit records of the passes before. Their failures are not in the tables of this pass.
    """
    stored = {table: directory.table(table, record.shard, record.supplement) for table in record.files}
    wrong = [
        (file.path, what)
        for table, file in record.files.items()
        if (what := _compare_bytes(directory, stored[table].name, file))
    ]
    wrong = wrong or [
        (file.path, what)
        for table, file in record.files.items()
        if (what := _compare_columns(stored[table], file, work.schema(table)))
    ]
    if wrong:
        yield from wrong
        return
    try:
        ids = durations_s = None
        if work.manifest is not None:
            rows = work.manifest.rows_of_shard(record.shard)
            ids = work.manifest.table["id"].slice(rows.start, len(rows)).combine_chunks()
            durations_s = work.manifest.duration_s[rows.start : rows.stop]
            for earlier in before:
                failed = directory.table("failures", earlier.shard, earlier.supplement).read(["id"])["id"]
                left = pc.invert(pc.is_in(ids, value_set=failed.combine_chunks()))
                ids, durations_s = ids.filter(left), durations_s[left.to_numpy(zero_copy_only=False)]
        identity = work.identity_of(record)
        for table, what in check_rows(stored, record, ids, None if identity is None else identity.layers):
            wrong.append((name if table == "commits" else record.files[table].path, what))
        yield from wrong
        if durations_s is not None:
            failed = stored["failures"].read(["id"])["id"].combine_chunks()
            done = ~pc.is_in(ids, value_set=failed).to_numpy(zero_copy_only=False)
            audio_s = float(np.nansum(durations_s[done]))
            if not math.isclose(record.audio_s, audio_s, rel_tol=1e-9, abs_tol=1e-9):
                yield name, f"counts {record.audio_s} s of audio, the manifest has {audio_s}"
    except UNREADABLE as error:
        yield name, f"the tables it lists cannot be read ({reason(error)})"
        return
    if not wrong:
        yield from _find_wrong_arrays(work.identity, stored)


def _find_wrong_arrays(identity: Identity | None, stored: Mapping[str, StoredTable]) -> Iterator[tuple[str, str]]:
    """Yield the path of each table whose arrays are wrong, and what is wrong first."""
    for name, table in ARRAY_TABLES.items():
        if name not in stored:
            continue
        dtype, layout = (None, None) if identity is None else (identity.dtype(name), identity.layout(name))
        try:
            what = next(check_arrays(stored[name], table, dtype, layout), None)
        except UNREADABLE as error:
            what = f"its arrays cannot be read ({reason(error)})"
        if what is not None:
            yield stored[name].name, what


def _compare_bytes(directory: RunDirectory, name: str, file: CommittedFile) -> str | None:
    """Return how size or SHA-256 of a file differ from the record; `None` if they do not."""
    try:
        size = directory.size(name)
        if size is not None and size != file.size:
            return f"has {size} bytes, {file.size} were committed"
        sha256 = directory.file_record(name).sha256
    except FileNotFoundError:
        return "missing, though it was committed"
    except OSError as error:
        return f"cannot be read ({reason(error)})"
    return None if sha256 == file.sha256 else f"has the sha256 {sha256}, {file.sha256} was committed"


def _compare_columns(stored: StoredTable, file: CommittedFile, schema: pa.Schema | None) -> str | None:
    """Return how the number of rows or the columns of a table are wrong; `None` if they are right."""
    try:
        with stored.open() as opened:
            rows, found = opened.metadata.num_rows, opened.schema_arrow
    except UNREADABLE as error:
        return f"is not a readable table ({reason(error)})"
    if rows != file.rows:
        return f"has {rows} rows, {file.rows} were committed"
    if schema is not None and not found.equals(schema):
        odd = [str(column) for column in found if column not in schema] or ["some missing, or in another order"]
        return f"has wrong columns ({', '.join(odd)})"
    return None


def _read_or_none(directory: RunDirectory, name: str) -> bytes | None:
    """Return the bytes of a small file; `None` if it does not exist, empty bytes if it cannot be read."""
    try:
        return directory.read(name)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
