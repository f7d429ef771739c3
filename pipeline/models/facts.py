"""What the planner and the tables know of a model without torch: its shape, its labels, its origin."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from pipeline.records import Labels

CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each convolution of wav2vec 2.0's front end, which most later models share.

Source: Baevski et al. 2020, section 4.2, and `torchaudio.models.wav2vec2.model.wav2vec2_base`.
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the weights of a model come from.

    Attributes:
        language: The language of the transcripts, or of the audio where there are no transcripts.
        training_data: The unlabelled audio, then the data that the model was fine-tuned on.
        licence: The licence of the weights.
    """

    language: str
    training_data: str
    licence: str = "MIT"


class Body(NamedTuple):
    """The architecture of a model without the linear layer that gives the logits.

    Attributes:
        num_layers: Number of transformer layers.
        dim: Width of the output of a layer.
        num_params: Number of parameters.
        normalize_waveform: Whether the model expects waveforms of mean 0 and variance 1.
        convolutions: Kernel and stride of each convolution of the front end, in samples.
        normalize_epsilon: What is added to the variance of a waveform that is normalised.
    """

    num_layers: int
    dim: int
    num_params: int
    normalize_waveform: bool = False
    convolutions: tuple[tuple[int, int], ...] = CONVOLUTIONS
    normalize_epsilon: float = 1e-5


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as the planner and the tables see it.

    Attributes:
        name: The choice of the group `model`.
        body: The architecture without the layer that gives the logits.
        origin: Where the weights come from; `None` where nobody says so.
        labels: The labels in the order of the logits; empty where the model has no CTC head.
        blank: The index of the blank label.
        delimiter: The label between two words, such as `"|"`. The empty string says that every label is a word. `None`
            says that the labels cannot be written as words.
        values: Whether the emissions are logits or log-probabilities.
        sample_rate: The sample rate in Hz of the waveforms that the model was trained on.
        silent: Indices of the labels that are no part of a text.
        lower_case: Whether texts are in lower case, whatever the labels are.
    """

    name: str
    body: Body
    origin: Origin | None = None
    labels: tuple[str, ...] = ()
    blank: int = 0
    delimiter: str | None = None
    values: Literal["logits", "log_probs"] = "logits"
    sample_rate: int = 16_000
    silent: frozenset[int] = frozenset()
    lower_case: bool = False

    @property
    def num_layers(self) -> int:
        """Number of transformer layers."""
        return self.body.num_layers

    @property
    def dim(self) -> int:
        """Width of the output of a layer."""
        return self.body.dim

    @property
    def num_params(self) -> int:
        """Number of parameters, those of the layer that gives the logits included."""
        return self.body.num_params + len(self.labels) * (self.dim + 1)

    @property
    def transcribes(self) -> bool:
        """Whether the labels can be written as words."""
        return bool(self.labels) and self.delimiter is not None

    @property
    def ctc_labels(self) -> Labels:
        """The labels as a decoder takes them; for models that transcribe."""
        assert self.delimiter is not None, f"the labels of {self.name} cannot be written as words"
        return Labels(self.labels, self.blank, self.delimiter, self.silent, self.lower_case)

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return prod(stride for _, stride in self.body.convolutions)

    @property
    def seconds_per_frame(self) -> float:
        """Seconds from one frame to the next."""
        return self.stride / self.sample_rate

    @property
    def min_samples(self) -> int:
        """The receptive field: the fewest samples that give one frame."""
        samples = 1
        for kernel, stride in reversed(self.body.convolutions):
            samples = (samples - 1) * stride + kernel
        return samples

    def num_frames(self, num_samples: int) -> int:
        """Number of frames that the model gives for a waveform of `num_samples` samples at `sample_rate`."""
        for kernel, stride in self.body.convolutions:
            num_samples = max(0, (num_samples - kernel) // stride + 1)
        return num_samples
