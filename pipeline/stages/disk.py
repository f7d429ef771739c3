"""How large the tables will be, said before the model starts; refused where the disk cannot hold them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config.run_config import RunConfig
from pipeline.runtime.errors import UserError
from pipeline.storage.manifest import Manifest

_BYTES = {"float16": 2, "float32": 4}
_TRANSCRIPT_BYTES_PER_S = 60
"""Text, words and times of fast speech, compressed: next to nothing beside the arrays."""


@dataclass(frozen=True)
class Size:
    """Bytes of the tables to come, each a little over what is seen, because floats hardly compress.

    Attributes:
        emissions, features, transcripts: Of each table.
        largest_shard: Of all tables of the largest shard, which is staged before it is written.
    """

    emissions: int
    features: int
    transcripts: int
    largest_shard: int

    @property
    def total(self) -> int:
        """Bytes of all tables."""
        return self.emissions + self.features + self.transcripts


def estimate_bytes(config: RunConfig, manifest: Manifest, todo: NDArray[np.bool_]) -> Size:
    """Estimate the tables of the rows `todo` from their durations."""
    seconds = np.nan_to_num(manifest.duration_s, nan=0.0)
    frames_per_s = 1 / config.model.seconds_per_frame
    settings = config.settings
    rates = {
        "emissions": frames_per_s * len(config.model.labels) * _BYTES[settings.emissions.dtype],
        "features": frames_per_s * config.model.dim * len(config.layers) * _BYTES[settings.features.dtype],
        "transcripts": float(_TRANSCRIPT_BYTES_PER_S),
    }
    rates = {name: rate if name in settings.outputs else 0.0 for name, rate in rates.items()}
    pending_s = float(seconds[todo].sum())
    per_shard = np.bincount(manifest.shard_of_row[todo], weights=seconds[todo]) if todo.any() else np.zeros(1)
    return Size(
        **{name: int(rate * pending_s) for name, rate in rates.items()},
        largest_shard=int(sum(rates.values()) * float(per_shard.max())),
    )


def check_disk(run_dir: Path, size: Size) -> None:
    """Refuse a run whose tables the disk cannot hold.

    Raises:
        UserError: With the settings that make the tables smaller.
    """
    free = shutil.disk_usage(run_dir).free
    need = size.total + size.largest_shard
    if need > free:
        raise UserError(
            f"run_dir={run_dir}: the tables need about {format_bytes(need)} (features {format_bytes(size.features)}, "
            f"emissions {format_bytes(size.emissions)}) and the disk has {format_bytes(free)} free; ask for fewer "
            f"layers with features.layers=, for less with outputs=[transcripts], or for another run_dir="
        )


def format_bytes(count: float) -> str:
    """Bytes in decimal units, as disks are sold: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
