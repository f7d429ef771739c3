"""Computes a one-dimensional convolution as matrix products over frames that are stored one after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Convolution(nn.Module):
    """A convolution and its norm, with the weights of one of torchaudio's `ConvLayerBlock`s.

    Attributes:
        weight: `(kernel x channels in, channels out)`, in the order in which the frames of a window are stored.
        outer_sum: For `_pairwise`: the sum of the weights of the first and the last tap.
        last_and_middle: For `_pairwise`: the weights of the last tap, followed by those of the middle tap.
        bias: `(channels out,)` or `None`.
        norm: The norm after the convolution, if any.
    """

    weight: Tensor
    outer_sum: Tensor
    last_and_middle: Tensor
    bias: Tensor | None

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.kernel: int = block.kernel_size
        self.stride: int = block.stride
        self.pairs = (self.kernel, self.stride) == (3, 2)
        weight = block.conv.weight.detach().permute(2, 1, 0).flatten(0, 1).contiguous()
        self.register_buffer("weight", weight)
        first, middle, last = weight.split(len(weight) // 3) if self.pairs else (weight[:0],) * 3
        self.register_buffer("outer_sum", first + last)
        self.register_buffer("last_and_middle", torch.cat([last, middle]))
        self.register_buffer("bias", None if block.conv.bias is None else block.conv.bias.detach())
        # torchaudio's own layer norm transposes channels and time. Here channels come last, so a plain one will do.
        self.norm: nn.Module | None = block.layer_norm
        if isinstance(block.layer_norm, nn.LayerNorm):
            self.norm = nn.LayerNorm(block.conv.out_channels, eps=block.layer_norm.eps)
            self.norm.load_state_dict(block.layer_norm.state_dict())

    def num_frames(self, num_frames: Tensor) -> Tensor:
        """Return the number of frames after the convolution."""
        return (num_frames - self.kernel).div(self.stride, rounding_mode="floor") + 1

    def forward(self, x: Tensor, out: Tensor | None = None, fused: bool = False) -> Tensor:
        """Compute the convolution.

        Windows overlap, and a matrix product cannot read overlapping rows in place. Windows that are cut at the stride
        do not overlap. So a kernel of 3 with stride 2 becomes a product over pairs of frames, and one over the frame
        after each pair.

        Args:
            x: `(frames, channels in)`. Its values may be overwritten.
            out: Takes the result, if given.
            fused: Whether to use `convolve`.

        Returns:
            `(frames, channels out)`.
        """
        size = (len(x) - self.kernel) // self.stride + 1
        result = x.new_empty((size, self.weight.shape[1])) if out is None else out
        if fused:
            convolve(x, self.weight, self.stride, result)
            if self.bias is not None:
                result.add_(self.bias)
        elif self.pairs and x.dtype == torch.float32 and not x.is_cuda:
            paired = size // 2
            self._pairwise(x, result[: 2 * paired])
            self._plain(x[4 * paired :], result[2 * paired :])
        else:
            self._plain(x, result)
        return result

    def _plain(self, x: Tensor, result: Tensor) -> None:
        channels = x.shape[1]
        for tap in range(0, self.kernel, self.stride):
            width = min(self.stride, self.kernel - tap) * channels
            shape, strides = (len(result), width), (self.stride * channels, 1)
            windows = x.as_strided(shape, strides, x.storage_offset() + tap * channels)
            weight = self.weight[tap * channels : tap * channels + width]
            if tap > 0:
                result.addmm_(windows, weight)
            else:
                self._begin(windows, weight, result)

    def _pairwise(self, x: Tensor, result: Tensor) -> None:
        """Compute two frames at a time for a kernel of 3 with stride 2, with five products of channels instead of six.

        The outer taps a and c apply only to even frames e, and two consecutive results share the even frame e1
        (Winograd's F(2, 2)): e0 a + e1 c = (e0 - e1) a + e1 (a + c), and e1 a + e2 c = (e2 - e1) c + e1 (a + c).
        The differences overwrite e0 and e1 in `x`, next to the odd frames for the middle tap.
        """
        channels, pairs = x.shape[1], len(result) // 2
        strides = (4 * channels, 1)
        fours = x.as_strided((pairs, 4 * channels), strides, x.storage_offset())
        before, shared = fours[:, :channels], fours[:, 2 * channels : 3 * channels]
        after = x.as_strided((pairs, channels), strides, x.storage_offset() + 4 * channels)
        firsts, seconds = result.view(pairs, 2, -1).unbind(1)
        self._begin(shared, self.outer_sum, firsts)
        seconds.copy_(firsts)
        difference = after - shared
        before.sub_(shared)
        shared.copy_(difference)
        firsts.addmm_(fours[:, : 2 * channels], self.weight[: 2 * channels])
        seconds.addmm_(fours[:, 2 * channels :], self.last_and_middle)

    def _begin(self, windows: Tensor, weight: Tensor, result: Tensor) -> None:
        """Write the first product to `result`, with the bias."""
        if self.bias is None:
            torch.mm(windows, weight, out=result)
        else:
            torch.addmm(self.bias, windows, weight, out=result)


def convolve(x: Tensor, weight: Tensor, stride: int, out: Tensor) -> None:
    """Compute a convolution as one batched product.

    A matrix product reads no rows that overlap: on CUDA, torch copies a matrix whose rows begin closer to each other
    than they are long (`prepare_matrix_for_cublas` in aten/src/ATen/native/cuda/Blas.cpp). It does not look at how far
    the matrices of a batch are apart. So each of them has every n-th window, and together they have all.

    Args:
        x: `(frames, channels in)`, stored one after another.
        weight: `(kernel x channels in, channels out)`.
        stride: Frames from one window to the next.
        out: `(windows, channels out)`, which takes the result.
    """
    step, size = stride * x.shape[1], len(weight)
    matrices = -(-size // step)
    rows = len(out) // matrices
    whole = matrices * rows
    windows = x.as_strided((matrices, rows, size), (step, matrices * step, 1), x.storage_offset())
    interleaved = out[:whole].view(rows, matrices, out.shape[1]).transpose(0, 1)
    torch.bmm(windows, weight.expand(matrices, -1, -1), out=interleaved)
    if whole < len(out):
        rest = x.as_strided((len(out) - whole, size), (step, 1), x.storage_offset() + whole * step)
        torch.mm(rest, weight, out=out[whole:])
