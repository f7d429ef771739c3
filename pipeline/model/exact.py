"""The exact forward: one pass gives emissions and layers, and padding never changes an answer.

Where stock torchaudio lets padding in: two statistics of the front end (`front_end.py`), and WavLM, which
refuses batches with lengths (its attention asserts that there is no mask) but does take a key-padding mask.
Everything else of torchaudio's batched forward is sound and used as it is: valid frames of a convolution see
valid samples only, the padding is zeroed before the positional convolution, and attention masks it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model
from torchaudio.models.wav2vec2.wavlm_attention import WavLMSelfAttention

from pipeline.model.front_end import FrontEnd, padding_mask

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelOutput:
    """What one pass over a padded batch gives; rows beyond an utterance's frames mean nothing.

    Attributes:
        num_frames: `(batch,)` int64 on the host: valid frames of each utterance.
        logits: `(batch, frames, labels)` float32, or `None` for a model without labels. Log-probabilities where
            the model gives those.
        features: Layer number to `(batch, frames, dim)`, float32.
    """

    num_frames: Tensor
    logits: Tensor | None
    features: dict[int, Tensor]


class ExactForward(nn.Module):
    """Runs a torchaudio wav2vec2, HuBERT or WavLM model so that batched equals alone."""

    def __init__(
        self,
        model: Wav2Vec2Model,
        precision: str = "fp32",
        *,
        normalize_waveform: bool = False,
        log_softmax: bool = False,
    ) -> None:
        """Take over `model` (its weights are cast and its weight norm is folded in place).

        Args:
            model: In eval mode, out of the wrapper that some bundles put around it.
            precision: fp32, bf16 or fp16.
            normalize_waveform: As that wrapper does: each waveform to mean 0 and variance 1 first.
            log_softmax: As that wrapper does for MMS_FA: log-probabilities instead of logits.

        Raises:
            ValueError: A front end that is none of torchaudio's.
        """
        super().__init__()
        # torchaudio's modules have no types.
        self.encoder: Any = model.encoder
        self.aux: Any = model.aux
        self.dtype = PRECISIONS[precision]
        self.log_softmax = log_softmax
        self.front_end = FrontEnd(model.feature_extractor.conv_layers, normalize_waveform, self.dtype)
        transformer = model.encoder.transformer
        position = transformer.pos_conv_embed
        position.conv = _folded(position.conv)
        # In float16 the positional convolution, 128 taps wide over 48 or more channels, overflows.
        self.position_dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        position.to(self.position_dtype)
        for module in (model.encoder.feature_projection, transformer.layers, transformer.layer_norm, model.aux):
            if module is not None:
                module.to(self.dtype)
        self._is_wavlm = isinstance(transformer.layers[0].attention, WavLMSelfAttention)

    @torch.inference_mode()
    def forward(self, waveforms: Tensor, lengths: Tensor, layers: Collection[int]) -> ModelOutput:
        """Run the model once.

        Args:
            waveforms: `(batch, samples)` float32, zero beyond each length, on the model's device.
            lengths: `(batch,)` int64 on the host: valid samples.
            layers: Layers whose output to keep; 1 is the first transformer layer.
        """
        x, num_frames = self.front_end(waveforms, lengths)
        x = self.encoder.feature_projection(x)
        padding = None
        if int(num_frames.min()) < x.shape[1]:
            padding = padding_mask(num_frames.to(x.device), x.shape[1])
            x = x.masked_fill_(padding[:, :, None], 0.0)
        transformer = self.encoder.transformer
        x = x + transformer.pos_conv_embed(x.to(self.position_dtype)).to(x.dtype)
        if transformer.layer_norm_first:
            x = transformer.layer_norm(x)
        masks = self._masks(padding, x)
        features = {}
        for number, layer in enumerate(transformer.layers, start=1):
            x, _ = layer(x, **masks)
            if number in layers:
                features[number] = x.float()
        if self.aux is None:
            return ModelOutput(num_frames=num_frames, logits=None, features=features)
        if not transformer.layer_norm_first:
            x = transformer.layer_norm(x)
        logits = self.aux(x).float()
        if self.log_softmax:
            logits = torch.log_softmax(logits, dim=-1)
        return ModelOutput(num_frames=num_frames, logits=logits, features=features)

    def working_bytes(self, batch: int, num_samples: int) -> float:
        """Bytes that a padded batch needs beside the weights, at most.

        Three copies of the first convolution's output, the largest activation, in float32; and for WavLM three
        of the position bias, which grows with the square of the frames.
        """
        first = self.front_end.convolutions[0]
        total = 3.0 * 4 * batch * num_samples * first.weight.shape[1] / first.stride
        if self._is_wavlm:
            frames = num_samples / self.front_end.stride
            heads = int(self.encoder.transformer.layers[0].attention.num_heads)
            total += 3 * self.dtype.itemsize * (batch + 1) * heads * frames**2
        return total

    def _masks(self, padding: Tensor | None, x: Tensor) -> dict[str, Tensor]:
        """What torchaudio's `EncoderLayer` takes so that attention leaves the padding out."""
        if self._is_wavlm:
            masks = {"position_bias": position_bias(self.encoder.transformer.layers[0].attention, x.shape[1])}
            if padding is not None:
                masks["key_padding_mask"] = x.new_zeros(padding.shape).masked_fill_(padding, -torch.inf)
            return masks
        if padding is None:
            return {}
        # Additive and finite, as torchaudio's own: exp(-10000) is 0 in every precision.
        return {"attention_mask": (-10000.0 * padding[:, None, None, :]).to(x.dtype).expand(-1, 1, x.shape[1], -1)}


def position_bias(attention: Any, frames: int) -> Tensor:
    """WavLM's relative position bias, `(1, heads, frames, frames)`, which every layer scales for itself.

    The same for every utterance and every pair of frames at one distance: looked up once a distance, instead of
    once a pair and utterance as `WavLMSelfAttention.compute_bias` does.

    Args:
        attention: torchaudio's `WavLMSelfAttention` of the first layer, which has the embedding.
        frames: Frames of the batch.
    """
    distances = torch.arange(1 - frames, frames)
    buckets = attention._relative_positions_bucket(distances, bidirectional=True)
    by_distance = attention.rel_attn_embed(buckets.to(attention.rel_attn_embed.weight.device)).T
    # Row i of `unfold` begins at distance i + 1 - frames, which is that of the last query; so the rows turn around.
    bias: Tensor = by_distance.unfold(1, frames, 1).flip(1)[None]
    return bias


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
