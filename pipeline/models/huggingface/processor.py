"""`preprocessor_config.json` of a checkpoint, or `processor_config.json`: how a waveform becomes the model's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.models.huggingface.folder import Folder

EPSILON = 1e-7
"""What transformers adds to the variance of a waveform (`Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`)."""
_EXTRACTOR = "Wav2Vec2FeatureExtractor"
_PREPROCESSOR, _PROCESSOR = "preprocessor_config.json", "processor_config.json"


@dataclass(frozen=True)
class Waveforms:
    """The waveforms that a model expects.

    Attributes:
        sample_rate: Sample rate in Hz.
        normalize: Whether to scale each utterance to mean 0 and variance 1.
    """

    sample_rate: int
    normalize: bool


def read_waveforms(folder: Folder) -> Waveforms:
    """Read what a checkpoint says of its input.

    `return_attention_mask` is not read. It tells what stock transformers does with padding, and here nothing is padded:
    an utterance has the result that it has alone.

    Raises:
        UserError: No file says it, or the input is no waveform.
    """
    processor = folder.find(_PROCESSOR) or {}
    name, found = f"feature_extractor of {_PROCESSOR}", processor.get("feature_extractor")
    if not isinstance(found, dict):
        name, found = _PREPROCESSOR, folder.find(_PREPROCESSOR)
    if found is None:
        raise folder.refusal(
            f"has neither {_PREPROCESSOR} nor {_PROCESSOR}, so nobody knows whether waveforms are normalised; "
            f"save the processor beside the model with processor.save_pretrained(DIR)"
        )
    return _checked(folder, name, found)


def _checked(folder: Folder, name: str, found: Mapping[str, Any]) -> Waveforms:
    kind = found.get("feature_extractor_type") or _EXTRACTOR
    if kind != _EXTRACTOR:
        raise folder.refusal(
            f"feature_extractor_type in {name} says {kind!r}; only {_EXTRACTOR} is supported, which gives waveforms"
        )
    rate, normalize = found.get("sampling_rate", 16_000), found.get("do_normalize", True)
    if isinstance(rate, bool) or not isinstance(rate, int) or not 1_000 <= rate <= 768_000:
        raise folder.refusal(f"sampling_rate in {name} says {rate!r}; it must be a number of Hz from 1000 to 768000")
    if not isinstance(normalize, bool):
        raise folder.refusal(f"do_normalize in {name} says {normalize!r}; it must be true or false")
    return Waveforms(rate, normalize)
