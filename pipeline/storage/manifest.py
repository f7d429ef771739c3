"""The manifest: one row per utterance, made before any model runs, with the shard of each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.audio.rates import resampled_lengths
from pipeline.records import ErrorName, Utterance
from pipeline.runtime.errors import UserError
from pipeline.storage import tables
from pipeline.storage.files import UNREADABLE, StoredTable
from pipeline.storage.json_rows import json_rows
from pipeline.storage.names import MANIFEST
from pipeline.storage.run_directory import RunDirectory

_READ_ROWS = 2**15
_JOINED_ROWS = 2**18
"""Rows of the pieces that `Rows` joins small ones to."""


@dataclass(frozen=True)
class Generation:
    """Rows that were added to a manifest at the same time, with shards of their own.

    Attributes:
        rows: Number of rows.
        made: Time in UTC, as ISO 8601; empty in manifests of the first release.
    """

    rows: int
    made: str = ""


@dataclass(frozen=True)
class StoredRows:
    """The rows of a manifest that is written. Columns are read when they are asked for.

    Attributes:
        stored: The file.
        schema: Columns, without the metadata of the file.
        num_rows: Number of rows.
    """

    stored: StoredTable
    schema: pa.Schema
    num_rows: int

    def select(self, names: Sequence[str]) -> pa.Table:
        """Read some columns of all rows. Each column is one piece.

        Raises:
            UserError: The file cannot be read.
        """
        try:
            with self.stored.open() as file:
                rows = Rows(pa.schema([self.schema.field(name) for name in names]))
                for batch in file.iter_batches(_READ_ROWS, columns=[*names]):
                    rows.add(batch)
            table = rows.table()
            if len(table) != self.num_rows:
                raise ValueError(f"it has {len(table)} rows now, and had {self.num_rows}")
            return table
        except UNREADABLE as error:
            raise unreadable(self.stored, error) from None


@dataclass(frozen=True)
class Manifest:
    """A manifest: its rows, in memory or in its file, and what identifies them.

    A manifest that `read` returns has no rows in memory before they are asked for. Pickling it does not copy them, so
    that each process reads the file itself.

    Attributes:
        rows: The rows, with the schema of `tables.manifest_schema`.
        digest: SHA-256 of the rows of the first generation without the paths, so that a corpus may be moved. It
            identifies the run, so it stays the same when the corpus grows or its references are corrected.
        generations: The generations, in the order of the rows; empty for a single one.
        chain: SHA-256 of all rows as they are now, chained from generation to generation; `digest` if empty.
        rejected: Why a row is a failure before its recording is opened, by id: the error's name and its message.
        list_sha256: SHA-256 of the list that alone says what the rows are; empty if files were looked at too.
    """

    rows: pa.Table | StoredRows
    digest: str
    rejected: Mapping[str, tuple[ErrorName, str]] = field(default_factory=dict)
    generations: tuple[Generation, ...] = ()
    chain: str = ""
    list_sha256: str = ""

    @property
    def content(self) -> str:
        """Digest of the rows as they are now: `chain`, or `digest` of a manifest that has never changed."""
        return self.chain or self.digest

    def recomputed(self) -> str:
        """Return the digest of the rows, which is `content` unless somebody has edited the rows."""
        return chain_of(self.table, [each.rows for each in self.generations] or [len(self)])

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.rows.num_rows)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `cached_property` has kept."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def schema(self) -> pa.Schema:
        """The columns. No row is read."""
        return self.rows.schema

    @cached_property
    def table(self) -> pa.Table:
        """All rows in memory.

        Raises:
            UserError: The file cannot be read.
        """
        return self.rows if isinstance(self.rows, pa.Table) else self.rows.select(self.schema.names)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column; if the rows are in the file, no other is read."""
        source = self.__dict__.get("table", self.rows)  # what `cached_property` has kept
        return source.select([name])[name]

    @cached_property
    def shard_of_row(self) -> NDArray[np.int32]:
        """Shard of each row, `(rows,)`, ascending."""
        return np.asarray(self.column("shard").to_numpy())

    @cached_property
    def duration_s(self) -> NDArray[np.float64]:
        """Duration of each row in seconds, `(rows,)`; NaN if the header could not be read."""
        return np.asarray(self.column("duration_s").to_numpy(), dtype=np.float64)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return int(self.shard_of_row[-1]) + 1 if len(self) else 0

    @property
    def own_columns(self) -> list[str]:
        """Names of the dataset's own columns."""
        return [field.name for field in tables.own_columns(self.schema)]

    def rows_of_shard(self, shard: int) -> range:
        """Return the rows of one shard."""
        first, last = np.searchsorted(self.shard_of_row, [shard, shard + 1])
        return range(int(first), int(last))

    def audio_s_of_shard(self, shard: int) -> float:
        """Return the seconds of audio of one shard, as far as their headers could be read."""
        rows = self.rows_of_shard(shard)
        return float(np.nansum(self.duration_s[rows.start : rows.stop]))

    def num_samples_at(self, sample_rate: int) -> NDArray[np.int64]:
        """Return the samples of each row after resampling, `(rows,)`; 0 if the header could not be read.

        Where the dataset says the duration, so that the header was not read, the samples are those of that duration.

        Args:
            sample_rate: Target rate in Hz.
        """
        num_samples = self.column("num_samples")
        samples = num_samples.fill_null(0).to_numpy()
        rates = self.column("sample_rate").fill_null(sample_rate).to_numpy()
        result: NDArray[np.int64] = samples.astype(np.int64)
        for rate in np.unique(rates[rates != sample_rate]):
            here = rates == rate
            result[here] = resampled_lengths(result[here], int(rate), sample_rate)
        listed = np.asarray(num_samples.is_null().to_numpy()) & ~np.isnan(self.duration_s)
        result[listed] = np.rint(self.duration_s[listed] * sample_rate)
        return result

    def utterance(self, row: int) -> Utterance:
        """Return one row as an utterance, without the dataset's own columns."""
        get = self.table.column
        return Utterance(
            id=get("id")[row].as_py(),
            path=get("path")[row].as_py(),
            reference=get("reference")[row].as_py(),
            start_s=get("start_s")[row].as_py(),
            end_s=get("end_s")[row].as_py(),
            channel=get(tables.CHANNEL)[row].as_py() if tables.CHANNEL in self.schema.names else None,
        )

    def measured(self, row: int) -> tuple[int | None, int | None]:
        """Return sample rate (Hz) and number of samples of a row; `None` for both if the header was not read."""
        return self.table["sample_rate"][row].as_py(), self.table["num_samples"][row].as_py()

    def file_size(self, row: int) -> int | None:
        """Return the size in bytes that the file had when the manifest was made; `None` if there was no file."""
        size: int | None = self.table["file_size"][row].as_py()
        return size


def write(directory: RunDirectory, manifest: Manifest, made_with: dict[str, Any]) -> None:
    """Write the manifest. The file's metadata hold its digests, the rejected rows and the settings `made_with`."""
    metadata: dict[str, Any] = {
        "digest": manifest.digest,
        "rejected": dict(manifest.rejected),
        "made_with": made_with,
        "schema_version": tables.SCHEMA_VERSION,
    }
    if manifest.chain:
        metadata |= {"chain": manifest.chain, "generations": [asdict(each) for each in manifest.generations]}
    if manifest.list_sha256:
        metadata["list_sha256"] = manifest.list_sha256
    directory.write_table(
        MANIFEST, manifest.table.replace_schema_metadata({key: json.dumps(value) for key, value in metadata.items()})
    )


def read(stored: StoredTable) -> tuple[Manifest, dict[str, Any]]:
    """Read a manifest without its rows, and the settings that it was made with.

    Raises:
        UserError: The file is not a manifest.
    """
    try:
        with stored.open() as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
        metadata, generations = tables.metadata_of(schema), generations_in(schema)
        if generations and sum(each.rows for each in generations) != num_rows:
            raise ValueError("its generations have another number of rows")
        rejected = {id_: (name, message) for id_, (name, message) in metadata.get("rejected", {}).items()}
        rows, chain = StoredRows(stored, schema.remove_metadata(), num_rows), metadata.get("chain", "")
        found = Manifest(rows, metadata["digest"], rejected, generations, chain, metadata.get("list_sha256", ""))
        return found, metadata["made_with"]
    except UNREADABLE as error:
        raise unreadable(stored, error) from None


class Rows:
    """Collects rows, and makes a table of them whose columns are one piece each, because `take` is slow on many pieces.

    Small pieces are joined to larger ones on the way. An allocator gives the memory of these back, piece by piece.
    """

    def __init__(self, schema: pa.Schema) -> None:
        """Begin without rows."""
        self._schema = schema
        self._small: list[pa.RecordBatch] = []
        self._columns: list[list[pa.Array]] = [[] for _ in schema]
        self._joined = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._joined + sum(map(len, self._small))

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows with the columns of the schema."""
        self._small.append(batch)
        if len(self) - self._joined >= _JOINED_ROWS:
            self._join()

    def _join(self) -> None:
        joined = pa.Table.from_batches(self._small, schema=self._schema).combine_chunks()
        for pieces, column in zip(self._columns, joined.columns, strict=True):
            pieces += column.chunks
        self._joined, self._small = len(self), []

    def table(self) -> pa.Table:
        """Return the table. While a column is copied, memory holds it twice, but no other. No rows are left here."""
        self._join()
        found = []
        for field_, pieces in zip(self._schema, self._columns, strict=True):
            one = pa.Table.from_arrays([pa.chunked_array(pieces, field_.type)], [field_.name])
            pieces.clear()
            found.append(one.combine_chunks().column(0))
            del one
            pa.default_memory_pool().release_unused()  # else the system gets the pieces back a column too late
        self._joined = 0
        return pa.Table.from_arrays(found, schema=self._schema)


def made_with(stored: StoredTable) -> dict[str, Any]:
    """Return the settings that a manifest was made with, without reading its rows.

    Raises:
        UserError: The file is not a manifest.
    """
    try:
        found: dict[str, Any] = tables.metadata_of(stored.schema())["made_with"]
        return found
    except UNREADABLE as error:
        raise unreadable(stored, error) from None


def generations_in(schema: pa.Schema) -> tuple[Generation, ...]:
    """Return the generations that the metadata of a manifest name; none for a manifest that has never changed."""
    return tuple(Generation(**each) for each in tables.metadata_of(schema).get("generations", ()))


def unreadable(stored: StoredTable, error: BaseException) -> UserError:
    """Return the error for a file that is not a manifest."""
    return UserError(f"{stored}: not a readable manifest ({error}); remove it, or choose another run_dir=")


def digest_of(table: pa.Table) -> str:
    """Return the SHA-256 of the rows, without their paths.

    The digest is taken over JSON, so that the digest is the same on every machine and in every release of Arrow.
    """
    digest = hashlib.sha256()
    for rows in json_rows(table.drop_columns(["path"])):
        digest.update(rows)
    return digest.hexdigest()


def chain_of(table: pa.Table, rows: Sequence[int]) -> str:
    """Return the SHA-256 of the rows, chained over the generations; for a single generation `digest_of` its rows.

    Args:
        table: The rows of a manifest.
        rows: Number of rows of each generation.
    """
    chain, start = "", 0
    for count in rows:
        digest = digest_of(table.slice(start, count))
        chain = hashlib.sha256(f"{chain}{digest}".encode()).hexdigest() if chain else digest
        start += count
    return chain
