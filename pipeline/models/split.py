"""An utterance that does not fit into memory alone: run in two halves that overlap, joined where they agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pipeline.decoding.stitching import find_join
from pipeline.records import BestPath, Chunk, Emission, Rejected

CONTEXT_FRAMES = 200
"""What either half sees beyond their join: 4 s, as `chunk.context_seconds` is by default."""
LEAST_CONTEXT = 25
"""With less to see, half a second, an utterance is not cut any more."""


class Awaited(Protocol):
    """Results that come."""

    def results(self) -> tuple[list[Emission], list[Rejected]]:
        """Wait for them."""
        ...


@dataclass(frozen=True)
class Refused:
    """A chunk that was not run at all."""

    rejected: Rejected

    def results(self) -> tuple[list[Emission], list[Rejected]]:
        """Nothing but the reason."""
        return [], [self.rejected]


@dataclass(frozen=True)
class Halves:
    """One chunk that is run as two.

    Attributes:
        chunk: The chunk.
        parts: Its halves, each as a chunk whose frames count from those of `chunk`.
    """

    chunk: Chunk
    parts: tuple[Awaited, Awaited]

    def results(self) -> tuple[list[Emission], list[Rejected]]:
        """The emission of the whole, or why a half has none."""
        emissions: list[Emission] = []
        for part in self.parts:
            done, rejected = part.results()
            if rejected:
                return [], [replace(rejected[0], chunk=self.chunk)]
            emissions += done
        left, right = emissions
        join = find_join(left, right)
        first = right.chunk.first_frame
        return [_joined(self.chunk, left.cut(0, join), right.cut(join - first, right.num_frames))], []


def halve(chunk: Chunk, num_frames: int, stride: int, receptive_field: int) -> tuple[Chunk, Chunk] | None:
    """Two chunks that overlap, for the samples of one; `None` where it is too short to be cut.

    Args:
        chunk: What to cut.
        num_frames: Its frames.
        stride: Samples from one frame to the next.
        receptive_field: Samples a frame is computed from.

    Returns:
        Chunks of the same utterance whose `start`, `first_frame` and `join` count from those of `chunk`.
    """
    context = min(CONTEXT_FRAMES, num_frames // 8)
    if context < LEAST_CONTEXT:
        return None
    join = num_frames // 2
    first = join - context
    left = Chunk(chunk.row, (join + context - 1) * stride + receptive_field)
    right = Chunk(chunk.row, chunk.num_samples - first * stride, first * stride, first, join, context)
    return left, right


def _joined(chunk: Chunk, left: Emission, right: Emission) -> Emission:
    path = None
    if left.path is not None and right.path is not None:
        path = BestPath(
            np.concatenate([left.path.labels, right.path.labels]),
            np.concatenate([left.path.logprobs, right.path.logprobs]),
        )
    logits = None
    if left.logits is not None and right.logits is not None:
        logits = np.concatenate([left.logits, right.logits])
    return Emission(
        chunk=chunk,
        num_frames=left.num_frames + right.num_frames,
        logits=logits,
        features={layer: np.concatenate([values, right.features[layer]]) for layer, values in left.features.items()},
        path=path,
    )
