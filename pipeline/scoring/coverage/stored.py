"""`coverage.parquet`: what its columns are, and whether it still fits the tables of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.scoring.coverage.accounting import COLLAR_S, SECONDS
from pipeline.storage.commits import encode_record
from pipeline.storage.files import UNREADABLE
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import metadata_of

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("channel", pa.int16()),
        *(pa.field(name, pa.float64()) for name in SECONDS),
        pa.field("utterances", pa.int32(), nullable=False),
        pa.field("failures", pa.int32(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""One row for each recording, or each channel of one. Where a recording could not be searched, `error` says why, and
the seconds of speech are null."""


def write_coverage(directory: RunDirectory, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> pa.Table:
    """Write the table, sorted by path and channel; returns it.

    Args:
        directory: The run, locked by this process.
        rows: A row for each recording.
        settings: What determines the stretches of speech.
    """
    metadata = {"made_of": _made_of(directory), "settings": dict(settings), "collar_s": COLLAR_S}
    encoded = {key: json.dumps(value) for key, value in metadata.items()}
    table = pa.Table.from_pylist([*rows], schema=SCHEMA).sort_by([("path", "ascending"), ("channel", "ascending")])
    directory.write_table(directory.coverage.name, table.replace_schema_metadata(encoded))
    return table


def read_coverage(directory: RunDirectory, settings: Mapping[str, Any] | None = None) -> pa.Table | None:
    """Return the table; `None` if there is none, or if the run has changed since.

    Args:
        directory: The run.
        settings: What determines the stretches of speech, if the table must have been made with it.
    """
    if not directory.coverage.is_there:
        return None
    try:
        made_with = metadata_of(directory.coverage.schema())
        if settings is not None and made_with["settings"] != settings:
            return None
        if made_with["collar_s"] != COLLAR_S or made_with["made_of"] != _made_of(directory):
            return None
        return directory.coverage.read()
    except UNREADABLE:
        return None


def total(table: pa.Table, column: str) -> float:
    """Return the sum of a column over all recordings."""
    return float(pc.sum(table[column]).as_py() or 0)


def lost(table: pa.Table) -> pa.ChunkedArray:
    """Return the seconds of speech of each recording that did not become text; null if it could not be searched.

    It was decoded without a word, it is in an utterance that failed, or it is in no utterance.
    """
    return pc.subtract(table["speech_s"], table["speech_with_text_s"])


def _made_of(directory: RunDirectory) -> str:
    """Return a digest of the manifest's rows and of what is committed."""
    metadata = metadata_of(directory.manifest.schema())
    digest = hashlib.sha256(f"{metadata['digest']} {metadata.get('chain', '')}".encode())
    for shard in directory.commits().values():
        for record in shard.records:
            digest.update(encode_record(record))
    return digest.hexdigest()
