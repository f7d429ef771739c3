"""Weights in the shape that torchaudio publishes them, with random values."""

from __future__ import annotations

import torch
from random_models import architecture, build

from pipeline.models.architectures import architecture_of
from pipeline.models.catalog import BUNDLES
from pipeline.models.facts import ModelFacts


def random_state_dict(facts: ModelFacts, seed: int) -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes that torchaudio publishes for a bundle, and random values.

    Exactness does not depend on the values. Published ASR weights carry unused label rows, which the bundle
    removes while loading (`_remove_aux_axes` in torchaudio/pipelines/_wav2vec2/utils.py), and name the weight
    norm as torch did before it became a parametrization; so do these.
    """
    if facts.name not in BUNDLES:
        raise ValueError(f"{facts.name} is not a bundle of torchaudio")
    state: dict[str, torch.Tensor] = build(*architecture(facts), seed).state_dict()
    for old, new in (("original0", "weight_g"), ("original1", "weight_v")):
        prefix = "encoder.transformer.pos_conv_embed.conv."
        state[prefix + new] = state.pop(f"{prefix}parametrizations.weight.{old}")
    removed = architecture_of(facts.name).unused_labels
    for axis in sorted(removed):
        for key in ("aux.weight", "aux.bias"):
            tensor = state[key]
            state[key] = torch.cat([tensor[:axis], torch.zeros_like(tensor[:1]), tensor[axis:]])
    # What is trained last is what tests and benchmarks change: in memory of its own.
    return state | {key: state[key].clone() for key in ("aux.weight", "aux.bias") if key in state}
