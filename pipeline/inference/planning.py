"""Which utterances form a shard and which go through the model together: pure functions of the manifest.

The plan is the same on every machine and for every worker count, and the plan of a shard depends on that
shard alone, so a shard that is done again after a crash is done in the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Chunk, PlannedBatch

MAX_ROWS_PER_SHARD = 20_000
"""Bounds the memory of a shard of very short (or unreadable) recordings."""
SIMILAR = 1.05
"""Lengths that differ by less go together: padding is worth less than reading a recording in one go."""


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


@dataclass(frozen=True)
class Chunking:
    """How long utterances are cut, on the model's frame grid.

    Attributes:
        max_samples: A longer utterance is cut; no chunk is longer, context included.
        context: Frames that a chunk sees beyond its own on either side, at the least.
        stride: Samples from one frame to the next.
        receptive_field: Samples that one frame sees.
    """

    max_samples: int
    context: int
    stride: int
    receptive_field: int

    @classmethod
    def of_seconds(
        cls, seconds: float, context_seconds: float, *, sample_rate: int, stride: int, receptive_field: int
    ) -> Chunking:
        """`chunk.seconds` and `chunk.context_seconds`, for a model of `sample_rate` Hz and `stride` samples a frame."""
        return cls(
            max_samples=int(seconds * sample_rate),
            context=math.ceil(context_seconds * sample_rate / stride),
            stride=stride,
            receptive_field=receptive_field,
        )

    def chunks(self, row: int, num_samples: int) -> list[Chunk]:
        """Cut an utterance into chunks of one length (the last may be a fraction of a stride longer).

        They overlap evenly, by twice the context, and join where two of them have seen as much: so each frame has
        its context, and no chunk is a short remainder.

        Args:
            row: Its place in the manifest.
            num_samples: Its samples at the model's rate.
        """
        if num_samples <= self.max_samples:
            return [Chunk(row, num_samples)]
        frames = self._num_frames(num_samples)
        overlap = 2 * self.context
        count = -(-(frames - overlap) // (self._num_frames(self.max_samples) - overlap))
        if count < 2:  # only a fraction of a stride too long
            return [Chunk(row, num_samples)]
        size = -(-(frames + (count - 1) * overlap) // count)
        firsts = [index * (frames - size) // (count - 1) for index in range(count)]
        joins = [0, *((left + size + right) // 2 for left, right in pairwise(firsts))]
        return [
            Chunk(
                row=row,
                num_samples=self._num_samples(size) if first + size < frames else num_samples - first * self.stride,
                start=first * self.stride,
                first_frame=first,
                join=join,
                context=self.context,
                last=first + size == frames,
            )
            for first, join in zip(firsts, joins, strict=True)
        ]

    def _num_frames(self, num_samples: int) -> int:
        return (num_samples - self.receptive_field) // self.stride + 1

    def _num_samples(self, num_frames: int) -> int:
        return (num_frames - 1) * self.stride + self.receptive_field


def plan_shard(
    rows: NDArray[np.int64], num_samples: NDArray[np.int64], max_samples: int, chunking: Chunking
) -> Iterator[tuple[Chunk, ...]]:
    """Group the rows of one shard into batches of similar length under a budget of padded samples.

    The longest come first, so that a device too small for the plan shows at once; lengths that are nearly the same
    stay in the order of the manifest, where the segments of a recording follow one another. The chunks of a row follow
    one another. A chunk longer than the budget is a batch of its own; so is a row of unknown length (0).

    Args:
        rows: Manifest rows of the shard.
        num_samples: Their samples at the model's rate.
        max_samples: Budget of `batch size x longest`.
        chunking: How rows that are too long are cut.
    """
    cut = [chunking.chunks(int(row), int(samples)) for row, samples in zip(rows, num_samples, strict=True)]
    cut.sort(key=lambda chunks: (-_similar(chunks[0].num_samples), chunks[0].row))
    batch: list[Chunk] = []
    longest = 0
    for chunk in chain.from_iterable(cut):
        longest = max(longest, chunk.num_samples)
        if batch and ((len(batch) + 1) * longest > max_samples or chunk.num_samples == 0):
            yield tuple(batch)
            batch, longest = [], chunk.num_samples
        batch.append(chunk)
    if batch:
        yield tuple(batch)


def _similar(num_samples: int) -> int:
    """One number for all lengths within a twentieth of one another."""
    return int(math.log(num_samples) / math.log(SIMILAR)) if num_samples else -1


def plan_run(
    shards: Iterable[int],
    shard_of_row: NDArray[np.int32],
    num_samples: NDArray[np.int64],
    max_samples: int,
    chunking: Chunking,
) -> Iterator[PlannedBatch]:
    """The batches of the given shards, shard after shard, planned as they are asked for.

    Args:
        shards: Shards to do, in order.
        shard_of_row: Shard of every manifest row, ascending.
        num_samples: Samples of every manifest row at the model's rate, 0 where unknown.
        max_samples: Budget of padded samples in a batch.
        chunking: How rows that are too long are cut.
    """
    index = 0
    for shard in shards:
        first, last = np.searchsorted(shard_of_row, [shard, shard + 1])
        rows = np.arange(first, last)
        for chunks in plan_shard(rows, num_samples[first:last], max_samples, chunking):
            yield PlannedBatch(index=index, shard=shard, chunks=chunks)
            index += 1
