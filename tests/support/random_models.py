"""Models of torchaudio's architectures with random values that keep their activations sane, made in no time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torchaudio.models import Wav2Vec2Model, wav2vec2_model, wavlm_model
from torchaudio.pipelines._wav2vec2.utils import _extend_model

from pipeline.models.architectures import architecture_of
from pipeline.models.facts import ModelFacts

if TYPE_CHECKING:  # benchmarks use this module too, where pytest may not be installed
    import pytest

_BLOCK = 1_000_003
"""Random values drawn; a tensor repeats them from a place of its own. A prime, so that no two rows line up."""
_ALIGNED = 16
"""Such places are multiples of it: where torch would have put a tensor of float32."""


def architecture(facts: ModelFacts) -> tuple[str, dict[str, Any]]:
    """Which factory of torchaudio builds a model, and its parameters."""
    found = architecture_of(facts.name)
    return found.kind, found.params


def build(kind: str, params: dict[str, Any], seed: int) -> Wav2Vec2Model:
    """A model in eval mode, reproducibly filled. The values are those of no training; exactness does not mind.

    Its parameters share memory, as windows of a few long rows of values, and are not to be changed in place: the
    widest model would be 8 GB, which takes longer to fill than to run.
    """
    with torch.device("meta"):
        model = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}[kind](**params).eval()
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(_BLOCK, generator=generator)
    parameters = dict(model.named_parameters())
    spreads = {name: _spread(name, parameter) for name, parameter in parameters.items()}
    rows = {}
    for spread in set(spreads.values()):
        scale, shift = spread
        longest = max(parameters[name].numel() for name in parameters if spreads[name] == spread)
        rows[spread] = (block * scale + shift).repeat(2 + longest // _BLOCK)
    values = {}
    for name, parameter in parameters.items():
        offset = int(torch.randint(_BLOCK // _ALIGNED, (), generator=generator)) * _ALIGNED
        values[name] = rows[spreads[name]][offset : offset + parameter.numel()].view(parameter.shape)
    model.load_state_dict(values, assign=True)
    return model


def build_undrawn(patch: pytest.MonkeyPatch) -> None:
    """Let torchaudio build models without drawing values: a single NaN each, which those of a file then replace."""
    for name in ("kaiming_uniform_", "normal_", "uniform_", "xavier_uniform_"):
        patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor.data[(0,) * tensor.dim()].fill_(torch.nan))


def wrapped(model: Wav2Vec2Model, facts: ModelFacts) -> torch.nn.Module:
    """The model as its bundle gives it, with torchaudio's own wrapper where the bundle has one; MMS_FA's star off."""
    log_probs = facts.values == "log_probs"
    if not facts.body.normalize_waveform and not log_probs:
        return model
    return _extend_model(model, facts.body.normalize_waveform, apply_log_softmax=log_probs).eval()


def _spread(name: str, parameter: torch.Tensor) -> tuple[float, float]:
    """Standard deviation and mean of a parameter's values."""
    if "norm.weight" in name or "const" in name:
        return 0.1, 1.0
    if "original0" in name:  # the norms of a tap's weights over all channels
        return 0.2, 2.0
    if "original1" in name:
        return 1.0, 0.0
    if "rel_attn_embed" in name:
        return 0.5, 0.0
    if parameter.dim() > 1:
        return parameter[0].numel() ** -0.5, 0.0
    return 0.1, 0.0  # a bias
