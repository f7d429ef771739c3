"""Turns transcripts into a `Dataset` of Hugging Face."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from pipeline.audio.archives.members import member_of, unpacked
from pipeline.audio.archives.opening import open_path
from pipeline.results.frames import read_rows
from pipeline.results.joining import Joined
from pipeline.runtime.errors import AudioError, UserError
from pipeline.storage.files import StoredTable
from pipeline.storage.tables import CHANNEL

if TYPE_CHECKING:
    from datasets import Dataset

_AUDIO = "audio"


def to_dataset(
    files: Sequence[tuple[StoredTable, Sequence[str] | None]],
    schema: pa.Schema,
    joined: Joined | None,
    sample_rate: int | None,
) -> Dataset:
    """Return transcripts as a dataset that is mapped into memory from one Arrow file.

    The file is in the cache of `datasets` and is named by the hash of its content, so equal datasets share one file,
    and no dataset gets a file of other content. Memory holds the transcripts of one shard.

    Args:
        files: Files of `transcripts/`, with the ids to read; `None` for all.
        schema: Columns of these files.
        joined: Columns that were joined; `None` for none.
        sample_rate: Rate in Hz of a column `audio` that names the recordings; `None` for no such column.

    Raises:
        UserError: The extra `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            "to_datasets: needs the package datasets, which the extra datasets has; run pip install datasets"
        ) from None
    empty = schema.remove_metadata().empty_table()
    empty = empty if joined is None else joined.beside(empty)
    features = datasets.Features.from_arrow_schema(empty.schema)
    if sample_rate is not None:
        features[_AUDIO] = datasets.Audio(sampling_rate=sample_rate)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "overnight-speech"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        path = Path(staging) / "transcripts.arrow"
        with pa.OSFile(os.fspath(path), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
            for stored, ids in files:
                rows = read_rows(stored, ids)
                rows = rows if joined is None else joined.beside(rows)
                rows = pa.concat_tables([empty, rows.replace_schema_metadata(None)], promote_options="permissive")
                writer.write_table((rows if sample_rate is None else _with_audio(rows)).cast(features.arrow_schema))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path.replace(folder / f"{digest}.arrow")
    return datasets.Dataset.from_file(os.fspath(folder / f"{digest}.arrow"))


def schema_of(files: Iterable[StoredTable]) -> pa.Schema:
    """Return the columns of files of one table, which may differ while those of a grown corpus are written."""
    return pa.unify_schemas([stored.schema().remove_metadata() for stored in files], promote_options="permissive")


def check_whole(manifest: pd.DataFrame, channels: str) -> None:
    """Check that the file of each utterance is what the utterance is.

    Args:
        manifest: Rows of the utterances.
        channels: mix, first or each, as in the run.

    Raises:
        ValueError: An utterance is a part or one channel of its file, or there is a column `audio`.
    """
    if _AUDIO in manifest:
        raise ValueError(f"audio=True: there is a column {_AUDIO} already; use run.audio(id)")
    part = manifest[["start_s", "end_s"]].notna().any(axis=1)
    if CHANNEL in manifest:
        part |= manifest[CHANNEL].notna()
    if channels == "first":
        part |= manifest["num_channels"].fillna(0) != 1
    if part.any():
        raise ValueError(
            f"audio=True: {manifest.loc[part.idxmax(), 'id']} is a part or one channel of its file, and a "
            "datasets.Audio is a whole file; use run.audio(id)"
        )


def _with_audio(rows: pa.Table) -> pa.Table:
    """Return rows with a column that holds the path of each recording; of a recording in an archive, also its bytes."""
    paths = rows["path"].to_pylist()
    sounds = [None if member_of(path) is None else _bytes_of(path) for path in paths]
    audio = [{"bytes": sound, "path": unpacked(path)} for sound, path in zip(sounds, paths, strict=True)]
    return rows.append_column(_AUDIO, pa.array(audio, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))


def _bytes_of(path: str) -> bytes:
    """Return the bytes of a recording.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with open_path(path) as (file, _):
            return file.read()
    except AudioError as error:
        raise OSError(f"{path}: {error}; put the recording that the run read back into its place") from None
