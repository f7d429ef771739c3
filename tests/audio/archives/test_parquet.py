"""Recordings in the rows of Parquet files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from packing import DIGITS, NAMES, recordings, write_parquet

from pipeline.audio.archives import parquet
from pipeline.audio.archives.held import Held
from pipeline.audio.archives.members import Member
from pipeline.audio.waveforms import read_waveform
from pipeline.runtime.errors import AudioError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [{"audio": {"bytes": data, "path": name}, "plain": data} for name, data in recordings().items()]
    return write_parquet(tmp_path / "x.parquet", [*rows, {"audio": {"bytes": None, "path": "a.wav"}, "plain": None}])


def row(path: Path, number: int, name: str = "audio/a.flac") -> str:
    return Member("parquet", name, number, path.stat().st_size, str(path)).path


@pytest.mark.parametrize("column", ["audio/a.flac", "audio", "plain"])
def test_a_row_is_read_like_the_file_that_it_was(path: Path, column: str) -> None:
    for number, name in enumerate(NAMES):
        assert np.array_equal(read_waveform(row(path, number, column))[0], read_waveform(str(DIGITS / name))[0])
    with pytest.raises(AudioError, match="has no bytes in this row"):
        read_waveform(row(path, len(NAMES), column))


def test_a_row_group_is_read_once_in_any_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    read_row_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda file, group, columns: read.append(group) or read_row_group(file, group, columns=columns),
    )
    order = [*range(len(NAMES))]
    random.Random(0).shuffle(order)
    for number in order:
        read_waveform(row(path, number))
    assert sorted(read) == [0, 1, 2]
    monkeypatch.setattr(parquet, "HELD", Held(1))
    read.clear()
    for number in range(len(NAMES)):
        read_waveform(row(path, number))
    assert read == [0, 1, 2]  # in order, the row group that is held is enough


def test_a_file_that_was_written_again_or_has_no_such_row_or_column_fails(path: Path) -> None:
    before = row(path, 0)
    for wrong in (row(path, 99), row(path, 0, "other")):
        with pytest.raises(AudioError, match=r"unreadable: row \d+ of the Parquet file cannot be read"):
            read_waveform(wrong)
    write_parquet(path, [{"audio": {"bytes": b"x", "path": "y"}}])
    with pytest.raises(AudioError, match="changed: the Parquet file has"):
        read_waveform(before)
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    with pytest.raises(AudioError, match="unreadable: row 0 of the Parquet file cannot be read"):
        read_waveform(row(path, 0))


def test_a_damaged_row_group_costs_its_rows(path: Path) -> None:
    data = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(AudioError, match="unreadable: row 2 of the Parquet file cannot be read"):
        read_waveform(row(path, 2))
    assert len(read_waveform(row(path, 4))[0])
