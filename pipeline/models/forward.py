"""The exact forward: one pass gives emissions and layers, and neighbours never change an answer.

Where stock torchaudio lets padding in: two statistics of the front end (`front_end.py`), and WavLM, which
refuses batches with lengths (its attention asserts that there is no mask). Here an utterance's frames leave the
front end without padding, and the transformer (`encoder.py`) runs over them packed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model

from pipeline.models.encoder import PackedEncoder
from pipeline.models.front_end import FrontEnd

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelOutput:
    """What one pass over a batch gives: the frames of all utterances, one after another without padding.

    Attributes:
        num_frames: `(batch,)` int64 on the host: frames of each utterance.
        logits: `(total frames, labels)` float32, or `None` for a model without labels. Log-probabilities where
            the model gives those.
        features: Layer number to `(total frames, dim)`, float32.
    """

    num_frames: Tensor
    logits: Tensor | None
    features: dict[int, Tensor]

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """`logits`, or the features of a layer, an utterance each."""
        return torch.split(values, self.num_frames.tolist())


class ExactForward(nn.Module):
    """Runs a torchaudio wav2vec2, HuBERT or WavLM model so that batched equals alone."""

    def __init__(
        self,
        model: Wav2Vec2Model,
        precision: str = "fp32",
        *,
        normalize_waveform: bool = False,
        log_softmax: bool = False,
        together: bool | None = None,
    ) -> None:
        """Take over `model` (its weights are cast in place).

        Args:
            model: In eval mode, out of the wrapper that some bundles put around it.
            precision: fp32, bf16 or fp16.
            normalize_waveform: As that wrapper does: each waveform to mean 0 and variance 1 first.
            log_softmax: As that wrapper does for MMS_FA: log-probabilities instead of logits.
            together: Whether convolutions run over the whole batch at once, as a GPU wants it, or in tiles; `None`:
                by the device.

        Raises:
            ValueError: A front end that is none of torchaudio's.
        """
        super().__init__()
        self.dtype = PRECISIONS[precision]
        self.log_softmax = log_softmax
        self.together = together
        self.front_end = FrontEnd(model.feature_extractor.conv_layers, normalize_waveform, self.dtype)
        self.encoder = PackedEncoder(model.encoder, self.dtype)
        self.aux = None if model.aux is None else model.aux.to(self.dtype)

    @torch.inference_mode()
    def forward(self, waveforms: Tensor, lengths: Tensor, layers: Collection[int]) -> ModelOutput:
        """Run the model once.

        Args:
            waveforms: `(batch, samples)` float32, zero beyond each length, on the model's device.
            lengths: `(batch,)` int64 on the host: valid samples.
            layers: Layers whose output to keep; 1 is the first transformer layer.
        """
        together = waveforms.is_cuda if self.together is None else self.together
        frames, num_frames = self.front_end(waveforms, lengths, together)
        x, features = self.encoder(frames, num_frames.tolist(), layers, together)
        if self.aux is None:
            return ModelOutput(num_frames=num_frames, logits=None, features=features)
        logits = self.aux(x).float()
        if self.log_softmax:
            logits = torch.log_softmax(logits, dim=-1)
        return ModelOutput(num_frames=num_frames, logits=logits, features=features)

    def working_bytes(self, batch: int, num_samples: int) -> float:
        """Bytes that a padded batch needs beside the weights, at most.

        Three copies of the largest activation of the front end in float32, two of the widest of a layer; and for
        WavLM three of the position bias, which grows with the square of the frames.
        """
        together = self.together or next(self.parameters()).is_cuda
        frames = num_samples / self.front_end.stride
        total = 3.0 * 4 * self.front_end.most_values(batch * num_samples, bool(together))
        total += 2.0 * self.dtype.itemsize * batch * frames * self.encoder.widest
        attention = self.encoder.wavlm
        if attention is not None:
            total += 3.0 * self.dtype.itemsize * (batch + 1) * int(attention.num_heads) * frames**2
        return total
