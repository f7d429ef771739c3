"""The transformer, run on the frames of many utterances that are packed one after another without padding.

Without padding, no mask is needed. Linear layers and norms act on single frames. Only the positional convolution and
attention combine frames, and they do so within each utterance. The result equals torchaudio's `Encoder` on each
utterance alone.
"""

from __future__ import annotations

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
from pipeline.models.linear import joined, linear_of, pack_linears
from pipeline.models.position import PositionalConvolution


class PackedEncoder(nn.Module):
    """torchaudio's `Encoder` on packed frames, with the same weights.

    Attributes:
        widest: Values per frame that a layer holds at once, at most.
    """

    def __init__(self, encoder: Any, dtype: torch.dtype, fused: bool = False) -> None:
        """Take the weights of an encoder, and casts them in place.

        Args:
            encoder: torchaudio's `Encoder`, in eval mode.
            dtype: Type of weights and activations.
            fused: Whether to use the kernels of `fused.py`.
        """
        super().__init__()
        transformer = encoder.transformer
        self.project = encoder.feature_projection.to(dtype)
        self.position = PositionalConvolution(transformer.pos_conv_embed, dtype, fused)
        self.norm_first: bool = transformer.layer_norm_first
        self.norm = transformer.layer_norm.to(dtype)
        self.layers = nn.ModuleList(_Layer(layer.to(dtype), fused) for layer in transformer.layers)
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

    def pack(self) -> None:
        """Pack the weights of the linear layers for float32 on a CPU, one layer after another."""
        for module in (self.project, *self.layers):
            pack_linears(module)

    def _attention(self, x: Tensor, counts: Sequence[int], together: bool) -> Attend:
        if self.wavlm is None and x.is_cuda and x.dtype != torch.float32:
            return PackedFlashAttention(counts, x.device)
        if together:
            return PaddedAttention(counts, x, self.wavlm)
        if self.wavlm is not None:
            return AttentionWithPositionBias(position_bias(self.wavlm, max(counts)).to(x.dtype), counts)
        return AttentionPerUtterance(counts)


class _Layer(nn.Module):
    """torchaudio's `EncoderLayer`, with the three projections of attention joined into one product."""

    def __init__(self, layer: Any, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        attention = layer.attention
        self.norm_first: bool = layer.layer_norm_first
        self.norm, self.final_norm = layer.layer_norm, layer.final_layer_norm
        self.heads: int = attention.num_heads
        if isinstance(attention, WavLMSelfAttention):
            inner = attention.attention
            self.project = linear_of(inner.in_proj_weight, inner.in_proj_bias)
            inner.register_parameter("in_proj_weight", None)  # which is not kept twice
            self.out = inner.out_proj
            self.gate: nn.Module | None = _Gate(attention)
        else:
            self.project = joined(attention.q_proj, attention.k_proj, attention.v_proj)
            self.out = attention.out_proj
            self.gate = None
        self.up, self.down = layer.feed_forward.intermediate_dense, layer.feed_forward.output_dense
        self.adapter: nn.Module | None = getattr(layer, "adapter", None)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        given = self.norm(x) if self.norm_first else x
        query, key, value = self.project(given).view(len(x), 3, self.heads, -1).unbind(1)
        gates = None if self.gate is None else self.gate(given)
        attended = self.out(attend(query, key, value, gates))
        if self.norm_first:
            x, given = attended, self._added(attended, x, self.final_norm, keep=True)
            result: Tensor = self.down(gelu_(self.up(given))).add_(x)
        else:
            x = self._added(attended, x, self.norm)
            result = self._added(self.down(gelu_(self.up(x))), x, self.final_norm)
        return result if self.adapter is None else self.adapter(result).add_(result)

    def _added(self, x: Tensor, residual: Tensor, norm: nn.Module, keep: bool = False) -> Tensor:
        """Add `residual` to `x`, which has the sum afterwards if it is to `keep` it, and return the norm of the sum."""
        if self.fused:
            from pipeline.models.fused import add_norm  # Triton need not be there

            return add_norm(x, residual, norm, keep)
        normed: Tensor = norm(x.add_(residual))
        return normed


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
