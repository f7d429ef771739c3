"""One shard: whether its record, its files and their rows are what was committed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord, CommittedFile, decode_record
from pipeline.storage.files import StoredTable
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import TABLES, RunDirectory
from pipeline.storage.run_record import Identity, RunRecord
from pipeline.verify.rows import check_rows

ATTEMPTS = 3
"""Looks at a shard that changes under the eyes, because a run commits it."""
UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)
"""What a file that is not what it should be makes a reader raise."""

State = Literal["sound", "damaged", "pending"]


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was committed.

    Attributes:
        path: The file, relative to the run directory.
        what: What was expected and what was found.
        remedy: What sets it right, where that is not the shard's doing again.
        shard: The shard it belongs to, if it does.
    """

    path: str
    what: str
    remedy: str = ""
    shard: int | None = None


@dataclass(frozen=True)
class Work:
    """What a run does, as far as its own files can be believed: `manifest` and `run.json`, or `None`."""

    fingerprint: str
    manifest: Manifest | None
    recorded: RunRecord | None

    @property
    def identity(self) -> Identity | None:
        """Every setting that changes results."""
        return None if self.recorded is None else self.recorded.identity

    @property
    def tables(self) -> set[str] | None:
        """The tables that every committed shard has."""
        return None if self.identity is None else {*self.identity.outputs, "failures"}

    @property
    def layers(self) -> list[int] | None:
        """The layers in `features/`."""
        return None if self.identity is None else list(self.identity.layers)

    def schema(self, table: str) -> pa.Schema | None:
        """The columns of a table, which are the same in every shard."""
        if table == "failures":
            return tables.FAILURES
        if table == "transcripts":
            return None if self.manifest is None else tables.transcripts_schema(self.manifest.table.schema)
        if self.identity is None:
            return None
        make = tables.emissions_schema if table == "emissions" else tables.features_schema
        return make(str(self.identity.dtype(table)))


@dataclass(frozen=True)
class ShardAudit:
    """One shard: its state, its record where that can be believed, what is wrong, what is worth a word."""

    shard: int
    state: State
    record: CommitRecord | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def audit_shard(directory: RunDirectory, work: Work, shard: int) -> ShardAudit:
    """Check one shard; once more where a run has committed it meanwhile."""
    for _ in range(ATTEMPTS):
        before = _raw(directory, directory.commit_name(shard))
        found = _look(directory, work, shard, before)
        if not found.problems or _raw(directory, directory.commit_name(shard)) == before:
            return found
    return _being_written(shard)


def _being_written(shard: int) -> ShardAudit:
    return ShardAudit(shard, "pending", notes=(f"shard {shard} is being written at this moment",))


def _look(directory: RunDirectory, work: Work, shard: int, data: bytes | None) -> ShardAudit:
    """Check one shard with the commit record `data`."""
    if data is None:
        return _without_record(directory, work, shard)
    name = directory.commit_name(shard)
    record = None
    try:
        record = decode_record(data)
        wrong = _record_wrong(directory, work, shard, record)
        if not wrong and json.dumps(json.loads(data), indent=1).encode() != data:
            wrong = "is not as the run wrote it"
    except ValueError as error:
        wrong = f"cannot be read ({reason(error)})"
    if record is None or wrong:
        return ShardAudit(shard, "damaged", None, (Problem(name, wrong, shard=shard),))
    problems = [Problem(path, what, shard=shard) for path, what in _files(directory, work, record, name)]
    return ShardAudit(shard, "damaged" if problems else "sound", record, tuple(problems))


def _record_wrong(directory: RunDirectory, work: Work, shard: int, record: CommitRecord) -> str:
    """What a record says that this shard's cannot say; empty where there is nothing."""
    if record.shard != shard:
        return f"is the record of shard {record.shard}"
    if record.fingerprint != work.fingerprint:
        return f"has the fingerprint {record.fingerprint}, this run has {work.fingerprint}"
    expected = {*record.files, "failures"} if work.tables is None else work.tables
    if {*record.files} != expected:
        return f"lists {', '.join(sorted(record.files))}; the tables are {', '.join(sorted(expected))}"
    for table, file in record.files.items():
        path = directory.table(table, shard).name
        if table not in TABLES or file.path != path:
            return f"lists {file.path!r} for {path}"
    return ""


def _without_record(directory: RunDirectory, work: Work, shard: int) -> ShardAudit:
    """A shard that is pending, unless its tables lie there and nothing says why."""
    files = [directory.table(table, shard) for table in TABLES if work.tables is None or table in work.tables]
    there = ", ".join(stored.name for stored in files if stored.is_there)
    if not there:
        return ShardAudit(shard, "pending")
    if directory.is_locked():
        return _being_written(shard)
    if directory.has_staging(shard):
        said = f"{there}: left by a commit that did not end; the same command again replaces them"
        return ShardAudit(shard, "pending", notes=(said,))
    what = f"missing beside {there}: it was deleted, or the commit did not end"
    return ShardAudit(shard, "damaged", problems=(Problem(directory.commit_name(shard), what, shard=shard),))


def _files(directory: RunDirectory, work: Work, record: CommitRecord, name: str) -> Iterator[tuple[str, str]]:
    """What is wrong with the files of a committed shard and, where nothing is, with the rows in them."""
    stored = {table: directory.table(table, record.shard) for table in record.files}
    wrong = [
        (file.path, what)
        for table, file in record.files.items()
        if (what := _bytes_wrong(directory, stored[table].name, file))
    ]
    wrong = wrong or [
        (file.path, what)
        for table, file in record.files.items()
        if (what := _shape_wrong(stored[table], file, work.schema(table)))
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
        for table, what in check_rows(stored, record, ids, work.layers):
            yield (name if table == "commits" else record.files[table].path), what
        if durations_s is not None:
            failed = stored["failures"].read(["id"])["id"].combine_chunks()
            done = ~pc.is_in(ids, value_set=failed).to_numpy(zero_copy_only=False)
            audio_s = float(np.nansum(durations_s[done]))
            if not math.isclose(record.audio_s, audio_s, rel_tol=1e-9, abs_tol=1e-9):
                yield name, f"counts {record.audio_s} s of audio, the manifest has {audio_s}"
    except UNREADABLE as error:
        yield name, f"the tables it lists cannot be read ({reason(error)})"


def _bytes_wrong(directory: RunDirectory, name: str, file: CommittedFile) -> str | None:
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


def _shape_wrong(stored: StoredTable, file: CommittedFile, schema: pa.Schema | None) -> str | None:
    try:
        with stored.open() as opened:
            rows, found = opened.metadata.num_rows, opened.schema_arrow
    except UNREADABLE as error:
        return f"is not a readable table ({reason(error)})"
    if rows != file.rows:
        return f"has {rows} rows, {file.rows} were committed"
    if schema is not None and not found.equals(schema):
        odd = [str(column) for column in found if column not in schema] or ["some missing, or in another order"]
        return f"has other columns than its table ({', '.join(odd)})"
    return None


def _raw(directory: RunDirectory, name: str) -> bytes | None:
    """A small file; empty where it is there and cannot be read."""
    try:
        return directory.read(name)
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def reason(error: BaseException) -> str:
    """The first line of an error, without the path, which stands beside it."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, KeyError):
        said = f"lacks {said}"
    return str(said).splitlines()[0]
