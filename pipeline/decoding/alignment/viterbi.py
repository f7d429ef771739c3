"""The best CTC path of a label sequence, for recordings of any length.

torchaudio's `forced_align` keeps a byte for each frame and state: 19 GB for an hour of speech with its 54,000 letters.
Here two things bound the work, and the path is still the best of all.

- Memory: only the scores at 32 frames are kept. Between two of them, the path is found again from the end, where it can
  have passed only few states; if these are still too many, in the same way.
- Time: no score is above 0, so the score of a path only falls. A state below a floor is left out, so that a window of
  states moves along the recording. If the best path ends above the floor, no path that was left out can be better.
  Otherwise the floor is lowered.

The states of `labels` are: nothing, the first label, nothing, the second label, ..., nothing. State 2i + 1 is label i.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

KEPT = 32
"""Frames whose scores are kept at once."""
MAX_CELLS = 1 << 22
"""Up to so many frames times states, the scores of all frames are kept: 16 MB."""

FLOOR_OF_FRAME = -0.02
"""The first floor for each frame, in nats: a reference that fits well is above it. The next ones are four times it."""
_WINDOW_EVERY = 64
"""Frames after which the window moves."""


def best_states(
    scores: NDArray[np.float32], labels: NDArray[np.int64], blank: int, max_cells: int = MAX_CELLS
) -> NDArray[np.int64]:
    """Return the state of each frame on the best path, `(frames,)`.

    Args:
        scores: `(frames, labels)` log-probabilities less the best one of the frame: finite, none above 0.
        labels: `(labels to align,)` indices of the labels; none is the blank. There are enough frames for them.
        blank: Index of the blank.
        max_cells: As `MAX_CELLS`.
    """
    columns = np.full(2 * len(labels) + 1, blank)
    columns[1::2] = labels
    # A label may follow the one before it without a blank if it is another one.
    skips = np.full(len(columns), -np.inf, np.float32)
    skips[3::2][labels[1:] != labels[:-1]] = 0
    before = np.full(len(columns), -np.inf, np.float32)
    before[0] = 0
    floor = FLOOR_OF_FRAME * len(scores)
    while True:
        trellis = _Trellis(scores, columns, skips, floor, max_cells)
        *_, last = trellis.forward(0, len(scores), before, len(scores), 0)
        end = len(columns) - 2 + int(last[-1] >= last[-2])
        if last[end] >= floor:
            return trellis.trace(0, len(scores), before, end, 0)[1:]
        floor *= 4


class _Trellis:
    """Frames times states."""

    def __init__(
        self,
        scores: NDArray[np.float32],
        columns: NDArray[np.int64],
        skips: NDArray[np.float32],
        floor: float,
        max_cells: int,
    ) -> None:
        self._scores = scores
        self._floor = floor
        self._columns = columns  # (states,) column of `scores` of each state
        self._skips = skips  # (states,) 0 where the state two before may come before, else minus infinity
        self._max_cells = max_cells

    def forward(
        self, first: int, last: int, before: NDArray[np.float32], every: int, lowest: int
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the best score of each state after every `every` frames of `first` to `last`, and after the last one.

        Args:
            first: The first frame.
            last: The frame after the last one.
            before: `(states,)` best scores before the first frame.
            every: Number of frames.
            lowest: The state that `before[0]` belongs to; states before it are not looked at.
        """
        columns, skips = self._columns[lowest : lowest + len(before)], self._skips[lowest : lowest + len(before)]
        padded = np.concatenate([np.full(2, -np.inf, np.float32), before])  # two states that are never reached
        best, other = np.empty((2, len(before)), np.float32)
        window = slice(0, len(before))
        for frame in range(first, last):
            if (frame - first) % _WINDOW_EVERY == 0:
                window = self._window(padded, window)
            low, high = window.start, window.stop
            now, one, two = padded[low + 2 : high + 2], padded[low + 1 : high + 1], padded[low:high]
            np.add(two, skips[window], out=best[window])
            np.maximum(best[window], one, out=best[window])
            np.maximum(best[window], now, out=best[window])
            np.take(self._scores[frame], columns[window], out=other[window], mode="clip")
            np.add(best[window], other[window], out=now)
            if (frame + 1 - first) % every == 0 or frame + 1 == last:
                yield padded[2:].copy()

    def _window(self, padded: NDArray[np.float32], window: slice) -> slice:
        """Return the states that paths above the floor can be in until the window moves again."""
        alive = np.flatnonzero(padded[window.start + 2 :] >= self._floor)
        if not len(alive):
            return slice(0, 0)
        low, high = window.start + int(alive[0]), window.start + int(alive[-1]) + 1
        padded[: low + 2] = -np.inf
        return slice(low, min(len(padded) - 2, high + 2 * _WINDOW_EVERY))

    def trace(self, first: int, last: int, before: NDArray[np.float32], end: int, lowest: int) -> NDArray[np.int64]:
        """Return the state before frame `first`, and that of each frame up to `last`, whose state is `end`."""
        # Only these states can come to `end` in time: a path passes two states in a frame at most.
        start = max(lowest, end - 2 * (last - first))
        before = before[start - lowest : end + 1 - lowest]
        frames = last - first
        every = 1 if frames * len(before) <= self._max_cells or frames <= KEPT else -(-frames // KEPT)
        kept = [before, *self.forward(first, last, before, every, start)]
        if every == 1:
            return self._follow(kept, end, start)
        states = np.empty(frames + 1, np.int64)
        for place in reversed(range(len(kept) - 1)):
            left, right = place * every, min(frames, (place + 1) * every)
            states[left : right + 1] = self.trace(first + left, first + right, kept[place], end, start)
            end = int(states[left])
        return states

    def _follow(self, kept: list[NDArray[np.float32]], end: int, lowest: int) -> NDArray[np.int64]:
        """Follow the best path back from `end`. `kept` are the scores before the first frame and after each frame."""
        states = np.empty(len(kept), np.int64)
        states[-1] = state = end
        for place in reversed(range(len(kept) - 1)):
            scores, at = kept[place], state - lowest
            came, best = state, scores[at]
            if at >= 1 and scores[at - 1] > best:
                came, best = state - 1, scores[at - 1]
            if at >= 2 and scores[at - 2] + self._skips[state] > best:
                came = state - 2
            states[place] = state = came
        return states
