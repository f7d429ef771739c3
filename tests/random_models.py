"""Models of torchaudio's architectures with random values that keep their activations sane, made in no time."""

from __future__ import annotations

from typing import Any

import torch
import torchaudio
from torchaudio.models import Wav2Vec2Model, wav2vec2_model, wavlm_model
from torchaudio.pipelines._wav2vec2.utils import _extend_model

from pipeline.model import digits
from pipeline.model.catalog import ModelFacts

_BLOCK = 1_000_003
"""Random values drawn; a tensor repeats them from a place of its own. A prime, so that no two rows line up."""


def architecture(facts: ModelFacts) -> tuple[str, dict[str, Any]]:
    """Which factory of torchaudio builds a model, and its parameters."""
    if facts.bundle is None:
        return "Wav2Vec2", digits.ARCHITECTURE
    bundle = getattr(torchaudio.pipelines, facts.bundle)
    return bundle._model_type, bundle._params


def build(kind: str, params: dict[str, Any], seed: int) -> Wav2Vec2Model:
    """A model in eval mode, reproducibly filled. The values are those of no training; exactness does not mind."""
    with torch.device("meta"):
        model = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}[kind](**params)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(_BLOCK, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(name, parameter, block, int(torch.randint(_BLOCK, (), generator=generator)))
    return model


def wrapped(model: Wav2Vec2Model, facts: ModelFacts) -> torch.nn.Module:
    """The model as its bundle gives it, with torchaudio's own wrapper where the bundle has one; MMS_FA's star off."""
    log_probs = facts.values == "log_probs"
    if not facts.body.normalize_waveform and not log_probs:
        return model
    return _extend_model(model, facts.body.normalize_waveform, apply_log_softmax=log_probs).eval()


def _fill(name: str, parameter: torch.Tensor, block: torch.Tensor, offset: int) -> None:
    scale, shift = 0.1, 0.0  # a bias
    if "norm.weight" in name or "const" in name:
        shift = 1.0
    elif "original0" in name:  # the norms of a tap's weights over all channels
        scale, shift = 0.2, 2.0
    elif "original1" in name:
        scale = 1.0
    elif "rel_attn_embed" in name:
        scale = 0.5
    elif parameter.dim() > 1:
        scale = parameter[0].numel() ** -0.5
    size = min(_BLOCK, parameter.numel())
    values = torch.cat([block[offset : offset + size], block[: max(0, offset + size - _BLOCK)]]) * scale + shift
    for piece in parameter.view(-1).split(_BLOCK):
        piece.copy_(values[: len(piece)])
