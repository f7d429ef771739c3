"""Reads the failures by kind, each kind with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import get_args

import pyarrow as pa

from pipeline.records import ErrorName
from pipeline.report.texts import masked, shown
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.summary import total

MAX_FAILURES = 5
"""Maximum of rows for each kind of failure."""

_REMEDIES: dict[str, tuple[str, str]] = {
    "not_found": (
        "There is no file at the path.",
        "Mount the disk or restore the files. For a list with relative paths, set dataset.audio_root=.",
    ),
    "unreadable": (
        "The file is there but cannot be read as audio.",
        "Give your user permission to read it, or convert or download it again. If the message names a line of a list, "
        "correct that line and start another run.",
    ),
    "unsupported_format": (
        "The file is not audio, or no installed package decodes its format.",
        "For M4A, MP4, WebM, AMR and WMA: pip install av. Otherwise download the file again, or convert it with "
        "ffmpeg -i FILE out.wav.",
    ),
    "truncated": (
        "The file is shorter than its header says, or a segment lies beyond its end.",
        "Copy or download the file again. The times of a list must be in seconds.",
    ),
    "empty": ("The recording has no samples.", "Get the recording again, or leave it out."),
    "too_short": (
        "The recording is shorter than 25 ms, for which the model has no result.",
        "Leave it out. If it is a segment of a list, write its times in seconds.",
    ),
    "bad_sample_rate": (
        "The header claims a sample rate below 1 kHz or above 768 kHz.",
        "Get the recording again, or convert it with ffmpeg -ar 16000 -i FILE out.wav.",
    ),
    "changed": (
        "The file has changed since the manifest was made.",
        "Give redo_changed=true to compute it again, or start another run with run_dir=.",
    ),
    "non_finite": (
        "Samples of the recording, or values that the model computes from it, are not finite or too large.",
        "Write the file again with samples in [-1, 1]. If the message names float16, set features.dtype=float32 or "
        "emissions.dtype=float32; on a GPU in fp16, set precision=bf16.",
    ),
    "timeout": (
        "Reading the recording took longer than loader.timeout_s.",
        "Raise loader.timeout_s if a network disk is slow; leave the file out if it keeps a decoder busy.",
    ),
    "worker_died": (
        "The process that read the recording died.",
        "Convert the file with ffmpeg -i FILE out.wav. If there are many, memory was short: set loader.workers= lower.",
    ),
    "out_of_memory": (
        "The recording, or a piece of it, needs more memory than there is.",
        "Set loader.workers= or chunk.seconds= lower, or use a machine with more memory.",
    ),
}
"""What each error means, and what to do; docs/troubleshooting.md says more."""
assert _REMEDIES.keys() == {*get_args(ErrorName)}


@dataclass(frozen=True)
class FailureGroup:
    """One kind of failure.

    Attributes:
        error: Name of the error.
        count: Number of failures.
        meaning, remedy: What the error means, and what to do.
        rows: The first failures: id, path and message.
    """

    error: str
    count: int
    meaning: str
    remedy: str
    rows: Sequence[Mapping[str, str]]


def read_failures(directory: RunDirectory, records: Mapping[int, CommittedShard]) -> list[FailureGroup]:
    """Read the failures by kind, the most frequent first, each with its first rows."""
    counts = total(records.values()).failures
    found: dict[str, list[dict[str, str]]] = {name: [] for name in counts}
    for shard in records.values():
        wanted = [name for name in shard.failures if len(found[name]) < MAX_FAILURES]
        for stored in directory.tables(shard, "failures") if wanted else ():
            for row in _failures(stored, wanted):
                found[row["error"]].append({key: masked(row[key], 300) for key in ("id", "path", "message")})
    return [
        FailureGroup(shown(name), count, *_REMEDIES.get(name, ("", "")), found[name][:MAX_FAILURES])
        for name, count in counts.most_common()
    ]


def _failures(stored: StoredTable, names: Sequence[str]) -> Iterator[dict[str, str]]:
    table = stored.read(["id", "path", "error", "message"])
    for name in names:
        rows = table.filter(pa.compute.equal(table["error"], name)).slice(0, MAX_FAILURES)
        yield from islice(rows.to_pylist(), MAX_FAILURES)
