"""Arrays kept on disk come back as they were, in any order, a bounded amount at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import spool
from pipeline.spool import ArraySpool


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arrays_come_back_in_the_order_asked_for(dtype: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {row: random.normal(size=(row + 1, 4)).astype(np.float32) for row in (7, 2, 9, 0)}
    with ArraySpool(tmp_path / "spool", np.dtype(dtype)) as kept:
        for row, array in arrays.items():
            kept.append(row, array)
        for order in ([0, 2, 7, 9], [9, 0], [2]):
            (group,) = kept.row_groups(order)
            assert group[0] == order
            for row, read in zip(*group, strict=True):
                assert read.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(read, arrays[row].astype(dtype).reshape(-1))


def test_a_row_group_holds_a_bounded_number_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "ROW_GROUP_BYTES", 40)  # ten float32
    with ArraySpool(tmp_path / "spool", np.dtype("float32")) as kept:
        for row, size in enumerate([4, 6, 1, 25, 3, 0, 7, 1]):
            kept.append(row, np.full(size, row, dtype=np.float32))
        groups = list(kept.row_groups(range(8)))
    assert [rows for rows, _ in groups] == [[0, 1], [2], [3], [4, 5, 6], [7]]
    assert [[array.size for array in arrays] for _, arrays in groups] == [[4, 6], [1], [25], [3, 0, 7], [1]]
    assert all((array == row).all() for rows, arrays in groups for row, array in zip(rows, arrays, strict=True))


def test_an_array_without_frames_and_one_that_is_not_contiguous_are_kept(tmp_path: Path) -> None:
    with ArraySpool(tmp_path / "spool", np.dtype("float32")) as kept:
        kept.append(0, np.empty((0, 29), dtype=np.float32))
        kept.append(1, np.arange(6, dtype=np.float32).reshape(2, 3).T)
        ((rows, arrays),) = kept.row_groups([0, 1])
    assert rows == [0, 1]
    assert arrays[0].size == 0
    assert arrays[1].tolist() == [0, 3, 1, 4, 2, 5]


def test_no_rows_are_no_groups(tmp_path: Path) -> None:
    with ArraySpool(tmp_path / "spool", np.dtype("float32")) as kept:
        assert list(kept.row_groups([])) == []


def test_the_file_is_closed_when_the_shard_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ArraySpool(tmp_path / "spool", np.dtype("float32")) as kept:
        raise KeyboardInterrupt
    with pytest.raises(ValueError):
        kept.append(0, np.zeros(1, dtype=np.float32))


def test_what_comes_after_a_reading_does_not_overwrite_what_came_before(tmp_path: Path) -> None:
    with ArraySpool(tmp_path / "spool", np.dtype("float32")) as kept:
        kept.append(0, np.zeros(2, dtype=np.float32))
        kept.append(1, np.ones(2, dtype=np.float32))
        list(kept.row_groups([0]))
        kept.append(2, np.full(2, 2, dtype=np.float32))
        ((_, arrays),) = kept.row_groups([0, 1, 2])
    assert [array.tolist() for array in arrays] == [[0, 0], [1, 1], [2, 2]]
