"""The transformer, run on the frames of many utterances that are packed one after another without padding.

Without padding, no mask is needed. Linear layers and norms act on single frames. Only the positional convolution and
attention combine frames, and they do so within each utterance. The result equals torchaudio's `Encoder` on each
utterance alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.models.wav2vec2.wavlm_attention import WavLMSelfAttention

from pipeline.models.attention import (
    Attend,
    AttentionPerUtterance,
    AttentionWithPositionBias,
    PackedFlashAttention,
    PaddedAttention,
    position_bias,
)
from pipeline.models.front_end import gelu_
from pipeline.models.packing import frame_index, to_device

TAPS = 16
"""The positional convolution is computed in pieces of this many taps. It divides the kernel size of most models (128)
and of `digits` (32). Other kernels are filled up with taps of zero."""


class PackedEncoder(nn.Module):
    """torchaudio's `Encoder` on packed frames, with the same weights.

    Attributes:
        widest: Values per frame that a layer holds at once, at most.
    """

    def __init__(self, encoder: Any, dtype: torch.dtype) -> None:
        """Take the weights of an encoder, and casts them in place.

        Args:
            encoder: torchaudio's `Encoder`, in eval mode.
            dtype: Type of weights and activations.
        """
        super().__init__()
        transformer = encoder.transformer
        self.project = encoder.feature_projection.to(dtype)
        self.position = _PositionalConvolution(transformer.pos_conv_embed, dtype)
        self.norm_first: bool = transformer.layer_norm_first
        self.norm = transformer.layer_norm.to(dtype)
        self.layers = nn.ModuleList(_Layer(layer.to(dtype)) for layer in transformer.layers)
        layer = transformer.layers[0]
        self.widest: int = layer.feed_forward.intermediate_dense.out_features + 3 * layer.layer_norm.normalized_shape[0]
        first = layer.attention
        self.wavlm = first if isinstance(first, WavLMSelfAttention) else None

    def forward(
        self, x: Tensor, counts: Sequence[int], layers: Collection[int], together: bool
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run the transformer.

        Args:
            x: `(total frames, channels)`, the utterances one after another.
            counts: Number of frames of each utterance.
            layers: Layers whose output to keep; 1 is the first.
            together: Whether the operations that combine frames take all utterances at once, which is fastest on a GPU,
                or one after another.

        Returns:
            `(total frames, dim)`, the input of the label layer, and for each layer to keep `(total frames, dim)`
            float32 by layer number.
        """
        x = self.project(x)
        x = x + self.position(x, counts, together)
        if self.norm_first:
            x = self.norm(x)
        attend = self._attention(x, counts, together)
        kept = {}
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, attend)
            if number in layers:
                kept[number] = x.float()
        return x if self.norm_first else self.norm(x), kept

    def _attention(self, x: Tensor, counts: Sequence[int], together: bool) -> Attend:
        if self.wavlm is None and x.is_cuda and x.dtype != torch.float32:
            return PackedFlashAttention(counts, x.device)
        if together:
            return PaddedAttention(counts, x, self.wavlm)
        if self.wavlm is not None:
            return AttentionWithPositionBias(position_bias(self.wavlm, max(counts)).to(x.dtype), counts)
        return AttentionPerUtterance(counts)


class _PositionalConvolution(nn.Module):
    """torchaudio's `ConvolutionalPositionalEmbedding`, with its weight norm computed only once.

    Attributes:
        lowered: `(groups, pieces of the kernel, TAPS x channels in, channels out)`, the weights as matrices. Each has
            the order in which consecutive frames are stored in memory.
        norm: The batch norm before the convolution, which some HuBERT models have in place of the weight norm.
    """

    lowered: Tensor

    def __init__(self, embedding: Any, dtype: torch.dtype) -> None:
        super().__init__()
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
        """Compute `(total frames, dim)` from `(total frames, dim)`. Each utterance has zeros beyond its ends."""
        given = x.to(self.conv.weight.dtype)
        if self.norm is not None:
            given = self.norm(given)
        if not together:
            return F.gelu(self._lowered(given, counts)).to(x.dtype)
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


class _Layer(nn.Module):
    """torchaudio's `EncoderLayer`, with the three projections of attention joined into one product."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.attention
        self.norm_first: bool = layer.layer_norm_first
        self.norm, self.final_norm = layer.layer_norm, layer.final_layer_norm
        self.heads: int = attention.num_heads
        if isinstance(attention, WavLMSelfAttention):
            self.project = _linear(attention.attention.in_proj_weight, attention.attention.in_proj_bias)
            self.out = attention.attention.out_proj
            self.gate: nn.Module | None = _Gate(attention)
        else:
            self.project = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
            self.out = attention.out_proj
            self.gate = None
        self.up, self.down = layer.feed_forward.intermediate_dense, layer.feed_forward.output_dense
        self.adapter: nn.Module | None = getattr(layer, "adapter", None)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        given = self.norm(x) if self.norm_first else x
        query, key, value = self.project(given).view(len(x), 3, self.heads, -1).unbind(1)
        gates = None if self.gate is None else self.gate(given)
        x = self.out(attend(query, key, value, gates)).add_(x)
        if not self.norm_first:
            x = self.norm(x)
        given = self.final_norm(x) if self.norm_first else x
        result: Tensor = self.down(gelu_(self.up(given))).add_(x)
        if not self.norm_first:
            result = self.final_norm(result)
        return result if self.adapter is None else self.adapter(result).add_(result)


class AttentionAdapter(nn.Module):
    """A small network after a layer, which a fine-tune to one language trains and nothing else.

    A layer of torchaudio that has one has it as `adapter`. Source: `Wav2Vec2AttnAdapterLayer` of transformers; Pratap
    et al. 2023, section 5.3.
    """

    def __init__(self, dim: int, width: int) -> None:
        """Make an adapter of `width` channels for layers whose output has `dim`."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what is added to the output of the layer, `(frames, dim)`, from that output."""
        added: Tensor = self.linear_2(F.relu(self.linear_1(self.norm(x))))
        return added


class _Gate(nn.Module):
    """Computes the weight of WavLM's position bias for each head and frame (Chen et al. 2022, section 3.1)."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.linear = attention.gru_rel_pos_linear
        self.scale = attention.gru_rel_pos_const

    def forward(self, x: Tensor) -> Tensor:
        """Compute `(heads, frames, 1)` from `(frames, dim)`, as `WavLMSelfAttention.forward` does."""
        by_head = x.view(len(x), self.heads, -1).transpose(0, 1)
        gates = torch.sigmoid(self.linear(by_head).view(self.heads, len(x), 2, 4).sum(-1))
        first, second = gates.chunk(2, dim=-1)
        scaled: Tensor = first * (second * self.scale[0] - 1.0) + 2.0
        return scaled


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Make a linear layer that shares the given weights."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return linear


def _joined(*parts: nn.Linear) -> nn.Linear:
    """Join linear layers with the same input into one layer.

    The weights of the given layers become views of the joined weights, so that memory does not hold them twice.
    """
    joined = _linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
    size = parts[0].out_features
    splits = torch.split(joined.weight, size), torch.split(joined.bias, size)
    for part, weight, bias in zip(parts, *splits, strict=True):
        part.weight, part.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return joined


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
