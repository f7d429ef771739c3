"""Shards and batches: every row once, within the budget, and the same plan whatever is done already."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.inference import planning
from pipeline.inference.planning import Chunking, assign_shards, plan_run, plan_shard
from pipeline.records import Chunk

LENGTHS = st.lists(st.integers(0, 400), max_size=60).map(lambda values: np.asarray(values, dtype=np.int64))
BUDGETS = st.integers(1, 1000)
DURATIONS = st.lists(st.floats(0.0, 4000.0) | st.just(float("nan")), max_size=60).map(
    lambda values: np.asarray(values, dtype=np.float64)
)
HOURS = st.floats(0.001, 3.0)
UNCUT = Chunking(max_samples=10**9, context=0, stride=320, receptive_field=400)


@st.composite
def chunkings(draw: st.DrawFn) -> Chunking:
    """Chunks of 4 to 40 frames, a quarter of them context at most."""
    stride = draw(st.integers(1, 9))
    frames = draw(st.integers(4, 40))
    samples = frames * stride + draw(st.integers(0, stride - 1))
    return Chunking(samples, draw(st.integers(0, frames // 4)), stride, draw(st.integers(1, stride)))


def cut(lengths: NDArray[np.int64], first_rows: list[int]) -> NDArray[np.int32]:
    """Shards that begin at the given rows (and at row 0)."""
    starts = sorted({row % len(lengths) for row in first_rows} - {0}) if len(lengths) else []
    return np.searchsorted(starts, np.arange(len(lengths)), side="right").astype(np.int32)


@given(LENGTHS, st.lists(st.integers(0, 1000), max_size=5), BUDGETS)
def test_every_row_is_in_one_batch_of_its_own_shard(
    lengths: NDArray[np.int64], first_rows: list[int], budget: int
) -> None:
    shard_of_row = cut(lengths, first_rows)
    shards = range(int(shard_of_row[-1]) + 1 if len(lengths) else 0)
    batches = list(plan_run(shards, shard_of_row, lengths, budget, UNCUT))
    chunks = [chunk for batch in batches for chunk in batch.chunks]
    assert sorted(chunk.row for chunk in chunks) == list(range(len(lengths)))
    assert all(chunk.num_samples == lengths[chunk.row] for chunk in chunks)
    assert all(shard_of_row[chunk.row] == batch.shard for batch in batches for chunk in batch.chunks)
    assert [batch.index for batch in batches] == list(range(len(batches)))
    assert [batch.shard for batch in batches] == sorted(batch.shard for batch in batches)


@given(LENGTHS, BUDGETS)
def test_a_batch_holds_no_more_than_the_budget_unless_it_is_a_batch_of_one(
    lengths: NDArray[np.int64], budget: int
) -> None:
    for chunks in plan_shard(np.arange(len(lengths)), lengths, budget, UNCUT):
        longest = max(chunk.num_samples for chunk in chunks)
        assert len(chunks) == 1 or len(chunks) * longest <= budget


@given(LENGTHS, BUDGETS)
def test_a_batch_ends_only_where_the_next_row_would_not_fit(lengths: NDArray[np.int64], budget: int) -> None:
    batches = list(plan_shard(np.arange(len(lengths)), lengths, budget, UNCUT))
    for left, right in pairwise(batches):
        if right[0].num_samples:
            assert (len(left) + 1) * max(chunk.num_samples for chunk in [*left, right[0]]) > budget


@given(LENGTHS, BUDGETS)
def test_rows_of_unknown_length_are_alone(lengths: NDArray[np.int64], budget: int) -> None:
    for chunks in plan_shard(np.arange(len(lengths)), lengths, budget, UNCUT):
        assert len(chunks) == 1 or all(chunk.num_samples > 0 for chunk in chunks)


@given(LENGTHS, BUDGETS)
def test_the_longest_come_first_and_similar_lengths_in_the_order_of_the_manifest(
    lengths: NDArray[np.int64], budget: int
) -> None:
    chunks = [chunk for batch in plan_shard(np.arange(len(lengths)), lengths, budget, UNCUT) for chunk in batch]
    for left, right in pairwise(chunks):
        assert right.num_samples <= 1.06 * left.num_samples
        assert (
            right.num_samples < left.num_samples or right.row > left.row or right.num_samples < 1.06 * left.num_samples
        )
    same = [chunk.row for chunk in chunks if chunk.num_samples == 100]
    assert same == sorted(same)


@given(LENGTHS, st.lists(st.integers(0, 1000), min_size=1, max_size=5), BUDGETS, st.data())
def test_the_plan_of_a_shard_does_not_depend_on_which_others_are_done(
    lengths: NDArray[np.int64], first_rows: list[int], budget: int, data: st.DataObject
) -> None:
    shard_of_row = cut(lengths, first_rows)
    shards = list(range(int(shard_of_row[-1]) + 1 if len(lengths) else 0))
    pending = sorted(data.draw(st.sets(st.sampled_from(shards)))) if shards else []

    def plan_of(todo: list[int]) -> dict[int, list[tuple[Chunk, ...]]]:
        plan: dict[int, list[tuple[Chunk, ...]]] = {shard: [] for shard in todo}
        for batch in plan_run(todo, shard_of_row, lengths, budget, UNCUT):
            plan[batch.shard].append(batch.chunks)
        return plan

    whole = plan_of(shards)
    assert plan_of(pending) == {shard: whole[shard] for shard in pending}


def test_a_run_is_planned_as_it_is_asked_for() -> None:
    def endless() -> object:
        yield 0
        raise AssertionError("the second shard was planned before it was needed")

    lengths = np.asarray([3, 2, 1])
    plan = plan_run(endless(), np.asarray([0, 0, 1], dtype=np.int32), lengths, 6, UNCUT)  # type: ignore[arg-type]
    assert next(plan).chunks == (Chunk(0, 3), Chunk(1, 2))


def test_nothing_to_do_is_no_batch() -> None:
    empty = np.empty(0, dtype=np.int64)
    assert list(plan_shard(empty, empty, 100, UNCUT)) == []
    assert list(plan_run([], np.asarray([0], dtype=np.int32), np.asarray([5]), 100, UNCUT)) == []


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([5, 5, 5, 5], 10, [[0, 1], [2, 3]]),
        ([5, 5, 5], 14, [[0, 1], [2]]),
        ([1, 9, 2, 8], 18, [[1, 3], [2, 0]]),
        ([11, 1], 10, [[0], [1]]),
        ([0, 4, 0, 4], 100, [[1, 3], [0], [2]]),
    ],
)
def test_batches_by_hand(lengths: list[int], budget: int, expected: list[list[int]]) -> None:
    batches = plan_shard(np.arange(len(lengths)), np.asarray(lengths), budget, UNCUT)
    assert [[chunk.row for chunk in batch] for batch in batches] == expected


@given(DURATIONS, HOURS)
@example(np.asarray([]), 1.0)
@example(np.asarray([float("nan")] * 3), 1.0)
def test_shards_are_contiguous_ascend_from_0_and_cover_every_row(duration_s: NDArray[np.float64], hours: float) -> None:
    shards = assign_shards(duration_s, hours)
    assert shards.dtype == np.int32
    assert len(shards) == len(duration_s)
    if len(shards):
        assert shards[0] == 0
        assert set(np.diff(shards)) <= {0, 1}


@given(DURATIONS, HOURS)
def test_a_shard_ends_with_the_row_that_reaches_its_hours(duration_s: NDArray[np.float64], hours: float) -> None:
    shards = assign_shards(duration_s, hours)
    seconds = np.nan_to_num(duration_s)
    for shard in range(int(shards[-1]) + 1 if len(shards) else 0):
        mine = seconds[shards == shard]
        assert sum(mine[:-1]) < hours * 3600
        assert shard == shards[-1] or sum(mine) >= hours * 3600


@given(DURATIONS, HOURS, st.integers(1, 7))
def test_a_shard_has_a_bounded_number_of_rows(duration_s: NDArray[np.float64], hours: float, bound: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "MAX_ROWS_PER_SHARD", bound)
        shards = assign_shards(duration_s, hours)
    assert all(count <= bound for count in np.bincount(shards))


def test_unreadable_recordings_do_not_make_one_endless_shard() -> None:
    shards = assign_shards(np.full(45_000, np.nan), 1.0)
    assert np.bincount(shards).tolist() == [20_000, 20_000, 5_000]


@given(chunkings(), st.integers(0, 5000))
def test_the_chunks_of_a_long_utterance_cover_it_and_overlap_by_their_context(
    chunking: Chunking, num_samples: int
) -> None:
    chunks = chunking.chunks(7, num_samples)
    if len(chunks) == 1:
        assert chunks == [Chunk(7, num_samples)]
        assert num_samples < chunking.max_samples + chunking.stride
        return
    frames = (num_samples - chunking.receptive_field) // chunking.stride + 1
    assert num_samples > chunking.max_samples
    ends = [0]
    for index, chunk in enumerate(chunks):
        seen = (chunk.num_samples - chunking.receptive_field) // chunking.stride + 1
        assert not chunk.whole
        assert chunk.start == chunk.first_frame * chunking.stride
        assert chunk.last == (index == len(chunks) - 1)
        assert chunk.context == chunking.context
        if index:  # both chunks see the context on both sides of their join
            assert chunk.first_frame <= chunk.join - chunking.context
            assert chunk.join + chunking.context <= ends[-1]
            # ... and joins may move by half of it without meeting.
            assert chunk.join - chunks[index - 1].join > chunking.context
        ends.append(chunk.first_frame + seen)
    assert chunks[0].first_frame == chunks[0].join == 0
    assert ends[-1] == frames
    assert chunks[-1].start + chunks[-1].num_samples == num_samples
    lengths = {chunk.num_samples for chunk in chunks[:-1]}
    assert len(lengths) == 1
    assert max(lengths) <= chunking.max_samples
    assert 0 <= chunks[-1].num_samples - lengths.pop() < chunking.stride


@given(chunkings(), st.lists(st.integers(0, 3000), max_size=8), BUDGETS)
def test_the_chunks_of_an_utterance_follow_one_another_within_the_budget(
    chunking: Chunking, lengths: list[int], budget: int
) -> None:
    batches = list(plan_shard(np.arange(len(lengths)), np.asarray(lengths, dtype=np.int64), budget, chunking))
    planned = [chunk for batch in batches for chunk in batch]
    for row, length in enumerate(lengths):
        places = [place for place, chunk in enumerate(planned) if chunk.row == row]
        assert places == list(range(places[0], places[0] + len(places)))
        assert [planned[place] for place in places] == chunking.chunks(row, length)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(chunk.num_samples for chunk in batch) <= budget


def test_chunks_by_hand() -> None:
    """130 s in chunks of a minute with four seconds of context on a side, at 50 frames a second."""
    chunks = Chunking(60 * 16_000, 200, 320, 400).chunks(0, 130 * 16_000)
    assert [chunk.first_frame for chunk in chunks] == [0, 2033, 4066]
    assert [chunk.join for chunk in chunks] == [0, 2233, 4266]
    assert [chunk.num_samples for chunk in chunks] == [2432 * 320 + 400] * 2 + [130 * 16_000 - 4066 * 320]
