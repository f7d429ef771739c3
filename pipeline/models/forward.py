"""Runs a model so that the result for an utterance does not depend on the other utterances in the batch.

One pass returns both emissions and features. In stock torchaudio, padding changes results in two statistics of the
front end (see `front_end.py`). WavLM cannot run batches with lengths at all, because its attention asserts that there
is no mask. Here the front end returns the frames of each utterance without padding, and the transformer (`encoder.py`)
runs on these packed frames.
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
    """The results of one pass over a batch: the frames of all utterances one after another, without padding.

    Attributes:
        num_frames: `(batch,)` int64 on the host, number of frames of each utterance.
        logits: `(total frames, labels)` float32; log-probabilities if the model returns those, `None` for a model
            without labels.
        features: `(total frames, dim)` float32 by layer number.
    """

    num_frames: Tensor
    logits: Tensor | None
    features: dict[int, Tensor]

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split `logits` or the features of a layer into one tensor per utterance."""
        return torch.split(values, self.num_frames.tolist())


class ExactForward(nn.Module):
    """Runs a torchaudio wav2vec2, HuBERT or WavLM model; an utterance has the same result in any batch as alone."""

    def __init__(
        self,
        model: Wav2Vec2Model,
        precision: str = "fp32",
        *,
        normalize_waveform: bool = False,
        normalize_epsilon: float = 1e-5,
        log_softmax: bool = False,
        together: bool | None = None,
        fused: bool = False,
    ) -> None:
        """Take the weights of `model`, which cannot be used afterwards, and cast them in place.

        Args:
            model: The model in eval mode, without the wrapper that some bundles add.
            precision: fp32, bf16 or fp16.
            normalize_waveform: Whether to scale each waveform to mean 0 and variance 1 first, as that wrapper does.
            normalize_epsilon: What is added to the variance of the waveform.
            log_softmax: Whether to return log-probabilities instead of logits, as that wrapper does for MMS_FA.
            together: Whether convolutions run over the whole batch at once, which is fastest on a GPU, or in tiles;
                `None` decides by the device.
            fused: Whether to use the kernels of `fused.py`, which need Triton and take the whole batch at once. They
                have not been measured yet.

        Raises:
            ValueError: The front end is not one of torchaudio's.
        """
        super().__init__()
        self.dtype = PRECISIONS[precision]
        self.log_softmax = log_softmax
        self.together = True if fused else together
        blocks = model.feature_extractor.conv_layers
        self.front_end = FrontEnd(blocks, normalize_waveform, self.dtype, normalize_epsilon, fused)
        self.encoder = PackedEncoder(model.encoder, self.dtype, fused)
        self.aux = None if model.aux is None else model.aux.to(self.dtype)

    @torch.inference_mode()
    def forward(self, waveforms: Tensor, lengths: Tensor, layers: Collection[int]) -> ModelOutput:
        """Run the model once.

        Args:
            waveforms: `(batch, samples)` float32, zero beyond each length, on the model's device.
            lengths: `(batch,)` int64 on the host, valid samples of each waveform.
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

    def pack(self) -> None:
        """Pack the weights of the transformer where that is faster: in float32 on a CPU, if this torch has oneDNN."""
        on_cpu = next(self.parameters()).device.type == "cpu"
        has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if on_cpu and self.dtype == torch.float32 and has_onednn:
            self.encoder.pack()

    def working_bytes(self, batch: int, num_samples: int) -> float:
        """Estimate the bytes that a padded batch takes in addition to the weights, at most.

        The estimate is the sum of three copies of the front end's largest activation in float32, two copies of the
        widest activation of a layer and, for WavLM, three copies of the position bias, which grows with the square of
        the number of frames.

        Args:
            batch: Number of utterances.
            num_samples: Samples of the longest utterance.
        """
        together = self.together or next(self.parameters()).is_cuda
        frames = num_samples / self.front_end.stride
        total = 3.0 * 4 * self.front_end.most_values(batch * num_samples, bool(together))
        total += 2.0 * self.dtype.itemsize * batch * frames * self.encoder.widest
        attention = self.encoder.wavlm
        if attention is not None:
            total += 3.0 * self.dtype.itemsize * (batch + 1) * int(attention.num_heads) * frames**2
        return total
