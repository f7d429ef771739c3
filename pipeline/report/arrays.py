"""Reads some frames of the emissions or features of some utterances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pipeline.results.arrays import read_parts, stretch
from pipeline.storage.files import StoredTable
from pipeline.storage.layouts import EMISSIONS, FEATURES, ArrayTable

Frames = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cut:
    """Frames `first` to `last` (exclusive) of an utterance."""

    id: str
    first: int
    last: int


def read_emissions(stored: StoredTable, cuts: Sequence[Cut]) -> dict[str, Frames]:
    """Read the emissions of each cut, `(frames, labels)`, by id. Utterances without emissions are left out."""
    return _read(stored, EMISSIONS, cuts)


def read_features(stored: StoredTable, cuts: Sequence[Cut], layer: int) -> dict[str, Frames]:
    """Read a layer's features of each cut, `(frames, dim)`, by id. Utterances without features are left out."""
    return _read(stored, FEATURES, cuts, layer)


def _read(stored: StoredTable, table: ArrayTable, cuts: Sequence[Cut], layer: int | None = None) -> dict[str, Frames]:
    wanted = {cut.id: cut for cut in cuts}
    found: dict[str, Frames] = {}
    for id_, parts in groupby(read_parts(stored, table, sorted(wanted), layer), key=lambda part: part.id):
        values = stretch(parts, wanted[id_].first, wanted[id_].last)
        if values is not None and len(values):
            found[id_] = values.astype(np.float32)
    return found
