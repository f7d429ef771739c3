"""The convolutional front end, which computes frames from waveforms independently of padding and of other utterances.

The seven convolutions are matrix products over frames that are stored one after another in memory. A window of `kernel`
frames is then contiguous, and no convolution, norm or activation has to transpose the network's largest activations. On
two CPU cores this takes half to two thirds of the time of torchaudio's modules.
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
from pipeline.models.packing import frame_index, padding_mask, to_device

EARLY = 4
"""Number of first convolutions that a CPU computes tile by tile. Their many frames do not fit into its caches; a tile
does."""
TILE_FRAMES = 1024
"""Frames of a tile after the early convolutions. They are 2.6 s of audio, and 16 MB after the first convolution."""


class FrontEnd(nn.Module):
    """torchaudio's `FeatureExtractor`, preceded by the normalisation of the waveform that some bundles add.

    Stock torchaudio includes the padding in two statistics, so that the result for an utterance depends on the others
    in its batch (pytorch/audio#2242, #3094). These are the statistics of the group norm after the first convolution
    (base models) and of the waveform (`layer_norm(waveforms, waveforms.shape)` in
    torchaudio/pipelines/_wav2vec2/utils.py). Here both are computed from the valid samples of each utterance. The layer
    norms of the large models act on single frames and need no change.

    The first convolution and its norm always use float32. Their input is the waveform itself, and in half precision
    their statistics overflow or lose digits.
    """

    def __init__(
        self,
        blocks: Iterable[Any],
        normalize_waveform: bool,
        dtype: torch.dtype,
        normalize_epsilon: float = 1e-5,
        fused: bool = False,
    ) -> None:
        """Take the weights of torchaudio's `ConvLayerBlock`s.

        Args:
            blocks: The blocks, two at least; the first has one input channel. Either each block has a layer norm, or
                the first has a group norm with one channel per group and the others have no norm.
            normalize_waveform: Whether to scale every utterance to mean 0 and variance 1 first.
            dtype: Type of all convolutions except the first.
            normalize_epsilon: What is added to the variance of an utterance.
            fused: Whether to use the kernels of `fused.py`.

        Raises:
            ValueError: The blocks have other norms.
        """
        super().__init__()
        self.normalize_waveform, self.normalize_epsilon = normalize_waveform, normalize_epsilon
        self.fused = fused
        self.layers = nn.ModuleList()
        for index, block in enumerate(blocks):
            norm = block.layer_norm
            grouped = index == 0 and isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels
            plain = norm is None and index > 0 and isinstance(self.convolutions[0].norm, nn.GroupNorm)
            if not (grouped or plain or isinstance(norm, nn.LayerNorm)):
                raise ValueError(f"convolution {index + 1} has {type(norm).__name__}, which is not supported")
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
        """Compute the frames of all utterances.

        The waveforms are joined to one signal, in which each begins at a multiple of `stride`. So the frames of each
        begin on the same grid after every convolution. Frames that span two utterances are dropped at the end. This way
        every convolution is one product for the whole batch. One product per utterance would leave one of two cores
        idle in every batch of odd size, and padding would be computed for nothing.

        Args:
            waveforms: `(batch, samples)` float32, zero beyond each length.
            lengths: `(batch,)` int64 on the host, valid samples of each waveform.
            together: Whether to compute the whole batch at once, which is fastest on a GPU, or in tiles.

        Returns:
            `(total frames, channels)`, the utterances one after another; and `(batch,)` int64 on the host, the number
            of frames of each utterance.
        """
        if self.normalize_waveform:
            waveforms = normalized(waveforms, lengths, self.normalize_epsilon, together)
        first = self.convolutions[0]
        folded = None
        if isinstance(first.norm, nn.GroupNorm):
            folded = _fold_group_norm(waveforms, to_device(first.num_frames(lengths), waveforms.device), first)
        signal, places = self._signal(waveforms, lengths, together)
        x = self._early(signal, places, folded, together)
        for convolution in self.convolutions[EARLY:]:
            x = self._activated(convolution(x, fused=self.fused), convolution)
        num_frames = lengths
        for convolution in self.convolutions:
            num_frames = convolution.num_frames(num_frames)
        begins = [place // self.stride for place in places[:-1]]
        if together:
            return x.index_select(0, to_device(frame_index(begins, num_frames.tolist()), x.device)), num_frames
        pieces = [x[begin : begin + count] for begin, count in zip(begins, num_frames.tolist(), strict=True)]
        return torch.cat(pieces), num_frames

    def most_values(self, num_samples: int, together: bool) -> float:
        """Return the number of values of the largest activation for a batch of `num_samples` samples."""
        first, *others = self.convolutions[:EARLY]
        channels, stride = first.weight.shape[1], math.prod(convolution.stride for convolution in others)
        largest = num_samples / first.stride * channels
        if together:
            return largest
        return min(largest, TILE_FRAMES * stride * channels) + largest / stride

    def _signal(self, waveforms: Tensor, lengths: Tensor, together: bool) -> tuple[Tensor, list[int]]:
        """Join the waveforms to one signal.

        With `together`, all utterances take the same number of samples. The first convolution, which has its own
        weights for each utterance, is then one batched product. In tiles, each utterance takes only its own length.

        Returns:
            The signal, `(samples,)`; and the first sample of each utterance in it, followed by the end of the last.
        """
        stride, first = self.stride, self.convolutions[0]
        sizes = [-(-length // stride) * stride for length in lengths.tolist()]
        if together:
            sizes = [max(sizes)] * len(sizes)
        places = [*itertools.accumulate(sizes, initial=0)]
        # The last window of the first convolution extends beyond its stride.
        signal = waveforms.new_zeros(places[-1] + max(0, first.kernel - first.stride))
        if together:
            whole = waveforms[:, : sizes[0]]
            signal[: places[-1]].view(len(sizes), -1)[:, : whole.shape[1]] = whole
            return signal, places
        for place, waveform, size in zip(places, waveforms, sizes, strict=False):
            waveform = waveform[:size]
            signal[place : place + len(waveform)] = waveform
        return signal, places

    def _early(
        self, signal: Tensor, places: Sequence[int], folded: tuple[Tensor, Tensor] | None, together: bool
    ) -> Tensor:
        """Compute the early convolutions, `(frames, channels)`, from the signal `(samples,)`."""
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
            if self.fused:
                x = self._first_fused(signal, folded, result.dtype)
            elif folded is None:
                x = gelu_(_normed(F.linear(windows[tile], first.weight.T, first.bias), first)).to(result.dtype)
            elif together:
                x = gelu_(self._folded_together(windows, len(places) - 1, folded)[tile]).to(result.dtype)
            else:
                x = gelu_(self._folded_alone(windows, tile, places, folded)).to(result.dtype)
            for convolution in others[:-1]:
                x = self._activated(convolution(x, fused=self.fused), convolution)
            convolution = others[-1]
            out = result[begin:end]
            x = self._activated(convolution(x, out, fused=self.fused), convolution)
            if x is not out:
                out.copy_(x)
        return result

    def _activated(self, x: Tensor, convolution: Convolution) -> Tensor:
        """Apply the layer norm of a convolution, if it has one, and GELU. `x` may be overwritten."""
        if self.fused and convolution.norm is not None:
            from pipeline.models.fused import norm_gelu_  # Triton need not be there

            return norm_gelu_(x, convolution.norm)
        return gelu_(_normed(x, convolution))

    def _first_fused(self, signal: Tensor, folded: tuple[Tensor, Tensor] | None, dtype: torch.dtype) -> Tensor:
        """Compute the first convolution with its norm and GELU."""
        from pipeline.models.fused import first_convolution

        first = self.convolutions[0]
        if folded is None:
            bias = torch.zeros_like(first.weight[0]) if first.bias is None else first.bias
            folded = signal.new_zeros((1, 1, first.kernel)), torch.cat([first.weight, bias[None]])[None]
        return first_convolution(signal, *folded, first, dtype)

    def _folded_alone(
        self, windows: Tensor, tile: slice, places: Sequence[int], folded: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Compute the first convolution and its group norm in a tile of windows, utterance after utterance."""
        first = self.convolutions[0]
        x = windows.new_empty((tile.stop - tile.start, first.weight.shape[1]))
        # The shift is one more row of the weights. Adding it separately would take another pass over the output.
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
        """Compute the first convolution and its group norm at once, for utterances of the same number of windows."""
        mean, weight = folded
        by_utterance = windows.reshape(batch, -1, windows.shape[1])
        extended = weight.new_ones((*by_utterance.shape[:2], windows.shape[1] + 1))
        torch.sub(by_utterance, mean, out=extended[:, :, :-1])
        return torch.bmm(extended, weight).flatten(0, 1)


def normalized(waveforms: Tensor, lengths: Tensor, epsilon: float = 1e-5, together: bool = False) -> Tensor:
    """Scale each waveform to mean 0 and variance 1 over its valid samples; the rest is zero.

    The function applies the same operation as stock torchaudio does to a recording alone. In float32 this operation
    loses digits if a recording has an offset, and layer norms amplify the difference in quiet frames. So another
    formula would give other results. `together` only computes the statistics in another way, in float64 for all
    waveforms at once, and rounds them to float32. Mostly, that changes no bit.

    Args:
        waveforms: `(batch, samples)` float32, zero beyond each length.
        lengths: `(batch,)` on the host, valid samples of each waveform.
        epsilon: What is added to the variance.
        together: Whether to compute all waveforms at once, which is fastest on a GPU.

    Returns:
        `(batch, samples)` float32.
    """
    if together:
        counts = to_device(lengths, waveforms.device)[:, None]
        wide, beyond = waveforms.double(), padding_mask(counts[:, 0], waveforms.shape[1])
        mean = wide.sum(1, keepdim=True) / counts
        variance = wide.sub_(mean).masked_fill_(beyond, 0.0).square_().sum(1, keepdim=True) / counts
        scale = torch.rsqrt(variance + epsilon).float()
        return waveforms.sub(mean.float()).mul_(scale).masked_fill_(beyond, 0.0)
    result = torch.zeros_like(waveforms)
    for row, waveform, length in zip(result, waveforms, lengths.tolist(), strict=True):
        row[:length] = F.layer_norm(waveform[:length], (length,), eps=epsilon)
    return result


def _fold_group_norm(waveforms: Tensor, num_frames: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
    """Fold the group norm into the weights of the first convolution, so that both are one product.

    The convolution has one input channel. For a window u of the waveform, a channel of its output is w.u + bias. The
    mean of the channel over time is w.m + bias and its variance w'Cw, where m and C are the mean and the covariance of
    the valid windows. The bias cancels. So the statistics can be computed without the output of the convolution, which
    is the largest activation of the network, and the norm becomes a scale of the weights, different for each utterance.
    The computation uses float64, because C is a difference of squares that may nearly cancel.

    Args:
        waveforms: `(batch, samples)` float32.
        num_frames: `(batch,)` valid frames of this convolution, on the same device.
        layer: The `Convolution`.

    Returns:
        The mean window, `(batch, 1, kernel)`, which is to be subtracted from the windows; and
        `(batch, kernel + 1, channels)` float32, the weights with the shift as last row.
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
    # The mean is rounded to float32; the shift makes up for the rounding error.
    rounded = mean.float()
    scaled = weight * scale[:, None]
    shift = layer.norm.bias.double() + (rounded.double() - mean) @ scaled
    return rounded, torch.cat([scaled, shift], dim=1).float()


def _normed(x: Tensor, convolution: Convolution) -> Tensor:
    """Apply the layer norm of a convolution, if it has one."""
    return x if convolution.norm is None else cast(Tensor, convolution.norm(x))


def gelu_(x: Tensor) -> Tensor:
    """Apply `gelu` in place. `torch.nn.functional` has no such function, and these activations are large."""
    result: Tensor = torch.ops.aten.gelu_(x)
    return result
