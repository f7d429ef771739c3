"""Every key of the configuration, typed, with its default. What may be given for them is checked in `config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

STAGES = ("manifest", "infer", "score", "report")
OUTPUTS = ("transcripts", "emissions", "features")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DTYPES = ("float16", "float32")
CHANNELS = ("mix", "first", "each")
NORMALISERS = ("standard", "whisper_english", "none")
MAX_SHOWN = 20
"""Utterances of each kind in the report: the page holds their audio."""

DEVICES = "auto, cpu, cuda, cuda:<number>"
ALLOWED = {
    "stages": f"a list of {', '.join(STAGES)}",
    "outputs": f"a list of {', '.join(OUTPUTS)}",
    "precision": ", ".join(PRECISIONS),
    "features.dtype": ", ".join(DTYPES),
    "emissions.dtype": ", ".join(DTYPES),
    "device": DEVICES,
    "channels": ", ".join(CHANNELS),
    "features.layers": "last, all, or numbers of layers from 1 on",
    "batch.max_seconds": "null, or a number above 0, 1e6 at most",
    "chunk.seconds": "a number from 1 to 1e6",
    "chunk.context_seconds": "a number from 0 to a quarter of chunk.seconds",
    "shard.hours": "a number above 0, 1e6 at most",
    "loader.workers": "null, or a whole number, 0 or more",
    "loader.timeout_s": "a number above 0, 1e6 at most",
    "max_failures": "null, or a whole number, 0 or more",
    "report.utterances": f"a whole number from 1 to {MAX_SHOWN}",
    "model.sha256": "null, or 64 lower-case hexadecimal digits",
    "score.by": "null, or a list of the dataset's own columns",
    "score.normaliser": ", ".join(NORMALISERS),
    "report.layers": "null, or a list of numbers of layers",
}
"""What may be given for a key, for the message that refuses something else."""


@dataclass
class ModelSettings:
    """Group `model`. `labels` is a name or a list; `checkpoint` and what follows are for the choice of that name."""

    source: str = MISSING
    name: str = MISSING
    sha256: str | None = None
    checkpoint: str | None = None
    architecture: str | None = None
    labels: Any = None


@dataclass
class DecoderSettings:
    """Group `decoder`."""

    name: str = MISSING


@dataclass
class FeatureSettings:
    """`features.*`. OmegaConf has no `str | list[int]`, so `layers` is checked by hand."""

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
        by: Columns of the dataset to score by, each for itself, or crossed (`room+distractor`); `None` for every one
            that has more than one value and few enough to be groups.
        normaliser: What is done to both texts before they are compared.
    """

    by: list[str] | None = None
    normaliser: str = "standard"


@dataclass
class ReportSettings:
    """`report.*`: what the page shows.

    Attributes:
        utterances: How many of the worst, of the typical and of the best utterances are shown.
        layers: Layers whose features are shown; `None` for the first, the middle and the last of those stored.
    """

    utterances: int = 4
    layers: list[int] | None = None


@dataclass
class Settings:
    """Every key of the configuration but the options of the dataset, which its connector types."""

    dataset: Any = MISSING
    model: ModelSettings = field(default_factory=ModelSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
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
