"""Splits a chunk that does not fit into the device's memory into two overlapping chunks of the same utterance."""

from __future__ import annotations

from dataclasses import replace

from pipeline.records import Chunk

CONTEXT_FRAMES = 200
"""Frames of context that each half has beyond the join: 4 s, the default of `chunk.context_seconds`."""
MIN_CONTEXT_FRAMES = 25
"""A chunk is not split if its halves would have less context than this, which is half a second."""


def halve(chunk: Chunk, num_samples: int, num_frames: int, stride: int, receptive_field: int) -> list[Chunk] | None:
    """Split a chunk into two overlapping chunks. They are stitched like any other chunks of the utterance.

    Args:
        chunk: The chunk.
        num_samples: Number of its samples that were read.
        num_frames: Number of frames of these samples.
        stride: Samples from one frame to the next.
        receptive_field: Samples from which one frame is computed.

    Returns:
        The two halves, in order; `None` if the chunk is too short to be split.
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
            audio_digest=b"",  # the first half has the digest of the whole chunk
        ),
    ]
