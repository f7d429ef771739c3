"""The manifest: one row an utterance, made once, before any model runs; validated, digested, sharded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import tables
from pipeline.audio import encode_path
from pipeline.commits import sha256_file
from pipeline.datasets import Connector
from pipeline.errors import UserError
from pipeline.headers import Headers
from pipeline.planning import assign_shards
from pipeline.rates import resampled_lengths
from pipeline.records import AudioHeader, Utterance

BLOCK_ROWS = 4096
FILE_KEY = "manifest_file"
"""Key of `run.json`: the bytes of `manifest.parquet`, of which the digest leaves out where the files lie."""


@dataclass(frozen=True)
class Manifest:
    """A manifest in memory, as columns.

    Attributes:
        table: Schema of `tables.manifest_schema`.
        digest: SHA-256 of what identifies the work; not of where the root lies.
    """

    table: pa.Table
    digest: str

    def __len__(self) -> int:
        """Rows."""
        return int(self.table.num_rows)

    @cached_property
    def shard_of_row(self) -> NDArray[np.int32]:
        """Shard of every row, ascending."""
        return np.asarray(self.table["shard"].to_numpy())

    @cached_property
    def duration_s(self) -> NDArray[np.float64]:
        """Seconds of every row, NaN where the header could not be read."""
        return np.asarray(self.table["duration_s"].to_numpy(), dtype=np.float64)

    @property
    def num_shards(self) -> int:
        """Shards."""
        return int(self.shard_of_row[-1]) + 1 if len(self) else 0

    @property
    def own_columns(self) -> list[str]:
        """Names of the dataset's own columns."""
        return [field.name for field in tables.own_columns(self.table.schema)]

    def rows_of_shard(self, shard: int) -> range:
        """Rows of one shard."""
        first, last = np.searchsorted(self.shard_of_row, [shard, shard + 1])
        return range(int(first), int(last))

    def num_samples_at(self, sample_rate: int) -> NDArray[np.int64]:
        """Samples of every row after resampling to `sample_rate`; 0 where the header could not be read."""
        samples = self.table["num_samples"].fill_null(0).to_numpy()
        rates = self.table["sample_rate"].fill_null(sample_rate).to_numpy()
        result: NDArray[np.int64] = samples.astype(np.int64)
        for rate in np.unique(rates[rates != sample_rate]):
            here = rates == rate
            result[here] = resampled_lengths(result[here], int(rate), sample_rate)
        return result

    def utterance(self, row: int) -> Utterance:
        """One row, without the dataset's own columns."""
        get = self.table.column
        return Utterance(
            id=get("id")[row].as_py(),
            path=get("path")[row].as_py(),
            reference=get("reference")[row].as_py(),
            start_s=get("start_s")[row].as_py(),
            end_s=get("end_s")[row].as_py(),
            channel=get(tables.CHANNEL)[row].as_py() if tables.CHANNEL in self.table.schema.names else None,
        )

    def measured(self, row: int) -> tuple[int, int]:
        """Hz and samples of a row whose header could be read."""
        return self.table["sample_rate"][row].as_py(), self.table["num_samples"][row].as_py()

    def file_size(self, row: int) -> int | None:
        """Bytes of the file when the manifest was made; `None` where it could not be found."""
        size: int | None = self.table["file_size"][row].as_py()
        return size


def build(
    dataset: Connector,
    shard_hours: float,
    on_progress: Callable[[int], None] = lambda rows: None,
    channels: str = "mix",
    timeout_s: float = 120.0,
) -> Manifest:
    """Find the recordings of a dataset, read their headers in parallel, cut them into shards.

    A file whose header cannot be read is a row too, with nulls; it ends in the failures table. So is one that
    hangs, crashes or exhausts the process that reads it, which the loader meets again and names.

    Args:
        dataset: The connector.
        shard_hours: Hours of audio in one shard.
        channels: With `each`, an utterance for which the dataset names no channel becomes one row a channel.
        on_progress: Called with the rows done so far.
        timeout_s: A header that takes longer cannot be read; where samples are counted, for every MiB of the file.

    Raises:
        UserError: Two utterances have one id, an id is empty, or there is nothing to do.
    """
    types = dataset.columns()
    columns = {name: tables.own_column_name(name) for name in types}
    schema = tables.manifest_schema(
        {tables.CHANNEL: "int16", **{columns[name]: type_ for name, type_ in types.items()}}
    )
    batches: list[pa.RecordBatch] = []
    utterances = dataset.utterances()
    done = 0
    with Headers(timeout_s) as headers:
        while block := list(islice(utterances, BLOCK_ROWS)):
            rows = []
            for utterance, (header, size) in zip(block, headers.of([each.path for each in block]), strict=True):
                each_channel = _channels(utterance, header) if channels == "each" else [utterance]
                rows += [_row(each, header, size, columns) for each in each_channel]
                on_progress(done + len(rows))
            batches.append(pa.RecordBatch.from_pylist(rows, schema=schema))
            done += len(rows)
    table = pa.Table.from_batches(batches, schema=schema)
    if channels != "each" and table[tables.CHANNEL].null_count == len(table):
        table = table.drop_columns([tables.CHANNEL])
    if not table.num_rows:
        raise UserError(f"dataset={dataset.run_name}: no recordings found; nothing to do")
    _check_ids(table)
    shards = assign_shards(table["duration_s"].to_numpy(), shard_hours)
    table = table.set_column(table.schema.get_field_index("shard"), schema.field("shard"), pa.array(shards))
    return Manifest(table=table.combine_chunks(), digest=digest_of(table))


def write(path: Path, manifest: Manifest, record: dict[str, Any], publish: Callable[[Path, pa.Table], None]) -> None:
    """Write the manifest with its digest and `record` (how it was made) in the file's metadata."""
    metadata = {"digest": manifest.digest, "made_with": record, "schema_version": tables.SCHEMA_VERSION}
    publish(
        path,
        manifest.table.replace_schema_metadata({key: json.dumps(value) for key, value in metadata.items()}),
    )


def file_record(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of the manifest's file, for `FILE_KEY`."""
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def read(path: Path) -> tuple[Manifest, dict[str, Any]]:
    """Read a manifest back, with the record of how it was made.

    Raises:
        UserError: The file is not a manifest.
    """
    try:
        metadata = tables.file_metadata(path)
        table = pq.read_table(path, memory_map=False).combine_chunks()
        return Manifest(table=table.replace_schema_metadata(None), digest=metadata["digest"]), metadata["made_with"]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable manifest ({error}); remove it, or choose another run_dir=") from None


def _channels(utterance: Utterance, header: AudioHeader | None) -> list[Utterance]:
    """An utterance as one a channel; the text of several channels is not the text of any one of them."""
    if header is None or utterance.channel is not None:
        return [utterance]
    reference = utterance.reference if header.num_channels == 1 else None
    return [
        replace(utterance, id=f"{utterance.id}#c{channel}", channel=channel, reference=reference)
        for channel in range(1, header.num_channels + 1)
    ]


def _row(
    utterance: Utterance, header: AudioHeader | None, file_size: int | None, columns: dict[str, str]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": utterance.id,
        "path": encode_path(utterance.path),
        "start_s": utterance.start_s,
        "end_s": utterance.end_s,
        "reference": utterance.reference,
        "file_size": file_size,
        tables.CHANNEL: utterance.channel,
        **{column: utterance.columns.get(name) for name, column in columns.items()},
    }
    if header is not None:
        first = round((utterance.start_s or 0.0) * header.sample_rate)
        last = header.num_samples if utterance.end_s is None else round(utterance.end_s * header.sample_rate)
        num_samples = max(0, min(last, header.num_samples) - first)
        row |= {
            "duration_s": num_samples / header.sample_rate,
            "sample_rate": header.sample_rate,
            "num_channels": header.num_channels,
            "num_samples": num_samples,
        }
    return row


def _check_ids(table: pa.Table) -> None:
    ids = table["id"]
    if pc.count_distinct(ids).as_py() != len(ids):
        counts = pc.value_counts(ids)
        id_ = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()].as_py()
        paths = table.filter(pc.equal(ids, id_))["path"].to_pylist()
        raise UserError(
            f"id {id_!r} stands for {len(paths)} utterances ({' and '.join(paths[:2])}); ids must be unique, "
            f"so rename one, or give ids of your own in a list (dataset=manifest)"
        )
    if pc.any(pc.equal(ids, "")).as_py():
        path = table.filter(pc.equal(ids, ""))["path"][0]
        raise UserError(f"an utterance of {path} has an empty id; give every one an id")


def digest_of(table: pa.Table) -> str:
    """SHA-256 over the rows as JSON, which is the same on every machine and in every release of Arrow.

    Where the files lie is left out.
    """
    digest = hashlib.sha256()
    for row in _rows(table.drop_columns(["path"])):
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=BLOCK_ROWS):
        yield from batch.to_pylist()
