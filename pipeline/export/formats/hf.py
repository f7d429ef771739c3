"""A dataset of Hugging Face: a folder of Parquet files with the audio, which `datasets.load_dataset(folder)` reads.

The audio is in the files, so that the folder can be moved or pushed to a hub. The audio of a whole file is copied. A
segment or a channel is cut from its recording into a FLAC file. `Run.to_datasets` makes a dataset without copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.clips import Clips
from pipeline.export.material import Exported, Recording, Segment
from pipeline.results.recording_names import safe_name

DESCRIPTION = "a dataset of Hugging Face, Parquet files with audio"
SUFFIX = ""
NEEDS_WORDS = False
MAX_BYTES = 500_000_000
"""A file that has this much audio is closed, as `push_to_hub` does."""
_GROUP_BYTES = 32 * 2**20
"""Audio in a row group, which is read at once."""
_WORD = pa.struct(
    [("word", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("probability", pa.float32())]
)
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("text", pa.string()),
        ("reference", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("speaker", pa.string()),
        ("avg_logprob", pa.float32()),
        ("words", pa.list_(_WORD)),
    ]
)


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    clips, files = Clips(exported), _Files(path)
    try:
        for recording in recordings:
            for segment in recording.segments:
                if (clip := clips.of(recording, segment)) is not None:
                    audio, ending = clip
                    files.add(_row(segment, audio, f"{safe_name(segment.id)}.{ending}"))
    finally:
        files.close()


class _Files:
    """Writes rows to one Parquet file after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self._held = self._written = self._number = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._held += len(row["audio"]["bytes"])
        if self._held >= _GROUP_BYTES:
            self._flush()
        if self._written >= MAX_BYTES:
            self.close()

    def _flush(self) -> None:
        if self._writer is None:
            # What `datasets` writes for the type of a column that Arrow does not know.
            features = {"info": {"features": _features()}}
            schema = _SCHEMA.with_metadata({"huggingface": json.dumps(features)})
            path = self._folder / f"train-{self._number:05d}.parquet"
            self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["speaker"])
            self._number += 1
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=_SCHEMA))
        self._written += self._held
        self._rows, self._held = [], 0

    def close(self) -> None:
        """Write what is left. Without any row, a file without rows is written."""
        if self._rows or not self._number:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._written = None, 0


def _features() -> dict[str, Any]:
    def value(type_: pa.DataType) -> dict[str, str]:
        name = {pa.float64(): "float64", pa.float32(): "float32"}.get(type_, "string")
        return {"dtype": name, "_type": "Value"}

    found: dict[str, Any] = {field.name: value(field.type) for field in _SCHEMA}
    words = {_WORD.field(index).name: value(_WORD.field(index).type) for index in range(_WORD.num_fields)}
    return found | {"audio": {"_type": "Audio"}, "words": {"feature": words, "_type": "List"}}


def _row(segment: Segment, audio: bytes, name: str) -> dict[str, Any]:
    words = [
        {"word": word.word, "start_s": word.start_s, "end_s": word.end_s, "probability": word.probability}
        for word in segment.words
    ]
    return {
        "id": segment.id, "audio": {"bytes": audio, "path": name}, "text": segment.text,
        "reference": segment.reference, "start_s": segment.start_s, "end_s": segment.end_s,
        "speaker": segment.speaker, "avg_logprob": segment.avg_logprob, "words": words,
    }  # fmt: skip
