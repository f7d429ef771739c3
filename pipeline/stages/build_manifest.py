"""Builds the manifest of a dataset: finds the recordings, reads their headers and assigns rows to shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.headers import Headers
from pipeline.datasets import Connector, columns_of, utterances_of
from pipeline.inference.planning import assign_shards
from pipeline.records import AudioHeader, Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.storage import tables
from pipeline.storage.manifest import BLOCK_ROWS, Manifest, digest_of


def build(
    dataset: Connector,
    shard_hours: float,
    on_progress: Callable[[int], None] = lambda rows: None,
    channels: str = "mix",
    timeout_s: float = 120.0,
    stderr: Path | None = None,
) -> Manifest:
    """Find the recordings of a dataset, read their headers in parallel, and assign them to shards; see `list_rows`.

    Raises:
        UserError: As `list_rows`.
    """
    return first_generation(list_rows(dataset, on_progress, channels, timeout_s, stderr), shard_hours)


def first_generation(table: pa.Table, shard_hours: float) -> Manifest:
    """Assign the rows of a manifest to shards.

    Args:
        table: The rows.
        shard_hours: Hours of audio in one shard.
    """
    shards = assign_shards(table["duration_s"].to_numpy(), shard_hours)
    table = table.set_column(table.schema.get_field_index("shard"), table.schema.field("shard"), pa.array(shards))
    return Manifest(table=table.combine_chunks(), digest=digest_of(table))


def list_rows(
    dataset: Connector,
    on_progress: Callable[[int], None] = lambda rows: None,
    channels: str = "mix",
    timeout_s: float = 120.0,
    stderr: Path | None = None,
    known: Callable[[Utterance], tuple[AudioHeader | None, int | None] | None] = lambda utterance: None,
) -> pa.Table:
    """Find the recordings of a dataset, and read their headers in parallel.

    If a header cannot be read, or the process that reads the header hangs, crashes or runs out of memory, the row has
    nulls. The loader tries such a recording again later and writes the failure.

    Args:
        dataset: The connector.
        on_progress: Called with the number of rows so far.
        channels: `mix`, `first` or `each`. With `each`, an utterance without a channel becomes one row per channel.
        timeout_s: Seconds after which a header counts as unreadable. If all samples must be counted, this is the limit
            for each MiB of the file.
        stderr: File that takes messages of audio libraries; `None` drops them.
        known: Returns header and file size of a recording whose header need not be read, otherwise `None`.

    Returns:
        The rows of a manifest, in the order of the dataset; `shard` is null.

    Raises:
        UserError: Two utterances have the same id, an id is empty, or there are no recordings.
    """
    types = columns_of(dataset)
    columns = tables.own_column_names(types)
    schema = tables.manifest_schema(
        {tables.CHANNEL: "int16", **{columns[name]: type_ for name, type_ in types.items()}}
    )
    batches: list[pa.RecordBatch] = []
    utterances = utterances_of(dataset)
    done = 0
    with Headers(timeout_s, stderr) as headers:
        while block := list(islice(utterances, BLOCK_ROWS)):
            rows = []
            found = [known(each) for each in block]
            read = headers.of([each.path for each, facts in zip(block, found, strict=True) if facts is None])
            for utterance, facts in zip(block, found, strict=True):
                header, size = next(read) if facts is None else facts
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
    return table.combine_chunks()


def _channels(utterance: Utterance, header: AudioHeader | None) -> list[Utterance]:
    """Return one utterance per channel. A reference for several channels is dropped, as it fits none of them alone."""
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
            f"id {id_!r} belongs to {len(paths)} utterances ({' and '.join(paths[:2])}); ids must be unique, "
            f"so rename one, or give ids of your own in a list (dataset=manifest)"
        )
    if pc.any(pc.equal(ids, "")).as_py():
        path = table.filter(pc.equal(ids, ""))["path"][0]
        raise UserError(f"{path}: an utterance has an empty id; give each utterance an id")
