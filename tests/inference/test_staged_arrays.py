"""Arrays kept on disk come back as they were, in any order, a bounded amount at a time."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inference import staged_arrays
from pipeline.inference.staged_arrays import StagedArrays


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arrays_come_back_in_the_order_asked_for(dtype: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {row: random.normal(size=(row + 1, 4)).astype(np.float32) for row in (7, 2, 9, 0)}
    with StagedArrays(tmp_path / "spool", np.dtype(dtype), 4) as kept:
        for row, array in arrays.items():
            kept.append(row, array)
        for order in ([0, 2, 7, 9], [9, 0], [2]):
            (group,) = kept.row_groups(order)
            assert [(part.row, part.part, part.start_frame) for part in group] == [(row, 0, 0) for row in order]
            for part in group:
                assert part.values.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(part.values, arrays[part.row].astype(dtype))


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(1, 200),
    st.randoms(use_true_random=False),
)
def test_stretches_that_come_between_others_are_joined_and_cut_into_parts(
    frames: list[list[int]], limit: int, random: Random
) -> None:
    order = [row for row, counts in enumerate(frames) for _ in counts]
    random.shuffle(order)
    written: dict[int, list[np.ndarray]] = {row: [] for row in range(len(frames))}
    values = count()
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(staged_arrays, "ROW_GROUP_BYTES", limit)
        patch.setattr(staged_arrays, "PART_BYTES", limit)
        with StagedArrays(Path(folder) / "spool", np.dtype("float32"), 3) as kept:
            for row in order:
                size = frames[row][len(written[row])]
                written[row].append(np.asarray([[next(values)] * 3 for _ in range(size)], np.float32).reshape(-1, 3))
                kept.append(row, written[row][-1])
            groups = list(kept.row_groups(range(len(frames))))
    parts = [part for group in groups for part in group]
    for row, stretches in written.items():
        mine = [part for part in parts if part.row == row]
        assert [part.part for part in mine] == list(range(len(mine)))
        assert [part.start_frame for part in mine] == np.cumsum([0, *(len(part.values) for part in mine)])[:-1].tolist()
        np.testing.assert_array_equal(np.concatenate([part.values for part in mine]), np.concatenate(stretches))
    assert all(len(group) == 1 or sum(part.values.nbytes for part in group) <= limit for group in groups)
    assert all(part.values.nbytes <= max(limit, 12) for part in parts)


def test_a_row_group_holds_a_bounded_number_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_arrays, "ROW_GROUP_BYTES", 40)  # ten float32
    monkeypatch.setattr(staged_arrays, "PART_BYTES", 40)
    with StagedArrays(tmp_path / "spool", np.dtype("float32"), 1) as kept:
        for row, size in enumerate([4, 6, 1, 25, 3, 0, 7, 1]):
            kept.append(row, np.full((size, 1), row, dtype=np.float32))
        groups = list(kept.row_groups(range(8)))
    assert [[(part.row, part.values.size) for part in group] for group in groups] == [
        [(0, 4), (1, 6)],
        [(2, 1)],
        [(3, 10)],
        [(3, 10)],
        [(3, 5), (4, 3), (5, 0)],
        [(6, 7), (7, 1)],
    ]
    assert all((part.values == part.row).all() for group in groups for part in group)


def test_an_array_without_frames_and_one_that_is_not_contiguous_are_kept(tmp_path: Path) -> None:
    with StagedArrays(tmp_path / "spool", np.dtype("float32"), 2) as kept:
        kept.append(0, np.empty((0, 2), dtype=np.float32))
        kept.append(1, np.arange(6, dtype=np.float32).reshape(2, 3).T)
        ((empty, turned),) = kept.row_groups([0, 1])
    assert empty.values.shape == (0, 2)
    assert turned.values.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_an_array_of_another_width_is_a_bug(tmp_path: Path) -> None:
    with (
        StagedArrays(tmp_path / "spool", np.dtype("float32"), 4) as kept,
        pytest.raises(AssertionError, match="3 values are not frames of 4"),
    ):
        kept.append(0, np.zeros((2, 3), np.float32))


def test_a_staged_file_that_was_cut_is_an_error_that_names_it(tmp_path: Path) -> None:
    with StagedArrays(tmp_path / "spool", np.dtype("float32"), 2) as kept:
        kept.append(0, np.zeros((9, 2), np.float32))
        list(kept.row_groups([0]))
        os.truncate(tmp_path / "spool", 50)
        with pytest.raises(OSError, match="50 of 72 staged bytes are there") as caught:
            list(kept.row_groups([0]))
    assert caught.value.filename == str(tmp_path / "spool")


def test_no_rows_are_no_groups(tmp_path: Path) -> None:
    with StagedArrays(tmp_path / "spool", np.dtype("float32"), 1) as kept:
        assert list(kept.row_groups([])) == []


def test_the_file_is_closed_when_the_shard_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), StagedArrays(tmp_path / "spool", np.dtype("float32"), 1) as kept:
        raise KeyboardInterrupt
    with pytest.raises(ValueError):
        kept.append(0, np.zeros((1, 1), dtype=np.float32))


def test_what_comes_after_a_reading_does_not_overwrite_what_came_before(tmp_path: Path) -> None:
    with StagedArrays(tmp_path / "spool", np.dtype("float32"), 2) as kept:
        kept.append(0, np.zeros((1, 2), dtype=np.float32))
        kept.append(1, np.ones((1, 2), dtype=np.float32))
        list(kept.row_groups([0]))
        kept.append(2, np.full((1, 2), 2, dtype=np.float32))
        (group,) = kept.row_groups([0, 1, 2])
    assert [part.values.tolist() for part in group] == [[[0, 0]], [[1, 1]], [[2, 2]]]
