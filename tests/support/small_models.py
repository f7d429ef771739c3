"""A small model of each kind that torchaudio has, and the shipped one, as unmodified torchaudio builds them."""

from __future__ import annotations

import torch
from random_models import architecture, build, wrapped

from pipeline.models import digits
from pipeline.models.facts import ModelFacts
from pipeline.models.sources import named

SMALL = {
    "extractor_conv_layer_config": digits.ARCHITECTURE["extractor_conv_layer_config"],
    "encoder_embed_dim": 96,
    "encoder_num_layers": 3,
    "encoder_num_heads": 4,
    "encoder_ff_interm_features": 192,
    "encoder_pos_conv_groups": 8,
}
"""What of an architecture does not change its kind."""

# A bundle of each kind: group norm after or before the layers' own norms, layer norms with and without a bias of
# the convolutions, normalised waveforms, log-probabilities, WavLM with either front end.
KINDS = (
    "wav2vec2_asr_base_960h",
    "hubert_base",
    "wav2vec2_asr_large_lv60k_960h",
    "hubert_asr_large",
    "wav2vec2_xlsr_300m",
    "mms_fa",
    "voxpopuli_asr_base_10k_de",
    "wavlm_base",
    "wavlm_large",
)


def small(facts: ModelFacts, seed: int = 0) -> torch.nn.Module:
    """A model of the bundle's kind, wrapped as its bundle wraps it, but narrow and shallow."""
    kind, params = architecture(facts)
    return wrapped(build(kind, params | SMALL, seed), facts)


def digits_model() -> torch.nn.Module:
    return named("digits").build()
