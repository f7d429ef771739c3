"""A chunk that does not fit into the device's memory is run as two chunks of the same utterance that overlap."""

from __future__ import annotations

from dataclasses import replace

from pipeline.records import Chunk

CONTEXT_FRAMES = 200
"""Frames that either half has beyond their join: 4 s, as `chunk.context_seconds` is by default."""
MIN_CONTEXT_FRAMES = 25
"""With less context, half a second, a chunk is not cut any more."""


def halve(chunk: Chunk, num_samples: int, num_frames: int, stride: int, receptive_field: int) -> list[Chunk] | None:
    """Cut a chunk into two that overlap.

    The halves are chunks of the utterance like any others, so they are stitched like any others.

    Args:
        chunk: What to cut.
        num_samples: Samples that were read of it.
        num_frames: Frames of these samples.
        stride: Samples from one frame to the next.
        receptive_field: Samples from which one frame is computed.

    Returns:
        The two halves, in order; `None` where the chunk is too short to be cut.
    """
    context = min(CONTEXT_FRAMES, num_frames // 8)
    if context < MIN_CONTEXT_FRAMES:
        return None
    join = num_frames // 2
    first = join - context
    return [
        replace(chunk, num_samples=(join + context - 1) * stride + receptive_field, last=False),
        replace(
            chunk,
            num_samples=num_samples - first * stride,
            start=chunk.start + first * stride,
            first_frame=chunk.first_frame + first,
            join=chunk.first_frame + join,
            context=context,
        ),
    ]
