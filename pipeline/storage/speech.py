"""The stretches of speech that a detector has found in recordings, as files of a run directory.

A run searches each recording once. Each file in `speech/` holds the recordings of about half a minute of work and is
never changed, so that a kill costs little. A recording is known again by its path, its channel and the size of its
file, as the manifest knows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.records import AudioHeader
from pipeline.storage.files import UNREADABLE
from pipeline.storage.names import SPEECH
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import metadata_of

_STRETCH = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64())])
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("channel", pa.int16()),
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("num_channels", pa.int16(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("file_size", pa.int64(), nullable=False),
        pa.field("speech", pa.list_(_STRETCH), nullable=False),
    ]
)
_NAME = re.compile(r"batch-(\d{5,})\.parquet")


class Recording(NamedTuple):
    """A recording that can be searched for speech.

    Attributes:
        path: Path as in the manifest.
        channel: The channel that is heard, from 1; `None` for the mean of all.
        header: The header of the file.
    """

    path: str
    channel: int | None
    header: AudioHeader


class SpeechStore:
    """The recordings that were searched with some settings, in memory; further ones are written as they come."""

    def __init__(self, directory: RunDirectory, settings: Mapping[str, Any]) -> None:
        """Read what there is. A file that cannot be read counts as not there, and so does one of other settings.

        Args:
            directory: The run.
            settings: What determines the stretches: the settings of the detector and its weights.
        """
        self._directory = directory
        self._settings = dict(settings)
        self._found: dict[tuple[str, int | None, int], list[tuple[float, float]]] = {}
        self._recordings: dict[tuple[str, int | None], Recording] = {}
        self._headers: dict[str, AudioHeader] = {}
        numbers = {int(match[1]): name for name in directory.names(SPEECH) if (match := _NAME.fullmatch(name))}
        self._next = max(numbers, default=-1) + 1
        for name in numbers.values():
            with suppress(*UNREADABLE):
                stored = directory.stored(f"{SPEECH}/{name}")
                if metadata_of(stored.schema())["settings"] == self._settings:
                    self._take(stored.read())

    def _take(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            header = AudioHeader(row["sample_rate"], row["num_channels"], row["num_samples"], row["file_size"])
            recording = Recording(row["path"], row["channel"], header)
            self._note(recording, [(each["start_s"], each["end_s"]) for each in row["speech"]])

    def _note(self, recording: Recording, speech: list[tuple[float, float]]) -> None:
        self._headers[recording.path] = recording.header
        self._recordings[recording[:2]] = recording
        self._found[recording.path, recording.channel, recording.header.file_size] = speech

    def __iter__(self) -> Iterator[tuple[Recording, list[tuple[float, float]]]]:
        """Yield each recording, as it was searched last, with its stretches of speech in seconds."""
        return ((each, self._found[*key, each.header.file_size]) for key, each in self._recordings.items())

    def header(self, path: str, file_size: int | None) -> AudioHeader | None:
        """Return the header of a recording that was searched when its file had this size; `None` if it was not."""
        header = self._headers.get(path)
        return header if header is not None and header.file_size == file_size else None

    def size(self, path: str) -> int | None:
        """Return the size of the file of a recording when it was searched last; `None` if it was not."""
        header = self._headers.get(path)
        return None if header is None else header.file_size

    def speech(self, path: str, channel: int | None, file_size: int | None) -> list[tuple[float, float]] | None:
        """Return the stretches of speech of a recording in seconds; `None` if it was not searched."""
        return None if file_size is None else self._found.get((path, channel, file_size))

    def add(self, found: Iterable[tuple[Recording, list[tuple[float, float]]]]) -> None:
        """Write the stretches of some recordings into a file of their own. The caller holds the lock."""
        rows = []
        for recording, speech in found:
            self._note(recording, speech)
            stretches = [{"start_s": start_s, "end_s": end_s} for start_s, end_s in speech]
            named = {"path": recording.path, "channel": recording.channel, "speech": stretches}
            rows.append({**named, **recording.header._asdict()})
        if rows:
            schema = _SCHEMA.with_metadata({"settings": json.dumps(self._settings)})
            name = f"{SPEECH}/batch-{self._next:05d}.parquet"
            self._directory.write_table(name, pa.Table.from_pylist(rows, schema=schema))
            self._next += 1
