"""Chunks to utterances: neighbouring chunks are joined where they agree; a failed utterance leaves one failure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.records import Emission, Rejected

AGREEMENT = (8, 4, 2, 1)
"""Frames on either side of a join that both chunks should read alike: 160 ms, or fewer where no place has as many."""


class Stitcher:
    """Takes the results of chunks in the order of the plan, in which the chunks of an utterance follow one another.

    Two chunks that overlap may read the same label a frame apart. A join between the two frames would lose the label
    or give it twice. So a join moves, by half of the context at most, to the nearest place where both chunks read the
    same labels.
    """

    def __init__(self) -> None:
        # Of each utterance under way: its last chunk, and the first frame of the chunk that is kept.
        self._held: dict[int, tuple[Emission, int]] = {}
        self._failed: set[int] = set()

    def take(
        self, emissions: Iterable[Emission], rejected: Iterable[Rejected]
    ) -> tuple[list[Emission], list[Rejected]]:
        """Join the results of a batch to those of the batches before.

        Returns:
            The pieces that are certain by now: emissions without the frames that belong to a neighbouring chunk, the
            pieces of an utterance in order. The last chunk of an utterance that goes on waits for the next call.
            Then the first rejection of each utterance that fails here.
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
        """The chunk before this one up to their join; and this chunk, if it is the last of its utterance."""
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
    """The frame of the utterance from which on the frames of `after` are kept, and no longer those of `before`.

    This is the planned frame, or the nearest one within half of the context around which both chunks read the same
    labels.
    """
    chunk = after.chunk
    reach = chunk.context // 2
    if before.path is None or after.path is None or reach == 0:
        return chunk.join
    # Frames that both chunks have; a lossy recording may end a little earlier than planned.
    first, last = chunk.join - reach - AGREEMENT[0], chunk.join + reach + AGREEMENT[0]
    first = max(first, chunk.first_frame)
    last = min(last, before.chunk.first_frame + before.num_frames, chunk.first_frame + after.num_frames)
    left = before.path.labels[first - before.chunk.first_frame : last - before.chunk.first_frame]
    right = after.path.labels[first - chunk.first_frame : last - chunk.first_frame]
    agree = np.concatenate([[0], np.cumsum(left == right)])
    for frames in AGREEMENT:
        # Place i of `agreed` lies between frames first + i + frames - 1 and first + i + frames.
        agreed = np.flatnonzero(agree[2 * frames :] - agree[: -2 * frames] == 2 * frames) + first + frames
        agreed = agreed[np.abs(agreed - chunk.join) <= reach]
        if len(agreed):
            return int(agreed[np.argmin(np.abs(agreed - chunk.join))])
    return chunk.join
