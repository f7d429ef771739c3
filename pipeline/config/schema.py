"""Every key of the configuration with its type and default, and the values that may be given."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from pipeline.runtime.errors import UserError, one_of

STAGES = ("manifest", "infer", "score", "report")
OUTPUTS = ("transcripts", "emissions", "features")
DTYPES = ("float16", "float32")
MAX_SHOWN = 20
"""The most utterances of each kind in the report, because the page holds their audio."""
MIN_CHUNK_S = 1.0
"""A chunk shorter than this is hardly a word."""

CHOICES = {
    "stages": STAGES,
    "outputs": OUTPUTS,
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "features.dtype": DTYPES,
    "emissions.dtype": DTYPES,
    "channels": ("mix", "first", "each"),
    "score.normaliser": ("standard", "whisper_english", "none"),
}
"""The values, or the items of a list, that a key takes."""
RANGES = {
    "batch.max_seconds": (0.0, 1e6, "a number above 0, 1e6 at most, or null"),
    "chunk.seconds": (MIN_CHUNK_S, 1e6, "a number from 1 to 1e6"),
    "shard.hours": (0.0, 1e6, "a number above 0, 1e6 at most"),
    "loader.timeout_s": (0.0, 1e6, "a number above 0, 1e6 at most"),
    "loader.workers": (0, 1e6, "a whole number, 0 or more, or null"),
    "max_failures": (0, 1e12, "a whole number, 0 or more, or null"),
    "report.utterances": (1, MAX_SHOWN, f"a whole number from 1 to {MAX_SHOWN}"),
}
"""The smallest and the largest value of a key, and both in words. 0.0 itself is not allowed, 0 is."""
ALLOWED = {
    **{key: ", ".join(names) for key, names in CHOICES.items()},
    **{key: words for key, (_, _, words) in RANGES.items()},
    "stages": f"a list of {', '.join(STAGES)}",
    "outputs": f"a list of {', '.join(OUTPUTS)}",
    "device": "auto, cpu, cuda, cuda:<number>",
    "features.layers": "last, all, or numbers of layers from 1 on",
    "chunk.context_seconds": "a number from 0 to a quarter of chunk.seconds",
    "model.sha256": "null, or 64 lower-case hexadecimal digits",
    "score.by": "null, or a list of the dataset's own columns",
    "report.layers": "null, or a list of numbers of layers",
}
"""What may be given for a key, in words."""


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
        if isinstance(value, str):
            one_of(key, value, names)
            continue
        for item in value:
            one_of(key, item, names)
        _check_each_once(key, value, f"nothing to do; give some of {', '.join(names)}")
    for key, (least, most, words) in RANGES.items():
        value = OmegaConf.select(config, key)
        above = value is not None and (value > least if least == 0 and isinstance(least, float) else value >= least)
        if value is not None and not (above and value <= most):
            raise UserError(f"{key}={value}: must be {words}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", config.device):
        raise UserError(f"device={config.device}: not a device; allowed are {ALLOWED['device']}")
    if config.device == "cpu" and config.precision in ("bf16", "fp16"):
        raise UserError(f"precision={config.precision}: needs CUDA; on the CPU there is fp32 (or auto)")
    chunk = config.chunk
    if not 0 <= chunk.context_seconds <= chunk.seconds / 4:
        raise UserError(
            f"chunk.context_seconds={chunk.context_seconds}: must be 0 or more, and a quarter of chunk.seconds="
            f"{chunk.seconds} at most, so that most of what a chunk hears belongs to the chunk"
        )
    by, layers = config.score.by, config.report.layers
    if by is not None:
        if not all(isinstance(name, str) and name for name in by):
            raise UserError(f"score.by={by}: must be {ALLOWED['score.by']}, such as [room,distractor,room+distractor]")
        _check_each_once("score.by", by)
    if layers is not None and (min(layers, default=0) < 1 or len(set(layers)) != len(layers)):
        raise UserError(f"report.layers={layers}: must be null, or layers from 1 on, each once")


def _check_each_once(key: str, values: list[str], if_empty: str = "") -> None:
    if if_empty and not values:
        raise UserError(f"{key}=[]: {if_empty}")
    if len(set(values)) != len(values):
        raise UserError(f"{key}=[{','.join(values)}]: names one twice; give each once")
