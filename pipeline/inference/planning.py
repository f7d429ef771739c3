"""Plans which utterances form a shard, and which chunks form a batch.

The plan is a pure function of the manifest: it is the same on every machine and for any number of workers. The plan of
a shard depends only on that shard, so a shard that is computed again after a crash has the same batches.
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
"""Limits the memory for a shard of very short or unreadable recordings."""
SIMILAR = 1.05
"""Lengths that differ by a smaller factor count as equal when chunks are sorted by length. The segments of a recording
then stay together, and reading them in one go saves more time than the additional padding costs."""


def assign_shards(duration_s: NDArray[np.float64], hours: float) -> NDArray[np.int32]:
    """Divide the manifest, in its order, into shards of about `hours` hours of audio.

    Args:
        duration_s: `(rows,)` duration of each row in seconds; NaN if unknown, which counts as 0.
        hours: A shard ends with the row that reaches this many hours.

    Returns:
        `(rows,)` the shard of each row, ascending from 0.
    """
    seconds = np.nan_to_num(np.asarray(duration_s, dtype=np.float64), nan=0.0)
    counts: list[int] = []
    first = 0
    while first < len(seconds):
        filled = np.cumsum(seconds[first : first + MAX_ROWS_PER_SHARD])
        counts.append(min(int(np.searchsorted(filled, hours * 3600)) + 1, len(filled)))
        first += counts[-1]
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


@dataclass(frozen=True)
class Chunking:
    """Cuts long utterances into overlapping chunks on the model's frame grid.

    Attributes:
        max_samples: Samples above which an utterance is cut. No chunk is longer, including its context.
        context: Minimal number of frames that a chunk has beyond the join on either side.
        stride: Samples from one frame to the next.
        receptive_field: Samples on which one frame depends.
    """

    max_samples: int
    context: int
    stride: int
    receptive_field: int

    @classmethod
    def of_seconds(
        cls, seconds: float, context_seconds: float, *, sample_rate: int, stride: int, receptive_field: int
    ) -> Chunking:
        """Convert `chunk.seconds` and `chunk.context_seconds` to samples and frames of a model.

        Args:
            seconds: Maximal length of a chunk in seconds.
            context_seconds: Context on either side of a join in seconds.
            sample_rate: The model's sample rate in Hz.
            stride: Samples from one frame to the next.
            receptive_field: Samples on which one frame depends.
        """
        return cls(
            max_samples=int(seconds * sample_rate),
            context=math.ceil(context_seconds * sample_rate / stride),
            stride=stride,
            receptive_field=receptive_field,
        )

    def chunks(self, row: int, num_samples: int) -> list[Chunk]:
        """Cut an utterance into chunks of equal length (the last may be a fraction of a stride longer).

        Neighbouring chunks overlap by at least twice the context, and the join is in the middle of the overlap. So each
        frame has its context, and no chunk is a short remainder.

        Args:
            row: Position of the utterance in the manifest.
            num_samples: Samples of the utterance at the model's rate.
        """
        if num_samples <= self.max_samples:
            return [Chunk(row, num_samples)]
        frames = self._num_frames(num_samples)
        overlap = 2 * self.context
        count = -(-(frames - overlap) // (self._num_frames(self.max_samples) - overlap))
        if count < 2:  # the utterance is too long by only a fraction of a stride
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
    """Groups the chunks of one shard into batches of similar length, with a limit on padded samples.

    The longest chunks come first, so that a batch too large for the device fails at once. Chunks of nearly the same
    length keep the order of the manifest, in which the segments of a recording follow one another. All chunks of a row
    are consecutive. A chunk longer than the limit is a batch of its own, and so is a row of unknown length (0).

    Args:
        rows: `(rows,)` manifest rows of the shard.
        num_samples: `(rows,)` samples of each row at the model's rate.
        max_samples: Limit of `batch size x longest chunk`.
        chunking: Cuts rows that are too long.
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
    """Return the index of a class of lengths; lengths of one class differ by at most the factor `SIMILAR`."""
    return int(math.log(num_samples) / math.log(SIMILAR)) if num_samples else -1


def plan_run(
    shards: Iterable[int],
    shard_of_row: NDArray[np.int32],
    num_samples: NDArray[np.int64],
    max_samples: int,
    chunking: Chunking,
    skipped: NDArray[np.bool_] | None = None,
) -> Iterator[PlannedBatch]:
    """Yield the batches of the given shards, shard after shard. A shard is planned when its first batch is needed.

    Args:
        shards: Shards to plan, in order.
        shard_of_row: `(rows,)` shard of every manifest row, ascending.
        num_samples: `(rows,)` samples of every manifest row at the model's rate, 0 if unknown.
        max_samples: Limit of padded samples in a batch.
        chunking: Cuts rows that are too long.
        skipped: `(rows,)` whether each manifest row is left out; `None` for none.
    """
    index = 0
    for shard in shards:
        first, last = np.searchsorted(shard_of_row, [shard, shard + 1])
        rows = np.arange(first, last)
        if skipped is not None:
            rows = rows[~skipped[first:last]]
        for chunks in plan_shard(rows, num_samples[rows], max_samples, chunking):
            yield PlannedBatch(index=index, shard=shard, chunks=chunks)
            index += 1
