"""Attention within each of many utterances whose frames are packed one after another without padding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.packing import frame_index, padding_mask, to_device

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Computes attention, `(total frames, dim)`, from query, key and value, each `(total frames, heads, width)`, and from
WavLM's gates."""


class AttentionPerUtterance:
    """Computes attention one utterance at a time, with torch's fused kernels."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = list(counts)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, gates: Tensor | None) -> Tensor:
        """Compute attention, `(total frames, dim)`."""
        pieces = zip(*(torch.split(part, self.counts) for part in (query, key, value)), strict=True)
        attended = []
        for piece, mask in zip(pieces, self._masks(gates), strict=True):
            by_head = [part.transpose(0, 1)[None] for part in piece]
            attended.append(F.scaled_dot_product_attention(by_head[0], by_head[1], by_head[2], attn_mask=mask)[0])
        return torch.cat([each.transpose(0, 1).flatten(1) for each in attended])

    def _masks(self, gates: Tensor | None) -> Sequence[Tensor | None]:
        return [None] * len(self.counts)


class AttentionWithPositionBias(AttentionPerUtterance):
    """Computes WavLM's attention, which adds a bias by the distance of two frames, weighted by a gate per frame."""

    def __init__(self, bias: Tensor, counts: Sequence[int]) -> None:
        """`bias` is the result of `position_bias` for the longest utterance."""
        super().__init__(counts)
        self.bias = bias

    def _masks(self, gates: Tensor | None) -> Sequence[Tensor | None]:
        assert gates is not None
        size = self.bias.shape[-1]
        # The bias depends only on the distance, so the bias of a shorter utterance is a corner of that of the longest.
        return [
            (gate * self.bias[0, :, :count, :count])[None] if count < size else (gate * self.bias[0])[None]
            for gate, count in zip(torch.split(gates, self.counts, dim=1), self.counts, strict=True)
        ]


class PackedFlashAttention:
    """Computes flash attention over all packed utterances in one call, on CUDA in half precision."""

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        ends = list(itertools.accumulate(counts, initial=0))
        self.ends = to_device(torch.tensor(ends, dtype=torch.int32), device)
        self.longest = max(counts)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, gates: Tensor | None) -> Tensor:
        """Compute attention, `(total frames, dim)`."""
        from torch.nn.attention.varlen import varlen_attn  # a prototype in torch 2.11, and only for CUDA

        attended = varlen_attn(query, key, value, self.ends, self.ends, self.longest, self.longest)
        assert isinstance(attended, Tensor)
        return attended.flatten(1)


class PaddedAttention:
    """Computes attention over all utterances in one call, with their frames padded to the longest.

    This is for a GPU where `PackedFlashAttention` cannot be used: in float32, and with WavLM's position bias. There the
    calls for one utterance after another take more time than the padding.
    """

    def __init__(self, counts: Sequence[int], like: Tensor, wavlm: Any = None) -> None:
        """Prepare the masks.

        Args:
            counts: Number of frames of each utterance.
            like: A tensor of the type and on the device of query, key and value.
            wavlm: The `attention` of `position_bias`, for WavLM.
        """
        longest = -(-max(counts) // 8) * 8  # torch would copy a mask whose rows are not aligned
        self.shape = len(counts), longest
        index = frame_index(range(0, len(counts) * longest, longest), counts)
        self.index = to_device(index, like.device)
        beyond = padding_mask(to_device(torch.tensor(counts), like.device), longest)[:, None, None]
        self.beyond = like.new_zeros(beyond.shape).masked_fill_(beyond, -torch.inf)
        self.bias = None if wavlm is None else position_bias(wavlm, longest).to(like.dtype)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, gates: Tensor | None) -> Tensor:
        """Compute attention, `(total frames, dim)`."""
        mask = self.beyond
        if self.bias is not None and gates is not None:
            mask = torch.addcmul(mask, self._padded(gates.transpose(0, 1)), self.bias)
        query, key, value = self._padded(query), self._padded(key), self._padded(value)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).flatten(0, 1).index_select(0, self.index).flatten(1)

    def _padded(self, x: Tensor) -> Tensor:
        """Pad `(total frames, heads, width)` to `(batch, heads, longest, width)`."""
        batch, longest = self.shape
        padded = x.new_zeros((batch * longest, *x.shape[1:])).index_copy_(0, self.index, x)
        return padded.view(batch, longest, *x.shape[1:]).transpose(1, 2)


def position_bias(attention: Any, frames: int) -> Tensor:
    """Compute WavLM's relative position bias, which each layer weights with its own gates.

    The bias depends only on the distance between two frames. So this function looks it up once per distance, while
    `WavLMSelfAttention.compute_bias` does so for each pair of frames of each utterance.

    Args:
        attention: torchaudio's `WavLMSelfAttention` of the first layer, which has the embedding.
        frames: Number of frames of the longest utterance.

    Returns:
        `(1, heads, frames, frames)`.
    """
    distances = torch.arange(1 - frames, frames)
    buckets = attention._relative_positions_bucket(distances, bidirectional=True)
    by_distance = attention.rel_attn_embed(to_device(buckets, attention.rel_attn_embed.weight.device)).T
    # Row 0 of `unfold` begins at distance 1 - frames, which belongs to the last query. So the rows are reversed.
    bias: Tensor = by_distance.unfold(1, frames, 1).flip(1)[None]
    return bias
