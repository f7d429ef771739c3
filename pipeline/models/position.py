"""The positional convolution before the transformer, computed for packed utterances in three ways."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.convolution import convolve
from pipeline.models.front_end import gelu_
from pipeline.models.packing import frame_index, to_device

TAPS = 16
"""The positional convolution is computed in pieces of this many taps. It divides the kernel size of most models (128)
and of `digits` (32). Other kernels are filled up with taps of zero."""


class PositionalConvolution(nn.Module):
    """torchaudio's `ConvolutionalPositionalEmbedding`, with its weight norm computed only once.

    Attributes:
        lowered: `(groups, pieces of the kernel, TAPS x channels in, channels out)`, the weights as matrices. Each has
            the order in which consecutive frames are stored in memory.
        norm: The batch norm before the convolution, which some HuBERT models have in place of the weight norm.
    """

    lowered: Tensor

    def __init__(self, embedding: Any, dtype: torch.dtype, fused: bool) -> None:
        """Take the weights of an embedding.

        Args:
            embedding: torchaudio's `ConvolutionalPositionalEmbedding`.
            dtype: Type of weights and activations.
            fused: Whether to use `convolve` for a whole batch, in place of torch's grouped convolution.
        """
        super().__init__()
        self.fused = fused
        # In float16 the convolution, 128 taps wide over 48 or more channels, overflows.
        self.conv = _folded(embedding.conv).to(torch.float32 if dtype == torch.float16 else dtype)
        norm: nn.Module | None = getattr(embedding, "batch_norm", None)
        self.norm = None if norm is None else norm.to(self.conv.weight.dtype)
        self.groups, self.kernel = self.conv.groups, self.conv.kernel_size[0]
        width = self.conv.in_channels // self.groups
        self.taps = -(-self.kernel // TAPS) * TAPS
        weight = F.pad(self.conv.weight.detach(), (0, self.taps - self.kernel))
        weight = weight.view(self.groups, width, width, self.taps // TAPS, TAPS)
        self.register_buffer("lowered", weight.permute(0, 3, 4, 2, 1).flatten(2, 3).contiguous(), persistent=False)

    def forward(self, x: Tensor, counts: Sequence[int], together: bool) -> Tensor:
        """Compute `(total frames, dim)` from `(total frames, dim)`. Each utterance has zeros beyond its ends.

        Args:
            x: The frames of the utterances, one after another.
            counts: Number of frames of each utterance.
            together: Whether to convolve all utterances at once, which is fastest on a GPU.
        """
        given = x.to(self.conv.weight.dtype)
        if self.norm is not None:
            given = self.norm(given)
        if not together:
            return F.gelu(self._lowered(given, counts)).to(x.dtype)
        if self.fused:
            return gelu_(self._at_once(given, counts)).to(x.dtype)
        batch, longest = len(counts), max(counts)
        index = to_device(frame_index(range(0, batch * longest, longest), counts), x.device)
        padded = given.new_zeros((batch * longest, given.shape[1])).index_copy_(0, index, given)
        convolved = F.gelu(self.conv(padded.view(batch, longest, -1).transpose(1, 2))).transpose(1, 2)
        # An even kernel returns one frame too many.
        return convolved[:, :longest].flatten(0, 1).index_select(0, index).to(x.dtype)

    def _lowered(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Compute the convolution as matrix products, on a CPU twice as fast as oneDNN's grouped convolution.

        Consecutive windows of the kernel overlap in all but one frame, and a matrix product cannot read overlapping
        rows in place. The kernel is therefore cut into pieces of `TAPS` taps, for which windows that are `TAPS` frames
        apart do not overlap. For each group of channels and each piece, there is one product for each of the `TAPS`
        offsets at which windows begin.
        """
        half = self.kernel // 2
        # Each utterance begins after half a kernel of zeros, and no window reaches from one into the next.
        gap = max(half, self.taps - 1 - half)
        places = [*itertools.accumulate((-(-count // TAPS) * TAPS + gap for count in counts), initial=half)]
        rows = -(-(places.pop() - half) // TAPS)
        frames = x.new_zeros((self.groups, rows * TAPS + self.taps, x.shape[1] // self.groups))
        for place, piece in zip(places, torch.split(x, list(counts)), strict=True):
            frames[:, place : place + len(piece)] = piece.view(len(piece), self.groups, -1).transpose(0, 1)
        width = frames.shape[2]
        results = x.new_empty((self.groups, TAPS, rows, width))
        for group, result, weights in zip(frames, results, self.lowered, strict=True):
            for index, weight in enumerate(weights):
                offset = group.storage_offset() + index * TAPS * width
                windows = group.as_strided((TAPS, rows, TAPS * width), (width, TAPS * width, 1), offset)
                if index == 0:
                    torch.bmm(windows, weight.expand(TAPS, -1, -1), out=result)
                else:
                    result.baddbmm_(windows, weight.expand(TAPS, -1, -1))
        by_frame = results.permute(2, 1, 0, 3).flatten(2).flatten(0, 1)
        pieces = [by_frame[place - half : place - half + count] for place, count in zip(places, counts, strict=True)]
        return torch.cat(pieces).add_(self.conv.get_parameter("bias"))

    def _at_once(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Compute the convolution as one batched product for each group of channels, over all utterances."""
        half, width = self.kernel // 2, x.shape[1] // self.groups
        gap = max(half, self.taps - 1 - half)  # of zeros, so that no window reaches from one utterance into the next
        places = [*itertools.accumulate((count + gap for count in counts), initial=0)]
        windows = -(-places.pop() // self.taps) * self.taps
        index = to_device(frame_index(places, counts), x.device)
        frames = x.new_zeros((windows + self.taps, x.shape[1])).index_copy_(0, index + half, x)
        by_group = frames.view(-1, self.groups, width).transpose(0, 1).contiguous()
        results = x.new_empty((self.groups, windows, width))
        for group, result, weight in zip(by_group, results, self.lowered.flatten(1, 2), strict=True):
            convolve(group, weight, 1, result)
        by_frame = results.index_select(1, index).transpose(0, 1).flatten(1)
        return by_frame.add_(self.conv.get_parameter("bias"))


def _folded(conv: nn.Conv1d) -> nn.Conv1d:
    """Copy a convolution with its weight norm computed.

    `remove_parametrizations` is not used, because it removes the weight from every copy of the module too: it edits the
    class, which the copies share.
    """
    plain = nn.Conv1d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0], padding=conv.padding[0], groups=conv.groups,
        device="meta",
    )  # fmt: skip
    plain.weight, plain.bias = nn.Parameter(conv.weight.detach()), nn.Parameter(conv.get_parameter("bias").detach())
    return plain
