"""Every key of the configuration with its type and default, and the values that may be given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from pipeline.runtime.errors import UserError, one_of

STAGES = ("manifest", "infer", "score", "report")
OUTPUTS = ("transcripts", "emissions", "features")
DTYPES = ("float16", "float32")
NORMALISERS = ("standard", "whisper_english", "none")
MAX_SHOWN = 20
"""The most utterances of each kind in the report, because the page holds their audio."""

CHOICES = {
    "stages": STAGES,
    "outputs": OUTPUTS,
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "features.dtype": DTYPES,
    "emissions.dtype": DTYPES,
    "channels": ("mix", "first", "each"),
    "score.normaliser": NORMALISERS,
}
"""The values, or the items of a list, that a key takes."""


def _distinct(values: list[Any]) -> bool:
    return len(set(values)) == len(values)


LIMITS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "stages": (f"a list of {', '.join(STAGES)}, each once", lambda names: bool(names) and _distinct(names)),
    "outputs": (f"a list of {', '.join(OUTPUTS)}, each once", lambda names: bool(names) and _distinct(names)),
    "device": (
        "auto, cpu, cuda, cuda:<number>",
        lambda name: re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", name) is not None,
    ),
    "threads": ("a whole number from 1 to 1024, or null", lambda value: 1 <= value <= 1024),
    "batch.max_seconds": ("a number above 0, 1e6 at most, or null", lambda value: 0 < value <= 1e6),
    "chunk.seconds": ("a number from 1 to 1e6", lambda value: 1 <= value <= 1e6),
    "chunk.context_seconds": ("a number from 0 to a quarter of chunk.seconds", lambda value: value >= 0),
    "shard.hours": ("a number above 0, 1e6 at most", lambda value: 0 < value <= 1e6),
    "loader.workers": ("a whole number, 0 or more, or null", lambda value: 0 <= value <= 1e6),
    "loader.timeout_s": ("a number above 0, 1e6 at most", lambda value: 0 < value <= 1e6),
    "max_failures": ("a whole number, 0 or more, or null", lambda value: 0 <= value <= 1e12),
    "score.by": (
        "null, or a list of the dataset's own columns, each once, such as [room,distractor,room+distractor]",
        lambda names: all(isinstance(name, str) and name for name in names) and _distinct(names),
    ),
    "report.utterances": (f"a whole number from 1 to {MAX_SHOWN}", lambda value: 1 <= value <= MAX_SHOWN),
    "report.layers": (
        "null, or a list of numbers of layers from 1 on, each once",
        lambda layers: _distinct(layers) and min(layers, default=0) >= 1,
    ),
}
"""What a key takes, in words and as a check. `null` is not checked: the type of the key allows or refuses null."""
ALLOWED = {
    **{key: ", ".join(names) for key, names in CHOICES.items()},
    **{key: words for key, (words, _) in LIMITS.items()},
    "features.layers": "last, all, or numbers of layers from 1 on",
    "model.sha256": "null, or 64 lower-case hexadecimal digits",
}
"""What a key takes, in words."""


@dataclass
class FeatureSettings:
    """`features.*`. OmegaConf has no `str | list[int]`, so `layers` is checked with the model."""

    layers: Any = "last"
    dtype: str = "float16"


@dataclass
class EmissionSettings:
    """`emissions.*`."""

    dtype: str = "float32"


@dataclass
class BatchSettings:
    """`batch.*`."""

    max_seconds: float | None = None


@dataclass
class ChunkSettings:
    """`chunk.*`."""

    seconds: float = 60.0
    context_seconds: float = 4.0


@dataclass
class ShardSettings:
    """`shard.*`."""

    hours: float = 1.0


@dataclass
class LoaderSettings:
    """`loader.*`."""

    workers: int | None = None
    timeout_s: float = 120.0


@dataclass
class ScoreSettings:
    """`score.*`: how transcripts are compared with references, which can be done again at any time.

    Attributes:
        by: The columns of the dataset to score by, each alone or crossed (`room+distractor`). `None` for every column
            that has more than one value and few enough to be groups.
        normaliser: The normaliser that both texts go through before they are compared.
    """

    by: list[str] | None = None
    normaliser: str = "standard"


@dataclass
class ReportSettings:
    """`report.*`: what the page shows.

    Attributes:
        utterances: How many of the worst, of the typical and of the best utterances are shown.
        layers: The layers whose features are shown; `None` for the first, the middle and the last stored layer.
    """

    utterances: int = 4
    layers: list[int] | None = None


@dataclass
class Settings:
    """Every key of the configuration. The module that a choice names has the keys of a group in its `Options`."""

    dataset: Any = MISSING
    model: Any = MISSING
    decoder: Any = MISSING
    executor: Any = MISSING
    run_dir: str | None = None
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    outputs: list[str] = field(default_factory=lambda: list(OUTPUTS))
    device: str = "auto"
    threads: int | None = None
    precision: str = "auto"
    features: FeatureSettings = field(default_factory=FeatureSettings)
    emissions: EmissionSettings = field(default_factory=EmissionSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    chunk: ChunkSettings = field(default_factory=ChunkSettings)
    channels: str = "mix"
    shard: ShardSettings = field(default_factory=ShardSettings)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    max_failures: int | None = None
    retry_failed: bool = False


def check_values(config: DictConfig) -> None:
    """Check every value that needs no more than the values themselves.

    Raises:
        UserError: With the key, the value and what is allowed.
    """
    for key, names in CHOICES.items():
        value = OmegaConf.select(config, key)
        for name in [value] if isinstance(value, str) else value:
            one_of(key, name, names)
    for key, (words, is_allowed) in LIMITS.items():
        value = OmegaConf.select(config, key)
        if value is not None and not is_allowed(value):
            said = f"[{','.join(map(str, value))}]" if isinstance(value, ListConfig) else value
            raise UserError(f"{key}={said}: must be {words}")
    chunk = config.chunk
    if chunk.context_seconds > chunk.seconds / 4:
        raise UserError(
            f"chunk.context_seconds={chunk.context_seconds}: must be a quarter of chunk.seconds={chunk.seconds} at "
            "most, so that most of what a chunk hears belongs to the chunk"
        )
