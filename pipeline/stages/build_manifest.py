"""Builds the manifest of a dataset: finds the recordings, reads their headers and assigns rows to shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.audio.headers import Headers, Kept
from pipeline.audio.waveforms import SEGMENT_SLACK_S
from pipeline.datasets import Connector, Warnings, columns_of
from pipeline.datasets.formats.blocks import blocks_of
from pipeline.datasets.formats.columnar import UtteranceColumns
from pipeline.inference.planning import assign_shards
from pipeline.records import AudioHeader, ErrorName, Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path, resolve_path
from pipeline.stages.unique_ids import with_unique_ids
from pipeline.storage import tables
from pipeline.storage.manifest import Manifest, Rows, digest_of

Facts = tuple[AudioHeader | None, int | None]
"""The header of a recording, if it can be read, and the size of its file in bytes, if it is there."""


class Listed(NamedTuple):
    """An utterance of a dataset, on its way to a row of the manifest.

    Attributes:
        utterance: The utterance.
        header: The header of its recording; `None` if it cannot be read.
        file_size: Size of the file in bytes; `None` if there is none.
        rejection: Why the utterance is a failure before its recording is opened; `None` if it is none.
    """

    utterance: Utterance
    header: AudioHeader | None
    file_size: int | None
    rejection: tuple[ErrorName, str] | None


@dataclass(frozen=True)
class Listing:
    """The utterances of a dataset.

    Attributes:
        table: The rows of a manifest; `shard` is null.
        rejected: As `Manifest.rejected`.
        list_sha256: As `Manifest.list_sha256`.
    """

    table: pa.Table
    rejected: Mapping[str, tuple[ErrorName, str]]
    list_sha256: str = ""


def build(
    dataset: Connector,
    shard_hours: float,
    on_progress: Callable[[int], None] = lambda rows: None,
    channels: str = "mix",
    timeout_s: float = 120.0,
    warnings: Warnings | None = None,
) -> Manifest:
    """List the utterances of a dataset and assign them to shards.

    Args:
        dataset: The connector.
        shard_hours: Hours of audio in one shard.
        on_progress: As in `list_utterances`.
        channels: As in `list_utterances`.
        timeout_s: As in `list_utterances`.
        warnings: As in `list_utterances`.

    Raises:
        UserError: As `list_utterances`.
    """
    return first_generation(list_utterances(dataset, channels, timeout_s, on_progress, None, warnings), shard_hours)


def first_generation(listing: Listing, shard_hours: float) -> Manifest:
    """Assign utterances to shards.

    Args:
        listing: The utterances.
        shard_hours: Hours of audio in one shard.
    """
    table = listing.table
    shards = assign_shards(table["duration_s"].to_numpy(), shard_hours)
    table = table.set_column(table.schema.get_field_index("shard"), table.schema.field("shard"), pa.array(shards))
    return Manifest(table, digest_of(table), listing.rejected, list_sha256=listing.list_sha256)


def list_utterances(
    dataset: Connector,
    channels: str = "mix",
    timeout_s: float = 120.0,
    on_progress: Callable[[int], None] = lambda rows: None,
    stderr: Path | None = None,
    warnings: Warnings | None = None,
    known: Callable[[Utterance], Facts | None] = lambda utterance: None,
    segmented: Callable[[Sequence[Listed]], Sequence[Listed]] = lambda listed: listed,
    kept: Kept | None = None,
) -> Listing:
    """Find the recordings of a dataset, and read their headers in parallel.

    If a header cannot be read, or the process that reads the header hangs, crashes or runs out of memory, the row has
    nulls. The loader tries such a recording again later and writes the failure.

    Args:
        dataset: The connector.
        channels: `mix`, `first` or `each`. With `each`, an utterance without a channel becomes one row per channel.
        timeout_s: Seconds after which a header counts as unreadable. If all samples must be counted, this is the limit
            for each MiB of the file.
        on_progress: Called with the number of rows so far.
        stderr: File that takes messages of audio libraries; `None` drops them.
        warnings: Counts the ends of segments that are cut, and the ids that are changed because they are taken.
        known: Returns header and file size of a recording whose header need not be read, otherwise `None`.
        segmented: Returns what takes the place of some utterances.
        kept: As for `Headers`.

    Returns:
        The utterances, in the order of the dataset.

    Raises:
        UserError: An id is empty, or there are no recordings, or none has speech.
    """
    types = columns_of(dataset)
    columns = tables.own_column_names(types)
    schema = tables.manifest_schema(
        {tables.CHANNEL: "int16", **{columns[name]: type_ for name, type_ in types.items()}}
    )
    warnings = Warnings() if warnings is None else warnings
    slack_s = getattr(dataset, "segment_slack_s", SEGMENT_SLACK_S)
    rejected: dict[int, tuple[ErrorName, str]] = {}
    rows = Rows(schema)
    seen = 0
    with Headers(timeout_s, stderr, kept) as headers:
        for block in blocks_of(dataset):
            if isinstance(block, UtteranceColumns):
                rows.add(_described(block, columns, schema))
                on_progress(len(rows))
                continue
            listed: list[Listed] = []
            for utterance, facts in zip(block, _facts_of(block, headers, known), strict=True):
                listed += _listed(utterance, facts, channels, slack_s, warnings)
                on_progress(len(rows) + len(listed))
            made = segmented(listed)
            rejected |= {len(rows) + row: each.rejection for row, each in enumerate(made) if each.rejection is not None}
            described = [_row(each.utterance, each.header, each.file_size, columns) for each in made]
            rows.add(pa.RecordBatch.from_pylist(described, schema=schema))
            seen += len(listed)
    table = rows.table()
    if channels != "each" and table[tables.CHANNEL].null_count == len(table):
        table = table.drop_columns([tables.CHANNEL])
    if not table.num_rows:
        no_speech = "no recording has speech; lower vad.threshold=, or set vad=none"
        raise UserError(f"dataset={dataset.run_name}: {no_speech if seen else 'no recordings found; nothing to do'}")
    table = with_unique_ids(table, warnings)
    reasons = {table["id"][row].as_py(): rejection for row, rejection in rejected.items()}
    return Listing(table, reasons, getattr(dataset, "list_sha256", ""))


def _described(block: UtteranceColumns, columns: Mapping[str, str], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows of a manifest of utterances whose headers are not read."""
    there = dict(zip(block.known.schema.names, block.known.columns, strict=True))
    there |= {columns[name]: values for name, values in block.own.items()}
    rows = len(block.known)
    return pa.RecordBatch.from_arrays(
        [there.get(field.name, pa.nulls(rows, field.type)) for field in schema], schema=schema
    )


def _listed(utterance: Utterance, facts: Facts, channels: str, slack_s: float, warnings: Warnings) -> list[Listed]:
    """Return an utterance of the dataset on its way to a row, or to one row per channel."""
    header, size = facts
    rejection = _rejection(utterance, header, slack_s)
    if header is not None and rejection is None:
        utterance = _cut(utterance, header, slack_s, warnings)
    each_channel = _channels(utterance, header) if channels == "each" else [utterance]
    return [Listed(each, header, size, rejection) for each in each_channel]


def _facts_of(
    block: Sequence[Utterance], headers: Headers, known: Callable[[Utterance], Facts | None]
) -> Iterator[Facts]:
    """Yield the header and the file size of each utterance, from what is known or from the file, in order.

    An utterance whose duration the dataset says has neither, because its file is not opened.
    """
    found = [(None, None) if each.duration_s is not None else known(each) for each in block]
    read = headers.of([each.path for each, facts in zip(block, found, strict=True) if facts is None])
    for utterance, facts in zip(block, found, strict=True):
        header_and_size = next(read) if facts is None else facts
        yield (None, None) if utterance.error is not None else header_and_size


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
    elif utterance.error is None:
        row["duration_s"] = utterance.duration_s
    return row


def _rejection(utterance: Utterance, header: AudioHeader | None, slack_s: float) -> tuple[ErrorName, str] | None:
    """Return why an utterance is a failure before its recording is opened; `None` if it is none."""
    if utterance.error is not None:
        return "unreadable", utterance.error
    path = encode_path(utterance.path)
    if path != utterance.path and resolve_path(path) != utterance.path:  # a byte of the name is not UTF-8
        return "unreadable", f"the tables write the path as {path!r}, which is another file; rename one of the two"
    if header is not None and (utterance.start_s or 0.0) < header.duration_s < (utterance.end_s or 0.0) - slack_s:
        ends = f"the segment ends at {utterance.end_s} s, but the recording ends at {header.duration_s:.6g} s"
        return "truncated", f"{ends}, more than {slack_s} s before"
    return None


def _cut(utterance: Utterance, header: AudioHeader, slack_s: float, warnings: Warnings) -> Utterance:
    """Cut a segment at the end of its recording. `_rejection` has refused one that ends much later."""
    end_s = utterance.end_s
    if end_s is None or round(end_s * header.sample_rate) <= header.num_samples:
        return utterance
    if (utterance.start_s or 0.0) >= header.duration_s:
        return utterance  # the loader says what is wrong
    warnings.add(
        f"segments that end up to {slack_s} s after their recording, and are cut",
        f"{utterance.id} ends at {end_s} s, its recording at {header.duration_s:.6g} s",
    )
    return replace(utterance, end_s=header.duration_s)
