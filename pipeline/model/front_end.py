"""The convolutional front end: waveforms to frames, so that padding and neighbours never count.

Seven convolutions, as products of matrices over frames that lie one after the other in memory: a window of
`kernel` frames is then a stretch of it, and no convolution, norm or activation needs to turn the largest
activations of the network around. On two CPU cores that takes half to two thirds of the time of torchaudio's modules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EARLY = 3
"""Convolutions whose frames are so many that on a CPU they are done a tile at a time, which stays in its caches."""
TILE_FRAMES = 1024
"""Frames after the early convolutions in a tile: 1.3 s of one utterance, 8 MB after the first convolution."""


class FrontEnd(nn.Module):
    """torchaudio's `FeatureExtractor`, and the normalisation of the waveform that its bundles put before it.

    Stock torchaudio takes two statistics over the padding too, so that an utterance depends on its neighbours
    (pytorch/audio#2242, #3094): those of the group norm after the first convolution (base models), and those of
    the waveform (`layer_norm(waveforms, waveforms.shape)` in torchaudio/pipelines/_wav2vec2/utils.py). Here
    both are those of each utterance's valid samples. The layer norms of the large models act on single frames.

    The first convolution and its norm stay in float32 whatever the precision: their input is the waveform
    itself, and their statistics overflow or lose digits in half precision.
    """

    def __init__(self, blocks: Iterable[Any], normalize_waveform: bool, dtype: torch.dtype) -> None:
        """Take the weights of torchaudio's `ConvLayerBlock`s.

        Args:
            blocks: The first of one input channel. Each has a layer norm, or the first has a group norm of one
                channel a group and the others nothing.
            normalize_waveform: Bring every utterance to mean 0 and variance 1 first.
            dtype: Of all convolutions but the first.

        Raises:
            ValueError: Norms that are neither.
        """
        super().__init__()
        self.normalize_waveform = normalize_waveform
        self.layers = nn.ModuleList()
        for index, block in enumerate(blocks):
            norm = block.layer_norm
            grouped = index == 0 and isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels
            plain = norm is None and index > 0 and isinstance(self.convolutions[0].norm, nn.GroupNorm)
            if not (grouped or plain or isinstance(norm, nn.LayerNorm)):
                raise ValueError(f"convolution {index + 1} has {type(norm).__name__}, which is not known here")
            self.layers.append(_Convolution(block).to(torch.float32 if index == 0 else dtype))

    @property
    def convolutions(self) -> list[_Convolution]:
        """The convolutions, in order."""
        return cast("list[_Convolution]", list(self.layers))

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(convolution.stride for convolution in self.convolutions)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve.

        Args:
            waveforms: `(batch, samples)` float32, zero beyond each length.
            lengths: `(batch,)` int64 on the host: valid samples.

        Returns:
            `(batch, frames, channels)`, and the valid frames of each utterance, `(batch,)` int64 on the host.
        """
        if self.normalize_waveform:
            waveforms = normalized(waveforms, lengths)
        first, *others = self.convolutions
        num_frames = first.num_frames(lengths)
        folded = None
        if isinstance(first.norm, nn.GroupNorm):
            folded = _fold_group_norm(waveforms, num_frames.to(waveforms.device), first)
        tiles = [self._early(tile, folded) for tile in self._tiles(waveforms)]
        x = torch.cat(tiles, dim=1) if len(tiles) > 1 else tiles[0]
        for convolution in others[EARLY - 1 :]:
            x = gelu_(_normed(convolution(x), convolution))
        for convolution in others:
            num_frames = convolution.num_frames(num_frames)
        return x, num_frames

    def _tiles(self, waveforms: Tensor) -> list[Tensor]:
        """Stretches of a batch of which the early convolutions give frames that follow one another."""
        early = self.convolutions[:EARLY]
        stride, receptive_field = math.prod(convolution.stride for convolution in early), 1
        for convolution in reversed(early):
            receptive_field = (receptive_field - 1) * convolution.stride + convolution.kernel
        batch, samples = waveforms.shape
        frames = (samples - receptive_field) // stride + 1
        if waveforms.is_cuda or frames * batch <= TILE_FRAMES:
            return [waveforms]
        size = max(1, TILE_FRAMES // batch)
        firsts = range(0, frames, size)
        lasts = [min(first + size, frames) - 1 for first in firsts]
        return [
            waveforms[:, first * stride : last * stride + receptive_field]
            for first, last in zip(firsts, lasts, strict=True)
        ]

    def _early(self, waveforms: Tensor, folded: tuple[Tensor, Tensor] | None) -> Tensor:
        """The early convolutions of a stretch: `(batch, samples)` to `(batch, frames, channels)`."""
        first, *others = self.convolutions[:EARLY]
        windows = waveforms.unfold(1, first.kernel, first.stride)
        if folded is None:
            x = _normed(F.linear(windows, first.weight.T, first.bias), first)
        else:
            mean, weight = folded
            # The shift as one more row of the weights: added on its own it would be a pass over all of the output.
            extended = weight.new_ones((*windows.shape[:2], first.kernel + 1))
            torch.sub(windows, mean, out=extended[:, :, : first.kernel])
            x = torch.bmm(extended, weight)
        x = gelu_(x).to(others[0].weight.dtype)
        for convolution in others:
            x = gelu_(_normed(convolution(x), convolution))
        return x


class _Convolution(nn.Module):
    """A convolution over frames that lie one after the other, `(batch, frames, channels)`, and its norm."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.kernel: int = block.kernel_size
        self.stride: int = block.stride
        # (kernel x channels in, channels out): the order in which a window lies in memory.
        weight = block.conv.weight.detach().permute(2, 1, 0).flatten(0, 1).contiguous()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if block.conv.bias is None else block.conv.bias.detach())
        # torchaudio's own layer norm turns channels and time around; here they lie as a plain one wants them.
        self.norm: nn.Module | None = block.layer_norm
        if isinstance(block.layer_norm, nn.LayerNorm):
            self.norm = nn.LayerNorm(block.conv.out_channels, eps=block.layer_norm.eps)
            self.norm.load_state_dict(block.layer_norm.state_dict())

    def num_frames(self, num_frames: Tensor) -> Tensor:
        """Frames after the convolution."""
        return (num_frames - self.kernel).div(self.stride, rounding_mode="floor") + 1

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `(batch, frames, channels)`.

        Windows overlap, which a matrix product cannot read in place; cut at the stride they do not. So a kernel
        of 3 with stride 2 is a product over pairs of frames and one over the frame after each pair.
        """
        batch, frames, channels = x.shape
        out = (frames - self.kernel) // self.stride + 1
        result: Tensor | None = None
        for tap in range(0, self.kernel, self.stride):
            width = min(self.stride, self.kernel - tap) * channels
            windows = x.as_strided(
                (batch, out, width), (frames * channels, self.stride * channels, 1), x.storage_offset() + tap * channels
            )
            weight = self.weight[tap * channels : tap * channels + width].expand(batch, -1, -1)
            if result is not None:
                result.baddbmm_(windows, weight)
            elif self.bias is None:
                result = torch.bmm(windows, weight)
            else:
                result = torch.baddbmm(self.bias, windows, weight)
        assert result is not None
        return result


def normalized(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Each waveform with mean 0 and variance 1 over its valid samples, and zero beyond.

    By the very operation that stock torchaudio applies to a recording alone, one at a time: in float32 it loses
    digits where a recording has an offset, and the layer norms over quiet frames make much of the difference.

    Args:
        waveforms: `(batch, samples)` float32.
        lengths: `(batch,)` on the host: valid samples.
    """
    result = torch.zeros_like(waveforms)
    for row, waveform, length in zip(result, waveforms, lengths.tolist(), strict=True):
        row[:length] = F.layer_norm(waveform[:length], (length,))
    return result


def _fold_group_norm(waveforms: Tensor, num_frames: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
    """The first convolution and its group norm as one product, from moments of the waveform.

    That convolution has one input channel, so with windows u of the waveform a channel is w.u + bias, its
    mean over time w.m + bias and its variance w'Cw, where m and C are mean and covariance of the valid
    windows. Neither touches the convolution's output, the largest activation of the network, and the norm
    becomes a scale of each utterance's own weights. Float64, because C is what remains of squares that may
    nearly cancel.

    Args:
        waveforms: `(batch, samples)` float32.
        num_frames: `(batch,)`: valid frames of this convolution, on the same device.
        layer: The `_Convolution`.

    Returns:
        The mean window, `(batch, 1, kernel)`, to be taken off the windows, and `(batch, kernel + 1, channels)`
        float32: weights, and as a last row what is added.
    """
    windows = waveforms.unfold(1, layer.kernel, layer.stride)
    valid = ~padding_mask(num_frames, windows.shape[1])[:, :, None]
    count = num_frames.clamp(min=1)[:, None, None].double()
    windows = windows.double() * valid
    mean = windows.sum(1, keepdim=True) / count
    centred = windows.sub_(mean).mul_(valid)
    covariance = centred.transpose(1, 2) @ centred / count
    weight = layer.weight.double()
    variance = torch.einsum("ic,bij,jc->bc", weight, covariance, weight).clamp(min=0)
    scale = layer.norm.weight.double() * torch.rsqrt(variance + layer.norm.eps)
    # The mean in float32 is not quite the mean; what is missing of it goes into the shift.
    rounded = mean.float()
    scaled = weight * scale[:, None]
    shift = layer.norm.bias.double() + (rounded.double() - mean) @ scaled
    return rounded, torch.cat([scaled, shift], dim=1).float()


def _normed(x: Tensor, convolution: _Convolution) -> Tensor:
    """With the layer norm of a convolution, if it has one."""
    return x if convolution.norm is None else cast(Tensor, convolution.norm(x))


def gelu_(x: Tensor) -> Tensor:
    """`gelu` in place: `torch.nn.functional` has none, and these activations are the largest there are."""
    result: Tensor = torch.ops.aten.gelu_(x)
    return result


def padding_mask(num_valid: Tensor, size: int) -> Tensor:
    """`(batch, size)` bool, true beyond each utterance's valid samples or frames."""
    return torch.arange(size, device=num_valid.device)[None] >= num_valid[:, None]
