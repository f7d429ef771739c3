"""The exact forward: one pass gives emissions and layers, and padding never changes an answer.

Stock torchaudio computes the statistics of the first convolution's group norm over the padding too, so an
utterance's logits depend on its neighbours (pytorch/audio#2242, #3094). Here they are taken over the valid
frames of each utterance alone. Everything else of torchaudio's batched forward is sound and used as it is:
valid frames of a convolution see valid samples only, the padding is zeroed before the positional
convolution, and attention masks it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelOutput:
    """What one pass over a padded batch gives; rows beyond an utterance's frames mean nothing.

    Attributes:
        num_frames: `(batch,)` int64 on the host: valid frames of each utterance.
        logits: `(batch, frames, labels)` float32, or `None` for a model without labels.
        features: Layer number to `(batch, frames, dim)`, float32.
    """

    num_frames: Tensor
    logits: Tensor | None
    features: dict[int, Tensor]


class ExactForward(nn.Module):
    """Runs a torchaudio wav2vec2 model so that batched equals alone.

    The first convolution and its norm stay in float32 whatever the precision: their input is the waveform
    itself, and their statistics overflow or lose digits in half precision.
    """

    def __init__(self, model: Wav2Vec2Model, precision: str = "fp32") -> None:
        """Take over `model` (its weights are cast and its weight norm is folded in place).

        Args:
            model: With a group-norm front end, in eval mode.
            precision: fp32, bf16 or fp16.

        Raises:
            ValueError: The model has no group norm in its first convolution.
        """
        super().__init__()
        first, *others = model.feature_extractor.conv_layers
        if not isinstance(first.layer_norm, nn.GroupNorm):
            raise ValueError(f"the first convolution has {type(first.layer_norm).__name__}, not a group norm")
        self.model = model
        self.dtype = PRECISIONS[precision]
        position = model.encoder.transformer.pos_conv_embed
        position.conv = _folded(position.conv)
        # In float16 the positional convolution, 128 taps wide over 48 or more channels, overflows.
        self.position_dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        position.to(self.position_dtype)
        transformer = model.encoder.transformer
        halved = [*others, model.encoder.feature_projection, transformer.layers, transformer.layer_norm, model.aux]
        for module in halved:
            if module is not None:
                module.to(self.dtype)

    @torch.inference_mode()
    def forward(self, waveforms: Tensor, lengths: Tensor, layers: Collection[int]) -> ModelOutput:
        """Run the model once.

        Args:
            waveforms: `(batch, samples)` float32, zero beyond each length, on the model's device.
            lengths: `(batch,)` int64 on the host: valid samples.
            layers: Layers whose output to keep; 1 is the first transformer layer.
        """
        x, num_frames = self._front_end(waveforms, lengths)
        x = self.model.encoder.feature_projection(x)
        mask = None
        if int(num_frames.min()) < x.shape[1]:
            padding = _padding(num_frames.to(x.device), x.shape[1])
            x = x.masked_fill(padding[:, :, None], 0.0)
            # Additive and finite, as torchaudio's own: exp(-10000) is 0 in every precision.
            mask = (-10000.0 * padding[:, None, None, :]).to(x.dtype).expand(-1, 1, x.shape[1], -1)
        transformer = self.model.encoder.transformer
        x = x + transformer.pos_conv_embed(x.to(self.position_dtype)).to(x.dtype)
        if transformer.layer_norm_first:
            x = transformer.layer_norm(x)
        features = {}
        for number, layer in enumerate(transformer.layers, start=1):
            x, _ = layer(x, mask)
            if number in layers:
                features[number] = x.float()
        if not transformer.layer_norm_first:
            x = transformer.layer_norm(x)
        logits = None if self.model.aux is None else self.model.aux(x).float()
        return ModelOutput(num_frames=num_frames, logits=logits, features=features)

    def _front_end(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolutions: `(batch, samples)` to `(batch, frames, channels)`, and the valid frames of each."""
        first, *others = self.model.feature_extractor.conv_layers
        num_frames = (lengths - first.kernel_size).div(first.stride, rounding_mode="floor") + 1
        scale, shift = group_norm_affine(waveforms, num_frames.to(waveforms.device), first)
        x = F.conv1d(waveforms[:, None], first.conv.weight, stride=first.stride)
        x = F.gelu(x.mul_(scale[:, :, None]).add_(shift[:, :, None])).to(self.dtype)
        for block in others:
            x = F.gelu(block.conv(x))
            num_frames = (num_frames - block.kernel_size).div(block.stride, rounding_mode="floor") + 1
        return x.transpose(1, 2), num_frames


def group_norm_affine(waveforms: Tensor, num_frames: Tensor, block: Any) -> tuple[Tensor, Tensor]:
    """The group norm after the first convolution as one affine map a channel, from moments of the waveform.

    That convolution has one input channel, so with windows u of the waveform a channel is w.u + bias, its
    mean over time w.m + bias and its variance w'Cw, where m and C are mean and covariance of the valid
    windows. Neither touches the convolution's output, the largest activation of the network. Float64,
    because C is what remains of squares that may nearly cancel.

    Args:
        waveforms: `(batch, samples)` float32.
        num_frames: `(batch,)`: valid frames of the first convolution, on the same device.
        block: torchaudio's `ConvLayerBlock` with a `GroupNorm` of one channel a group.

    Returns:
        `scale` and `shift`, each `(batch, channels)` float32: the norm of `conv(x)` is `conv(x) * scale + shift`,
        where `conv` is the convolution without its bias.
    """
    conv, norm = block.conv, block.layer_norm
    windows = waveforms.unfold(1, block.kernel_size, block.stride)
    valid = ~_padding(num_frames, windows.shape[1])[:, :, None]
    count = num_frames.clamp(min=1)[:, None].double()
    windows = windows.double() * valid
    mean = windows.sum(1) / count
    centred = (windows - mean[:, None]) * valid
    covariance = centred.transpose(1, 2) @ centred / count[:, :, None]
    weight = conv.weight[:, 0].double()
    variance = torch.einsum("ci,bij,cj->bc", weight, covariance, weight).clamp(min=0)
    scale = norm.weight.double() / torch.sqrt(variance + norm.eps)
    shift = norm.bias.double() - mean @ weight.T * scale
    return scale.float(), shift.float()


def _folded(conv: nn.Conv1d) -> nn.Conv1d:
    """A convolution with its weight norm computed once.

    Not `remove_parametrizations`, which takes the weight away from every copy of the module as well: copies
    share the class that it edits.
    """
    plain = nn.Conv1d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0], padding=conv.padding[0], groups=conv.groups
    )
    plain.load_state_dict({"weight": conv.weight.detach(), "bias": conv.get_parameter("bias").detach()})
    return plain


def _padding(num_frames: Tensor, max_frames: int) -> Tensor:
    """`(batch, max_frames)` bool, true beyond each utterance's frames."""
    return torch.arange(max_frames, device=num_frames.device)[None] >= num_frames[:, None]
