"""Which utterances form a shard and which go through the model together: pure functions of the manifest.

The plan is the same on every machine and for every worker count, and the plan of a shard depends on that
shard alone, so a shard that is done again after a crash is done in the same batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Chunk, PlannedBatch

MAX_ROWS_PER_SHARD = 20_000
"""Bounds the memory of a shard of very short (or unreadable) recordings."""


def assign_shards(duration_s: NDArray[np.float64], hours: float) -> NDArray[np.int32]:
    """Cut the manifest, in its order, into shards of about `hours` hours of audio.

    Args:
        duration_s: Seconds of each row; NaN where unknown, which counts as nothing.
        hours: A shard ends with the row that reaches this many hours.

    Returns:
        The shard of each row, ascending from 0.
    """
    seconds = np.nan_to_num(np.asarray(duration_s, dtype=np.float64), nan=0.0)
    shards = np.empty(len(seconds), dtype=np.int32)
    shard, filled, rows = 0, 0.0, 0
    for row, duration in enumerate(seconds):
        shards[row] = shard
        filled += duration
        rows += 1
        if filled >= hours * 3600 or rows >= MAX_ROWS_PER_SHARD:
            shard, filled, rows = shard + 1, 0.0, 0
    return shards


def plan_shard(
    rows: NDArray[np.int64], num_samples: NDArray[np.int64], max_samples: int
) -> Iterator[tuple[Chunk, ...]]:
    """Group the rows of one shard into batches of similar length under a budget of padded samples.

    The longest come first, so that a device too small for the plan shows at once. A row longer than the
    budget is a batch of its own; so is a row of unknown length (0).

    Args:
        rows: Manifest rows of the shard.
        num_samples: Their samples at the model's rate.
        max_samples: Budget of `batch size x longest`.
    """
    order = np.lexsort((rows, -num_samples))
    batch: list[Chunk] = []
    for position in order:
        chunk = Chunk(row=int(rows[position]), num_samples=int(num_samples[position]))
        longest = batch[0].num_samples if batch else 0
        if batch and ((len(batch) + 1) * longest > max_samples or chunk.num_samples == 0):
            yield tuple(batch)
            batch = []
        batch.append(chunk)
    if batch:
        yield tuple(batch)


def plan_run(
    shards: Iterable[int],
    shard_of_row: NDArray[np.int32],
    num_samples: NDArray[np.int64],
    max_samples: int,
) -> Iterator[PlannedBatch]:
    """The batches of the given shards, shard after shard, planned as they are asked for.

    Args:
        shards: Shards to do, in order.
        shard_of_row: Shard of every manifest row, ascending.
        num_samples: Samples of every manifest row at the model's rate, 0 where unknown.
        max_samples: Budget of padded samples in a batch.
    """
    index = 0
    for shard in shards:
        first, last = np.searchsorted(shard_of_row, [shard, shard + 1])
        rows = np.arange(first, last)
        for chunks in plan_shard(rows, num_samples[first:last], max_samples):
            yield PlannedBatch(index=index, shard=shard, chunks=chunks)
            index += 1
