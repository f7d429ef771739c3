"""Joins the emissions of overlapping chunks at frames where both chunks agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.records import Emission, Rejected

AGREEMENT = (8, 4, 2, 1)
"""Number of frames on each side of a join that should have the same labels in both chunks. 8 frames are 160 ms. If no
join has that many, fewer are tried."""


class Stitcher:
    """Joins the chunks of each utterance, which come in order.

    Two overlapping chunks may emit the same label one frame apart. A join between these two frames would drop or repeat
    the label. So the join moves to the nearest frame around which both chunks have the same labels, by at most half of
    the context.
    """

    def __init__(self) -> None:
        # By row: the last chunk of an unfinished utterance, and the first frame of this chunk to keep.
        self._held: dict[int, tuple[Emission, int]] = {}
        self._failed: set[int] = set()

    def take(
        self, emissions: Iterable[Emission], rejected: Iterable[Rejected]
    ) -> tuple[list[Emission], list[Rejected]]:
        """Join the results of a batch with those of earlier batches.

        Args:
            emissions: Emissions of chunks.
            rejected: Chunks that failed. An utterance with a failed chunk fails as a whole.

        Returns:
            Pieces: emissions without the frames that a neighbouring chunk provides. The pieces of an utterance are in
            order. The latest chunk of an unfinished utterance is kept for the next call.
            Failures: the first rejected chunk of each utterance that failed in this call.
        """
        failures = []
        for item in rejected:
            row = item.chunk.row
            if row not in self._failed:
                failures.append(item)
                self._failed.add(row)
                self._held.pop(row, None)
        pieces: list[Emission] = []
        for emission in emissions:
            if emission.chunk.row not in self._failed:
                pieces += self._certain(emission)
        return pieces, failures

    def _certain(self, emission: Emission) -> Sequence[Emission]:
        """Return the previous chunk up to the join and, if the new chunk is the last one, the new chunk."""
        row, own, pieces = emission.chunk.row, 0, []
        if row in self._held:
            before, first = self._held.pop(row)
            join = find_join(before, emission)
            pieces.append(before.cut(first, join - before.chunk.first_frame))
            own = join - emission.chunk.first_frame
        if emission.chunk.last:
            pieces.append(emission.cut(own, emission.num_frames))
        else:
            self._held[row] = (emission, own)
        return pieces


def find_join(before: Emission, after: Emission) -> int:
    """Return the first frame, counted from the start of the utterance, that is taken from `after` and not `before`.

    This is the frame nearest to the planned join around which both chunks have the same labels. It is at most half of
    the context away. If there is none, it is the planned join.
    """
    chunk = after.chunk
    reach = chunk.context // 2
    if before.path is None or after.path is None or reach == 0:
        return chunk.join
    # Frames that both chunks have. A recording in a lossy format may end a little earlier than planned.
    first, last = chunk.join - reach - AGREEMENT[0], chunk.join + reach + AGREEMENT[0]
    first = max(first, chunk.first_frame)
    last = min(last, before.chunk.first_frame + before.num_frames, chunk.first_frame + after.num_frames)
    left = before.path.labels[first - before.chunk.first_frame : last - before.chunk.first_frame]
    right = after.path.labels[first - chunk.first_frame : last - chunk.first_frame]
    agree = np.concatenate([[0], np.cumsum(left == right)])
    for frames in AGREEMENT:
        # A join at frame j agrees if frames j - `frames` to j + `frames` (exclusive) have the same labels.
        agreed = np.flatnonzero(agree[2 * frames :] - agree[: -2 * frames] == 2 * frames) + first + frames
        agreed = agreed[np.abs(agreed - chunk.join) <= reach]
        if len(agreed):
            return int(agreed[np.argmin(np.abs(agreed - chunk.join))])
    return chunk.join
