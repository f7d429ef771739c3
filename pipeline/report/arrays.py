"""Some frames of some utterances' emissions or features, out of files that hold many: each row group is read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

Frames = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cut:
    """Frames `first` to `last` (exclusive) of an utterance."""

    id: str
    first: int
    last: int


def read_emissions(path: Path, cuts: Sequence[Cut]) -> dict[str, Frames]:
    """Each cut that is there, `(frames, labels)`, by id."""
    with pq.ParquetFile(path) as file:
        return _read(file, range(file.num_row_groups), "emission", "num_labels", cuts)


def read_features(path: Path, cuts: Sequence[Cut], layers: Sequence[int]) -> dict[int, dict[str, Frames]]:
    """Each cut of each layer that is there, `(frames, dim)`, by layer and id."""
    with pq.ParquetFile(path) as file:
        # A row group holds one layer.
        layer_of = [file.read_row_group(group, ["layer"])["layer"][0].as_py() for group in range(file.num_row_groups)]
        return {
            layer: _read(file, [at for at, held in enumerate(layer_of) if held == layer], "feature", "dim", cuts)
            for layer in layers
        }


def _read(
    file: pq.ParquetFile, groups: Iterable[int], column: str, width: str, cuts: Sequence[Cut]
) -> dict[str, Frames]:
    wanted = {cut.id: cut for cut in cuts}
    parts: dict[str, list[Frames]] = {}
    for group in groups:
        keys = file.read_row_group(group, ["id", "start_frame", "num_frames"]).to_pylist()
        rows = [
            (row, wanted[key["id"]], key["start_frame"])
            for row, key in enumerate(keys)
            if key["id"] in wanted and _overlaps(wanted[key["id"]], key["start_frame"], key["num_frames"])
        ]
        if not rows:
            continue
        table = file.read_row_group(group, [column, width])
        for row, cut, start in rows:  # the parts of an utterance follow one another
            values = np.asarray(table[column][row].values.to_numpy(zero_copy_only=False))
            frames = values.reshape(-1, table[width][row].as_py())[max(0, cut.first - start) : cut.last - start]
            parts.setdefault(cut.id, []).append(frames.astype(np.float32))
    return {id_: np.concatenate(frames) for id_, frames in parts.items()}


def _overlaps(cut: Cut, start: int, count: int) -> bool:
    return start < cut.last and start + count > cut.first
