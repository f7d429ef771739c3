"""Arrow schemas of all tables, and functions that build the tables. The columns are a public interface."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import ArrayPart, Failure
from pipeline.records.transcripts import Texts, Transcripts
from pipeline.runtime.paths import encode_path
from pipeline.storage.layouts import LIST, column_type, to_column, writer_options

SCHEMA_VERSION = 1

WORD = pa.struct(
    [("word", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("probability", pa.float32())]
)

MANIFEST_FIELDS = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("start_s", pa.float64()),
    pa.field("end_s", pa.float64()),
    pa.field("duration_s", pa.float64()),
    pa.field("sample_rate", pa.int32()),
    pa.field("num_channels", pa.int16()),
    pa.field("num_samples", pa.int64()),
    pa.field("file_size", pa.int64()),
    pa.field("reference", pa.string()),
    pa.field("shard", pa.int32()),
)

TRANSCRIPT_FIELDS = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("duration_s", pa.float64()),
    pa.field("num_frames", pa.int32()),
    pa.field("text", pa.string()),
    pa.field("ctc_text", pa.string()),
    pa.field("avg_logprob", pa.float32()),
    pa.field("words", pa.list_(WORD)),
    pa.field("reference", pa.string()),
    pa.field("word_errors", pa.int32()),
    pa.field("reference_words", pa.int32()),
    pa.field("char_errors", pa.int32()),
    pa.field("reference_chars", pa.int32()),
    pa.field("wer", pa.float64()),
)

DECODED = ("num_frames", "text", "ctc_text", "avg_logprob", "words", "nbest")
"""Columns of `transcripts/` that come from the decoder; `nbest` is not in every run."""
NBEST = pa.field("nbest", pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())])))
"""Column of `transcripts/` that comes next, in runs whose decoder keeps several texts."""
AUDIO_DIGEST, SAME_AS = "audio_digest", "same_as"
AUDIO_FIELDS = (pa.field(AUDIO_DIGEST, pa.string()), pa.field(SAME_AS, pa.string()))
"""Columns of `transcripts/` that follow `TRANSCRIPT_FIELDS`, except in runs that an earlier release began."""

ALIGNMENTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reference", pa.string()),
        pa.field("spelled", pa.string()),
        pa.field("reference_logprob", pa.float64()),
        pa.field("transcript_logprob", pa.float64()),
        pa.field("llr_per_s", pa.float32()),
        pa.field("worst_llr", pa.float32()),
        pa.field("words", pa.list_(pa.struct([*WORD, pa.field("llr", pa.float32())]))),
        pa.field(
            "characters",
            pa.list_(pa.struct([pa.field("character", pa.string()), *list(WORD)[1:]])),
        ),
        pa.field("reason", pa.string()),
    ]
)

FAILURES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int16(), nullable=False),
    ]
)

_ARROW_TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
}

_ARROW_OWN = ("__filename", "__fragment_index", "__batch_index", "__last_in_fragment")
CHANNEL = "channel"
"""Column for the channel of the file; 1 is the first. It comes before the dataset's own columns, if it is there."""
VANISHED = "vanished_at"
"""Last column of a manifest, if recordings have vanished: the time at which a recording was missed, as text."""
RESERVED = frozenset(
    [
        *(field.name for field in (*MANIFEST_FIELDS, *TRANSCRIPT_FIELDS, NBEST, *AUDIO_FIELDS)),
        CHANNEL,
        VANISHED,
        *_ARROW_OWN,
    ]
)
"""Names that a dataset's own column cannot have. A column with such a name, in upper or lower case, is renamed to
`meta_<name>`."""


def manifest_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Return the schema of `manifest.parquet`. `columns` are the dataset's own columns: name to Arrow type name."""
    return pa.schema([*MANIFEST_FIELDS, *_own_fields(columns)])


def transcripts_schema(manifest: pa.Schema, audio_digests: bool = False, nbest: bool = False) -> pa.Schema:
    """Return the schema of `transcripts/`. The dataset's own columns come last.

    Args:
        manifest: Schema of the manifest.
        audio_digests: As `Identity.audio_digests`.
        nbest: As `Identity.nbest`.
    """
    texts, audio = (NBEST,) if nbest else (), AUDIO_FIELDS if audio_digests else ()
    return pa.schema([*TRANSCRIPT_FIELDS, *texts, *audio, *own_columns(manifest)])


def own_columns(manifest: pa.Schema) -> list[pa.Field]:
    """Return the dataset's own columns of a manifest."""
    fields = [manifest.field(index) for index in range(len(MANIFEST_FIELDS), len(manifest))]
    return [field for field in fields if field.name != VANISHED]


def emissions_schema(dtype: str, layout: str = LIST) -> pa.Schema:
    """Return the schema of `emissions/`; `dtype` is float32 or float16, `layout` list or binary."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("part", pa.int16(), nullable=False),
            pa.field("start_frame", pa.int32(), nullable=False),
            pa.field("num_frames", pa.int32(), nullable=False),
            pa.field("num_labels", pa.int32(), nullable=False),
            pa.field("emission", column_type(dtype, layout), nullable=False),
        ]
    )


def features_schema(dtype: str, layout: str = LIST) -> pa.Schema:
    """Return the schema of `features/`; `dtype` is float16 or float32, `layout` list or binary."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("layer", pa.int16(), nullable=False),
            pa.field("part", pa.int16(), nullable=False),
            pa.field("start_frame", pa.int32(), nullable=False),
            pa.field("num_frames", pa.int32(), nullable=False),
            pa.field("dim", pa.int32(), nullable=False),
            pa.field("feature", column_type(dtype, layout), nullable=False),
        ]
    )


def own_column_names(names: Iterable[str], reserved: Iterable[str] = RESERVED) -> dict[str, str]:
    """Map the names of a dataset's own columns to unique names in our tables.

    If a name is reserved or taken by another column of the dataset, the prefix `meta_` is added until the name is free.
    Names that differ only in case count as the same, because DuckDB, Spark and Hive read them as one column. Bytes that
    are not UTF-8 are written as %XX.

    Args:
        names: Names of the dataset's own columns.
        reserved: Names of the columns of our tables.
    """
    names = list(names)
    taken = {"", *(name.casefold() for name in reserved)}
    found: dict[str, str] = {}
    for name in names:
        if (column := encode_path(name)).casefold() not in taken:
            found[name] = column
            taken.add(column.casefold())
    for name in names:
        if name not in found:
            column = f"meta_{encode_path(name)}"
            while column.casefold() in taken:
                column = f"meta_{column}"
            found[name] = column
            taken.add(column.casefold())
    return {name: found[name] for name in names}


def transcript_columns(transcripts: Transcripts) -> pa.Table:
    """Return the columns of `transcripts/` that come from the decoder, with a row for each utterance."""
    times = (transcripts.start_s, transcripts.end_s, transcripts.probability.astype(np.float32))
    words = pa.StructArray.from_arrays([_strings(transcripts.words), *map(pa.array, times)], fields=list(WORD))
    columns = pa.table(
        {
            "num_frames": pa.array(transcripts.num_frames),
            "text": _strings(transcripts.text),
            "ctc_text": _strings(transcripts.ctc_text),
            "avg_logprob": pa.array(transcripts.avg_logprob.astype(np.float32)),
            "words": pa.ListArray.from_arrays(pa.array(transcripts.word_offsets), words),
        }
    )
    if transcripts.nbest is None:
        return columns
    rows = [[asdict(text) for text in texts] for texts in transcripts.nbest]
    return columns.append_column(NBEST, pa.array(rows, NBEST.type))


def _strings(texts: Texts) -> pa.StringArray:
    """Return texts as a string array, without a copy."""
    return pa.StringArray.from_buffers(len(texts.offsets) - 1, pa.py_buffer(texts.offsets), pa.py_buffer(texts.data))


def failures_table(failures: Iterable[Failure]) -> pa.Table:
    """Return the failures of a shard as a table, sorted by id."""
    return pa.Table.from_pylist([asdict(row) for row in sorted(failures, key=lambda f: f.id)], schema=FAILURES)


def emission_rows(
    ids: Sequence[str], parts: Sequence[ArrayPart], dtype: str, num_labels: int, layout: str = LIST
) -> pa.Table:
    """Return rows of `emissions/`. The values of each part are `(frames, labels)`."""
    column = to_column([part.values for part in parts], dtype, layout)
    return _array_rows(emissions_schema(dtype, layout), {"num_labels": num_labels}, ids, parts, column)


def feature_rows(
    ids: Sequence[str], layer: int, parts: Sequence[ArrayPart], dtype: str, dim: int, layout: str = LIST
) -> pa.Table:
    """Return rows of `features/` for one layer. The values of each part are `(frames, dim)`."""
    column = to_column([part.values for part in parts], dtype, layout)
    return _array_rows(features_schema(dtype, layout), {"layer": layer, "dim": dim}, ids, parts, column)


def _array_rows(
    schema: pa.Schema,
    constants: Mapping[str, int],
    ids: Sequence[str],
    parts: Sequence[ArrayPart],
    values: pa.Array | pa.ChunkedArray,
) -> pa.Table:
    """Return one row per part. `constants` have the same value in each row; `values` is the last column."""
    columns = {
        "id": pa.array(ids, pa.string()),
        "part": pa.array([part.part for part in parts], pa.int16()),
        "start_frame": pa.array([part.start_frame for part in parts], pa.int32()),
        "num_frames": pa.array([len(part.values) for part in parts], pa.int32()),
        schema.names[-1]: values,
    }
    for name, value in constants.items():
        columns[name] = pa.array(np.full(len(ids), value), schema.field(name).type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def open_writer(
    path: Path,
    schema: pa.Schema,
    metadata: Mapping[str, Any] | None = None,
    values: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> pq.ParquetWriter:
    """Open a Parquet writer, with an encoding that suits arrays if the table has any.

    Args:
        path: File to write.
        schema: Columns.
        metadata: File metadata. Each value is stored as JSON.
        values: The column that holds arrays, if the table has one.
        options: Further options of `pyarrow.parquet.ParquetWriter`.
    """
    full = {"schema_version": SCHEMA_VERSION, **(metadata or {})}
    schema = schema.with_metadata({key: json.dumps(value, ensure_ascii=False) for key, value in full.items()})
    if values is None:
        return pq.ParquetWriter(path, schema, compression="zstd", **(options or {}))
    return pq.ParquetWriter(
        path,
        schema,
        use_dictionary=["id"],  # floats rarely repeat, so a dictionary of them only costs time
        write_statistics=["id", "layer"] if "layer" in schema.names else ["id"],
        **writer_options(schema.field(values)),
        **(options or {}),
    )


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the metadata that `open_writer` wrote into a file with this schema."""
    raw = schema.metadata or {}
    return {key.decode(): json.loads(value) for key, value in raw.items() if not key.startswith((b"ARROW", b"pandas"))}


def _own_fields(columns: Mapping[str, str]) -> list[pa.Field]:
    return [pa.field(name, _ARROW_TYPES[type_name]) for name, type_name in columns.items()]
