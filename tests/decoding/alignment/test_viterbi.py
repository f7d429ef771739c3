"""The best path in bounded memory is that of a plain Viterbi over the whole, and that of torchaudio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchaudio.functional import forced_align

from pipeline.decoding.alignment import forced, viterbi
from pipeline.decoding.alignment.forced import find_states, states_of
from pipeline.decoding.alignment.viterbi import best_states


def plain(scores: NDArray[np.float32], labels: NDArray[np.int64], blank: int) -> NDArray[np.int64]:
    """Every score of every frame and state, one after the other, in float64."""
    columns = [blank]
    for label in labels.tolist():
        columns += [label, blank]
    best = np.full((len(scores) + 1, len(columns)), -np.inf)
    came = np.zeros(best.shape, np.int64)
    best[0, 0] = 0
    for frame in range(len(scores)):
        for state, column in enumerate(columns):
            sources = [state, state - 1] if state else [state]
            if state >= 3 and state % 2 and column != columns[state - 2]:
                sources.append(state - 2)
            source = max(sources, key=lambda each: best[frame, each])
            came[frame + 1, state] = source
            best[frame + 1, state] = best[frame, source] + scores[frame, column]
    state = max((len(columns) - 1, len(columns) - 2), key=lambda each: best[-1, each])
    states = []
    for frame in range(len(scores), 0, -1):
        states.append(state)
        state = came[frame, state]
    return np.asarray(states[::-1])


def drawn(seed: int, frames: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores, and labels of which many are the same as the one before."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 4, (frames, 5)).astype(np.float32)
    return scores - scores.max(axis=1, keepdims=True), generator.integers(1, 4, count)


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (7, 3), (60, 5), (90, 40), (400, 120)])
@pytest.mark.parametrize("max_cells", [1, 1 << 22])
def test_the_path_is_that_of_a_plain_viterbi_over_the_whole(frames: int, count: int, max_cells: int) -> None:
    scores, labels = drawn(frames, frames, count)
    assert best_states(scores, labels, 0, max_cells).tolist() == plain(scores, labels, 0).tolist()


def test_a_reference_that_fits_badly_lowers_the_floor_until_it_is_the_best_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, labels = drawn(1, 300, 60)
    floors: list[float] = []
    trellis = viterbi._Trellis

    def watched(*given: Any) -> viterbi._Trellis:
        floors.append(given[3])
        return trellis(*given)

    monkeypatch.setattr(viterbi, "_Trellis", watched)
    found = best_states(scores, labels, 0, max_cells=1)
    assert len(floors) > 1
    assert found.tolist() == plain(scores, labels, 0).tolist()


def test_a_long_recording_has_the_path_of_torchaudio_in_a_window_of_states() -> None:
    """A reference that fits but for a stretch; the states looked at are a small part of all."""
    generator = np.random.default_rng(3)
    labels = generator.integers(1, 30, 1500)
    frames = np.repeat(np.stack([labels, np.zeros_like(labels)], 1).ravel(), 2)
    scores = np.full((len(frames), 30), -8, np.float32) - generator.random((len(frames), 30), np.float32)
    scores[np.arange(len(frames)), frames] = 0
    labels[700:710] = generator.integers(1, 30, 10)
    looked_at: list[int] = []
    window = viterbi._Trellis._window

    def watched(self: viterbi._Trellis, padded: NDArray[np.float32], before: slice) -> slice:
        found = window(self, padded, before)
        looked_at.append(found.stop - found.start)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(viterbi._Trellis, "_window", watched)
        ours = best_states(scores, labels, 0)
    (path,), _ = forced_align(torch.from_numpy(scores)[None], torch.from_numpy(labels)[None])
    theirs = states_of(path.numpy().astype(np.int64), 0)
    of_path = [np.where(each % 2, labels[(each - 1) // 2], 0) for each in (ours, theirs)]
    sums = [scores[np.arange(len(frames)), each].sum(dtype=np.float64) for each in of_path]
    assert sums[0] == pytest.approx(sums[1], abs=1e-3)
    assert (ours == theirs).mean() > 0.99
    assert max(looked_at) < (2 * len(labels) + 1) / 4


@pytest.mark.parametrize("max_bytes", [0, 1 << 22])
def test_short_and_long_utterances_are_aligned_alike(max_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forced, "MAX_BYTES", max_bytes)
    scores, labels = drawn(5, 80, 20)
    assert find_states(scores, labels, 0).tolist() == plain(scores, labels, 0).tolist()
