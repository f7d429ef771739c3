"""Pools the features of an utterance or a word into one vector. Memory holds one part and one chunk of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.results.arrays import Part
from pipeline.results.spans import FrameSpan, Spans

POOLINGS = ("mean", "std", "max")
BY = ("utterance", "word")
_BLOCK_FRAMES = 1024
"""Frames that are converted to float64 at a time."""


def check(by: str, pooling: str, max_rows: int) -> None:
    """Check the arguments of `Run.pooled`.

    Raises:
        ValueError: An argument is not allowed.
    """
    for name, value, allowed in (("by", by, BY), ("pooling", pooling, POOLINGS)):
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: not allowed; there are {', '.join(allowed)}")
    if max_rows < 1:
        raise ValueError(f"max_rows={max_rows}: must be 1 or more")


class Pool:
    """Pools the frames of one span, part by part. Sums are float64.

    Attributes:
        span: The span.
        num_frames: Number of frames pooled so far.
    """

    def __init__(self, span: FrameSpan, pooling: str) -> None:
        """Start without frames. `pooling` is one of `POOLINGS`."""
        self.span = span
        self.num_frames = 0
        self._pooling = pooling
        self._sum: Any = 0.0
        self._squares: Any = 0.0
        self._max: Any = -np.inf

    def add(self, part: Part) -> None:
        """Add the frames of a part that lie in the span."""
        first, last = (max(0, frame - part.start_frame) for frame in (self.span.first, self.span.last))
        values = part.values[first:last]
        self.num_frames += len(values)
        for start in range(0, len(values), _BLOCK_FRAMES):
            block = values[start : start + _BLOCK_FRAMES].astype(np.float64)
            if self._pooling == "max":
                self._max = np.maximum(self._max, block.max(axis=0))
                continue
            self._sum = self._sum + block.sum(axis=0)
            if self._pooling == "std":
                self._squares = self._squares + np.square(block, out=block).sum(axis=0)

    def result(self) -> NDArray[np.float64]:
        """Return the pooled vector `(dim,)`. `std` is the population standard deviation of the frames."""
        if self._pooling == "max":
            return np.asarray(self._max)
        mean = np.asarray(self._sum / self.num_frames)
        if self._pooling == "mean":
            return mean
        return np.asarray(np.sqrt(np.maximum(self._squares / self.num_frames - np.square(mean), 0.0)))


def chunks(
    parts: Iterable[Part], rows: pd.DataFrame, spans: Spans, pooling: str, max_rows: int
) -> Iterator[tuple[pd.DataFrame, NDArray[np.float32]]]:
    """Pool the spans of each utterance, and yield them in chunks.

    Args:
        parts: Rows of one file and layer. The parts of an utterance are in order.
        rows: The row of each span, which names the row by position. `num_frames` is filled in.
        spans: Spans by id, in the order of time.
        pooling: One of `POOLINGS`.
        max_rows: Maximum of rows in a chunk.

    Yields:
        Rows, and a matrix `(rows, dim)`.
    """
    matrix: NDArray[np.float32] | None = None
    done: list[Pool] = []
    for pool in _pools(parts, spans, pooling):
        vector = pool.result()
        if matrix is None:
            matrix = np.empty((min(max_rows, len(rows)), len(vector)), np.float32)
        matrix[len(done)] = vector
        done.append(pool)
        if len(done) == max_rows:
            yield _described(rows, done), matrix
            matrix, done = None, []
    if matrix is not None:
        yield _described(rows, done), matrix[: len(done)]


def _pools(parts: Iterable[Part], spans: Spans, pooling: str) -> Iterator[Pool]:
    """Yield the pool of each span when its last frame has been added."""
    for id_, own in groupby(parts, key=lambda part: part.id):
        waiting = iter(spans.get(id_, ()))
        span = next(waiting, None)
        opened: list[Pool] = []
        for part in own:
            end = part.start_frame + len(part.values)
            for pool in opened:
                pool.add(part)
            while True:
                while opened and opened[0].span.last <= end:
                    yield opened.pop(0)
                if span is None or span.first >= end:
                    break
                opened.append(Pool(span, pooling))
                opened[-1].add(part)
                span = next(waiting, None)
        yield from opened


def _described(rows: pd.DataFrame, done: list[Pool]) -> pd.DataFrame:
    frame = rows.iloc[[pool.span.row for pool in done]].reset_index(drop=True)
    frame["num_frames"] = [pool.num_frames for pool in done]
    return frame
