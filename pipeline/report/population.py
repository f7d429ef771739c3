"""Reads a few numbers of each utterance with a result, for histograms and for the choice of examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory

_NUMBERS = ("duration_s", "avg_logprob", "wer")


@dataclass(frozen=True)
class Population:
    """Utterances with a result. If the run has transcripts, those with a transcript.

    Attributes:
        file: `(utterances,)` index of the utterance's file in `files`.
        row: `(utterances,)` row in this file.
        files: Files of `transcripts/`; without transcripts, the manifest.
        duration_s: `(utterances,)` seconds; NaN if unknown.
        avg_logprob, wer: `(utterances,)`; NaN if there is no value.
    """

    file: NDArray[np.int32]
    row: NDArray[np.int32]
    files: tuple[StoredTable, ...]
    duration_s: NDArray[np.float64]
    avg_logprob: NDArray[np.float64]
    wer: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.row)

    def ids(self, positions: NDArray[np.integer]) -> list[str]:
        """Return the ids of the utterances at these positions."""
        found: dict[int, str] = {}
        for file in np.unique(self.file[positions]):
            column = self.files[file].read(["id"])["id"]
            for position in positions[self.file[positions] == file]:
                found[int(position)] = column[int(self.row[position])].as_py()
        return [found[int(position)] for position in positions]


def read_population(directory: RunDirectory, records: Mapping[int, CommittedShard]) -> Population:
    """Read the utterances with a result."""
    files = [stored for shard in records.values() for stored in directory.tables(shard, "transcripts")]
    if not files:
        return _of_manifest(directory, records)
    tables = [stored.read(_NUMBERS) for stored in files]
    counts = [table.num_rows for table in tables]
    duration_s, avg_logprob, wer = (_numbers([table[name] for table in tables]) for name in _NUMBERS)
    return Population(
        file=np.repeat(np.arange(len(files), dtype=np.int32), counts),
        row=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        files=tuple(files),
        duration_s=duration_s,
        avg_logprob=avg_logprob,
        wer=wer,
    )


def _of_manifest(directory: RunDirectory, records: Mapping[int, CommittedShard]) -> Population:
    """Return the manifest rows of committed shards that did not fail."""
    table = directory.manifest.read(["id", "shard", "duration_s"])
    failed = [
        stored.read(["id"])["id"]
        for shard in records.values()
        if shard.num_failures
        for stored in directory.tables(shard, "failures")
    ]
    done = np.isin(table["shard"].to_numpy(), list(records))
    if failed:
        ids = pa.concat_arrays([chunk for column in failed for chunk in column.chunks])
        done &= ~pc.is_in(table["id"], value_set=ids).to_numpy()
    rows = np.flatnonzero(done).astype(np.int32)
    unknown = np.full(len(rows), np.nan)
    return Population(
        file=np.zeros(len(rows), np.int32),
        row=rows,
        files=(directory.manifest,),
        duration_s=_numbers([table["duration_s"]])[rows],
        avg_logprob=unknown,
        wer=unknown,
    )


def _numbers(columns: list[pa.ChunkedArray]) -> NDArray[np.float64]:
    return np.concatenate([column.to_numpy().astype(np.float64) for column in columns])
