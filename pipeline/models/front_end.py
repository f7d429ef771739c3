"""The convolutional front end: waveforms to frames, so that padding and neighbours never count.

Seven convolutions, as products of matrices over frames that lie one after the other in memory: a window of
`kernel` frames is then a stretch of it, and no convolution, norm or activation needs to turn the largest
activations of the network around. On two CPU cores that takes half to two thirds of the time of torchaudio's modules.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.convolution import Convolution

EARLY = 4
"""Convolutions whose frames are so many that on a CPU they are done a tile at a time, which stays in its caches."""
TILE_FRAMES = 1024
"""Frames after the early convolutions in a tile: 2.6 s, 16 MB after the first convolution."""


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
            self.layers.append(Convolution(block).to(torch.float32 if index == 0 else dtype))

    @property
    def convolutions(self) -> list[Convolution]:
        """The convolutions, in order."""
        return cast("list[Convolution]", list(self.layers))

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(convolution.stride for convolution in self.convolutions)

    def forward(self, waveforms: Tensor, lengths: Tensor, together: bool) -> tuple[Tensor, Tensor]:
        """Convolve.

        The waveforms become one signal, each beginning at a multiple of `stride`, where its frames begin too at
        every convolution. Frames that reach from one into the next are nobody's and fall away at the end. So
        every convolution is one product whatever the batch: a product for each utterance leaves a core of two
        without work in every odd batch, and padded frames are work for nothing.

        Args:
            waveforms: `(batch, samples)` float32, zero beyond each length.
            lengths: `(batch,)` int64 on the host: valid samples.
            together: Whether to do all at once, as a GPU wants it, or in tiles.

        Returns:
            `(total frames, channels)`, the utterances one after another, and the frames of each, `(batch,)` int64 on
            the host.
        """
        if self.normalize_waveform:
            waveforms = normalized(waveforms, lengths)
        first = self.convolutions[0]
        folded = None
        if isinstance(first.norm, nn.GroupNorm):
            folded = _fold_group_norm(waveforms, first.num_frames(lengths).to(waveforms.device), first)
        signal, places = self._signal(waveforms, lengths, together)
        x = self._early(signal, places, folded, together)
        for convolution in self.convolutions[EARLY:]:
            x = gelu_(_normed(convolution(x), convolution))
        num_frames = lengths
        for convolution in self.convolutions:
            num_frames = convolution.num_frames(num_frames)
        begins = [place // self.stride for place in places]
        pieces = [x[begin : begin + count] for begin, count in zip(begins, num_frames.tolist(), strict=False)]
        return torch.cat(pieces), num_frames

    def most_values(self, num_samples: int, together: bool) -> float:
        """Values of the largest activation for so many samples of a batch."""
        first, *others = self.convolutions[:EARLY]
        channels, stride = first.weight.shape[1], math.prod(convolution.stride for convolution in others)
        largest = num_samples / first.stride * channels
        if together:
            return largest
        return min(largest, TILE_FRAMES * stride * channels) + largest / stride

    def _signal(self, waveforms: Tensor, lengths: Tensor, together: bool) -> tuple[Tensor, list[int]]:
        """The waveforms one after another, `(samples,)`, and where each begins, with the end of the last.

        All at once take the same room, so that the first convolution, whose weights are each utterance's own, is one
        batched product; in tiles each takes its own.
        """
        stride, first = self.stride, self.convolutions[0]
        sizes = [-(-length // stride) * stride for length in lengths.tolist()]
        if together:
            sizes = [max(sizes)] * len(sizes)
        places = [*itertools.accumulate(sizes, initial=0)]
        # The last window of the first convolution reaches beyond its stride.
        signal = waveforms.new_zeros(places[-1] + max(0, first.kernel - first.stride))
        for place, waveform, size in zip(places, waveforms, sizes, strict=False):
            waveform = waveform[:size]
            signal[place : place + len(waveform)] = waveform
        return signal, places

    def _early(
        self, signal: Tensor, places: Sequence[int], folded: tuple[Tensor, Tensor] | None, together: bool
    ) -> Tensor:
        """The early convolutions: `(samples,)` to `(frames, channels)`."""
        first, *others = self.convolutions[:EARLY]
        stride = math.prod(convolution.stride for convolution in others)
        windows = signal.unfold(0, first.kernel, first.stride)
        receptive_field = 1
        for convolution in reversed(others):
            receptive_field = (receptive_field - 1) * convolution.stride + convolution.kernel
        frames = (len(windows) - receptive_field) // stride + 1
        size = frames if together else TILE_FRAMES
        result = signal.new_empty((frames, others[-1].weight.shape[1]), dtype=others[-1].weight.dtype)
        for begin in range(0, frames, size):
            end = min(begin + size, frames)
            tile = slice(begin * stride, (end - 1) * stride + receptive_field)
            if folded is None:
                x = _normed(F.linear(windows[tile], first.weight.T, first.bias), first)
            elif together:
                x = self._folded_together(windows, len(places) - 1, folded)[tile]
            else:
                x = self._folded_alone(windows, tile, places, folded)
            x = gelu_(x).to(result.dtype)
            for convolution in others[:-1]:
                x = gelu_(_normed(convolution(x), convolution))
            convolution = others[-1]
            out = result[begin:end]
            x = _normed(convolution(x, out), convolution)
            if x is not out:
                out.copy_(x)
            gelu_(out)
        return result

    def _folded_alone(
        self, windows: Tensor, tile: slice, places: Sequence[int], folded: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The first convolution and its group norm in a tile of windows, utterance after utterance."""
        first = self.convolutions[0]
        x = windows.new_empty((tile.stop - tile.start, first.weight.shape[1]))
        # The shift as one more row of the weights: added on its own it would be a pass over all of the output.
        extended = windows.new_ones((len(x), first.kernel + 1))
        for index, (place, end) in enumerate(itertools.pairwise(places)):
            begin, end = max(place // first.stride, tile.start), min(end // first.stride, tile.stop)
            if begin >= end:
                continue
            own = slice(begin - tile.start, end - tile.start)
            mean, weight = folded[0][index], folded[1][index]
            torch.sub(windows[begin:end], mean, out=extended[own, : first.kernel])
            torch.mm(extended[own], weight, out=x[own])
        return x

    def _folded_together(self, windows: Tensor, batch: int, folded: tuple[Tensor, Tensor]) -> Tensor:
        """The same for all windows of utterances that take the same room."""
        mean, weight = folded
        by_utterance = windows.reshape(batch, -1, windows.shape[1])
        extended = weight.new_ones((*by_utterance.shape[:2], windows.shape[1] + 1))
        torch.sub(by_utterance, mean, out=extended[:, :, :-1])
        return torch.bmm(extended, weight).flatten(0, 1)


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
        layer: The `Convolution`.

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


def _normed(x: Tensor, convolution: Convolution) -> Tensor:
    """With the layer norm of a convolution, if it has one."""
    return x if convolution.norm is None else cast(Tensor, convolution.norm(x))


def gelu_(x: Tensor) -> Tensor:
    """`gelu` in place: `torch.nn.functional` has none, and these activations are the largest there are."""
    result: Tensor = torch.ops.aten.gelu_(x)
    return result


def padding_mask(num_valid: Tensor, size: int) -> Tensor:
    """`(batch, size)` bool, true beyond each utterance's valid samples or frames."""
    return torch.arange(size, device=num_valid.device)[None] >= num_valid[:, None]
