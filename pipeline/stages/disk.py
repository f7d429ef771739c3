"""Estimates the size of the tables before the model starts, and refuses a run that the disk cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.models.facts import ModelFacts
from pipeline.runtime.errors import UserError
from pipeline.storage.identity import Identity
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory

_BYTES = {"float16": 2, "float32": 4, None: 0}
_TRANSCRIPT_BYTES_PER_S = 60
"""Compressed text, words and times of fast speech: little compared with the arrays."""


@dataclass(frozen=True)
class Size:
    """Estimated bytes of the tables. For lists they are a little too high, because floats compress slightly.

    Attributes:
        emissions, features, transcripts: Bytes of each table.
        largest_shard: Bytes of the largest shard, whose arrays are on the disk twice while its tables are written.
    """

    emissions: int
    features: int
    transcripts: int
    largest_shard: int

    @property
    def total(self) -> int:
        """Bytes of all tables."""
        return self.emissions + self.features + self.transcripts


def estimate_bytes(facts: ModelFacts, identity: Identity, manifest: Manifest, todo: NDArray[np.bool_]) -> Size:
    """Estimate the size of the tables of a pass from durations.

    Args:
        facts: Properties of the model.
        identity: What the pass computes.
        manifest: The manifest.
        todo: `(rows,)` whether each row of the manifest will be computed.
    """
    seconds = np.nan_to_num(manifest.duration_s, nan=0.0)
    frames_per_s = 1 / facts.seconds_per_frame
    rates = {
        "emissions": frames_per_s * len(facts.labels) * _BYTES[identity.emission_dtype],
        "features": frames_per_s * facts.dim * len(identity.layers) * _BYTES[identity.feature_dtype],
        "transcripts": float(_TRANSCRIPT_BYTES_PER_S),
    }
    rates = {name: rate if name in identity.outputs else 0.0 for name, rate in rates.items()}
    pending_s = float(seconds[todo].sum())
    per_shard = np.bincount(manifest.shard_of_row[todo], weights=seconds[todo]) if todo.any() else np.zeros(1)
    return Size(
        **{name: int(rate * pending_s) for name, rate in rates.items()},
        largest_shard=int(sum(rates.values()) * float(per_shard.max())),
    )


def check_disk(directory: RunDirectory, sizes: Sequence[Size]) -> None:
    """Refuse a run whose tables the disk cannot hold. `sizes` are those of its passes.

    Raises:
        UserError: The message names the settings that make the tables smaller.
    """
    free = directory.free_bytes()
    largest = max((size.largest_shard for size in sizes), default=0)
    # A table is written from files that are as large. In an object store, finished tables leave the disk.
    need = largest + (sum(size.total for size in sizes) if directory.on_disk else largest)
    features, emissions = (sum(getattr(size, table) for size in sizes) for table in ("features", "emissions"))
    if need > free:
        raise UserError(
            f"run_dir={directory.root}: the tables need about {format_bytes(need)} "
            f"(features {format_bytes(features)}, emissions {format_bytes(emissions)}) "
            f"and the disk has {format_bytes(free)} free; ask for fewer layers with features.layers=, "
            f"for less with outputs=[transcripts], or "
            + ("for another run_dir=" if directory.on_disk else "set TMPDIR to a larger disk")
        )


def format_bytes(count: float) -> str:
    """Return a number of bytes in decimal units: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
