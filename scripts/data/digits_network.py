"""The digit model as it is trained: padded batches, a first block that leaves the padding out, and the CTC loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torchaudio
from digit_strings import SAMPLE_RATE, Sample
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.models import Wav2Vec2Model
from torchaudio.models.wav2vec2.components import ConvLayerBlock

from pipeline.models import digits

MODEL_RATE = 16000
LABELS = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H.get_labels()
BLANK = 0
CONVOLUTIONS = digits.ARCHITECTURE["extractor_conv_layer_config"]


class Batch(NamedTuple):
    """Padded samples at 8 kHz with their references."""

    waveforms: Tensor  # [batch, samples], zero beyond the lengths
    lengths: Tensor  # [batch], in samples
    targets: Tensor  # [sum of target_lengths], label indices
    target_lengths: Tensor  # [batch], in labels


class MaskedConvLayerBlock(nn.Module):
    """The first convolution block with group norm over the valid frames only.

    torchaudio's own block takes the statistics over the padding too, so an
    utterance in a padded batch would look different from the same utterance
    alone, which is how it is recognised. Parameter names stay torchaudio's.
    """

    def __init__(self, block: ConvLayerBlock) -> None:
        super().__init__()
        self.kernel_size = block.kernel_size
        self.stride = block.stride
        self.conv = block.conv
        self.layer_norm = block.layer_norm

    def forward(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[batch, 1, samples]`` to ``[batch, channels, frames]``, with the lengths."""
        x = self.conv(x)
        length = ((length - self.kernel_size) // self.stride + 1).clamp(min=1)
        valid = torch.arange(x.shape[-1], device=x.device) < length[:, None]
        valid = valid[:, None].to(x.dtype)
        count = length[:, None, None]
        mean = (x * valid).sum(-1, keepdim=True) / count
        centered = x - mean
        variance = (centered.square() * valid).sum(-1, keepdim=True) / count
        norm = self.layer_norm
        scale = (variance + norm.eps).rsqrt() * norm.weight[:, None]
        return F.gelu(centered * scale + norm.bias[:, None]), length


def build_for_training(dropout: float) -> Wav2Vec2Model:
    """Build the model with the masked first block and larger initial convolutions."""
    model = digits.build(dropout)
    for block in model.feature_extractor.conv_layers:
        # PyTorch's default is too small for seven layers with a single norm: the
        # features would vanish below the epsilon of the layer norm that follows.
        nn.init.kaiming_normal_(block.conv.weight)
    layers = model.feature_extractor.conv_layers
    layers[0] = MaskedConvLayerBlock(layers[0])
    return model


def frame_lengths(lengths: Tensor) -> Tensor:
    """Return the numbers of frames ``[batch]`` for ``lengths`` ``[batch]`` in samples at 16 kHz."""
    for _, kernel, stride in CONVOLUTIONS:
        lengths = ((lengths - kernel) // stride + 1).clamp(min=0)
    return lengths


def mask_frames(features: Tensor, probability: float = 0.03, width: int = 4) -> Tensor:
    """Zero random spans of ``width`` frames of ``[batch, frames, channels]``."""
    starts = torch.rand(features.shape[:2], device=features.device) < probability
    spans = F.max_pool1d(starts[:, None].float(), width, stride=1, padding=width // 2)
    return features * (1.0 - spans[:, 0, : features.shape[1], None])


def run_model(model: Wav2Vec2Model, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the emission ``[batch, frames, labels]``, log-probabilities, and its lengths.

    The lengths ``[batch]`` stay on the CPU, where the CTC loss wants them.
    """
    waveforms = batch.waveforms.to(device, non_blocking=True)
    waveforms = torchaudio.functional.resample(waveforms, SAMPLE_RATE, MODEL_RATE)
    cpu_lengths = batch.lengths * (MODEL_RATE // SAMPLE_RATE)
    lengths = cpu_lengths.to(device, non_blocking=True)
    # The resampling filter rings past the end of each utterance into its padding.
    valid = torch.arange(waveforms.shape[1], device=device) < lengths[:, None]
    features, frames = model.feature_extractor(waveforms * valid, lengths)
    if model.training:
        features = mask_frames(features)
    emission = model.aux(model.encoder(features, frames)).log_softmax(-1)
    return emission, frame_lengths(cpu_lengths)


def ctc_loss(emission: Tensor, frames: Tensor, batch: Batch) -> Tensor:
    """Mean over the batch of the CTC loss per label."""
    targets = batch.targets.to(emission.device, non_blocking=True)
    return F.ctc_loss(emission.transpose(0, 1), targets, frames, batch.target_lengths, BLANK, zero_infinity=True)


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad samples to the longest of them."""
    lengths = [len(waveform) for waveform, _ in samples]
    waveforms = np.zeros((len(samples), max(lengths)), np.float32)
    for row, (waveform, _) in zip(waveforms, samples, strict=True):
        row[: len(waveform)] = waveform
    targets = [LABELS.index(label) for _, text in samples for label in text]
    target_lengths = [len(text) for _, text in samples]
    return Batch(
        torch.from_numpy(waveforms),
        torch.tensor(lengths),
        torch.tensor(targets),
        torch.tensor(target_lengths),
    )
