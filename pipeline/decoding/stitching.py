"""Chunks to utterances: joined where they agree, decoded once, and of a failed utterance nothing but one failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pipeline.decoding.greedy import GreedyDecoder
from pipeline.records import BestPath, Emission, Rejected, Transcript

AGREEMENT = (8, 4, 2, 1)
"""Frames on either side of a join that both chunks should read alike: 160 ms, or else what there is."""


class Stitcher:
    """Takes what became of chunks in the order of the plan, in which the chunks of an utterance follow one another.

    Where chunks overlap, the same spike may lie a frame earlier in one than in the other. A join between the two
    places would lose it or give it twice, so a join moves, by half of the context at most, to the nearest place
    where both chunks read the same labels. An utterance is decoded when all of its path is there, so a word across
    a join is one word.
    """

    def __init__(self, decoder: GreedyDecoder | None, start_s: Callable[[int], float]) -> None:
        """Say how to decode.

        Args:
            decoder: `None` where transcripts are not asked for.
            start_s: Manifest row to where the utterance begins in its file, in seconds.
        """
        self._decoder = decoder
        self._start_s = start_s
        # Of utterances under way: the last chunk with its first frame that is to be believed, and the path so far.
        self._held: dict[int, tuple[Emission, int]] = {}
        self._paths: dict[int, list[BestPath]] = {}
        self._failed: set[int] = set()

    def take(
        self, emissions: Iterable[Emission], rejected: Iterable[Rejected]
    ) -> tuple[list[Emission], dict[int, Transcript], list[Rejected]]:
        """What to keep of a batch.

        Returns:
            Emissions without what belongs to a neighbour, those of an utterance in order (the last chunk of an
            utterance that goes on waits for the next); the transcripts, by row, of utterances that end here; the
            first rejection of each utterance that fails here.
        """
        failures = []
        for item in rejected:
            row = item.chunk.row
            if row not in self._failed:
                failures.append(item)
                self._failed.add(row)
                self._held.pop(row, None)
                self._paths.pop(row, None)
        pieces: list[Emission] = []
        transcripts: dict[int, Transcript] = {}
        for emission in emissions:
            row = emission.chunk.row
            if row not in self._failed:
                pieces += self._believed(emission)
                if emission.chunk.last and self._decoder is not None:
                    transcripts[row] = self._decoder(self._paths.pop(row), self._start_s(row))
        return pieces, transcripts, failures

    def _believed(self, emission: Emission) -> Sequence[Emission]:
        """What is certain with this chunk: the one before up to their join, and itself if it is the last."""
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
        if self._decoder is not None:
            self._paths.setdefault(row, []).extend(piece.path for piece in pieces if piece.path is not None)
        return pieces


def find_join(before: Emission, after: Emission) -> int:
    """The frame of the utterance from which on `after` is to be believed.

    The planned one, or the nearest within half of the context around which both chunks read the same labels.
    """
    chunk = after.chunk
    reach = chunk.context // 2
    if before.path is None or after.path is None or reach == 0:
        return chunk.join
    # Frames that may be looked at, seen from each chunk; a little short at the end of a lossy recording.
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
