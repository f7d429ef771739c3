"""What is known of each model before torch is imported: names, labels, shapes. Tested against torchaudio."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ENGLISH_LABELS = ("-", "|", *"ETAONIHSRDLUMWCFGYPBVK", "'", *"XJQZ")
"""Blank, word boundary and letters of the English ASR bundles, in the order of their logits."""

# (kernel, stride) of the convolutional front end that every wav2vec2-type model shares
# (Baevski et al. 2020, section 4.2; torchaudio.models.wav2vec2.model.wav2vec2_base).
_CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as the planner and the tables see it.

    Attributes:
        name: The choice of the Hydra group `model`.
        bundle: Attribute of `torchaudio.pipelines`; `None` for the model shipped with the package.
        weights_file: File name of the weights (in torch hub's cache, for a bundle).
        sample_rate: Hz of the waveforms it was trained on.
        labels: Labels in the order of the logits, blank first; empty where the model has no CTC head.
        num_layers: Transformer layers.
        dim: Width of a layer's output.
    """

    name: str
    bundle: str | None
    weights_file: str
    num_layers: int
    dim: int
    labels: tuple[str, ...] = ()
    sample_rate: int = 16_000

    @property
    def blank(self) -> int:
        """Index of the blank label."""
        return 0

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        product = 1
        for _, stride in _CONVOLUTIONS:
            product *= stride
        return product

    @property
    def seconds_per_frame(self) -> float:
        """Seconds from one frame to the next."""
        return self.stride / self.sample_rate

    @property
    def min_samples(self) -> int:
        """Fewest samples that give one frame: the receptive field."""
        samples = 1
        for kernel, stride in reversed(_CONVOLUTIONS):
            samples = (samples - 1) * stride + kernel
        return samples

    def num_frames(self, num_samples: int) -> int:
        """Frames of an utterance of `num_samples` samples at the model's rate."""
        for kernel, stride in _CONVOLUTIONS:
            num_samples = max(0, (num_samples - kernel) // stride + 1)
        return num_samples


MODELS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            name="wav2vec2_asr_base_960h",
            bundle="WAV2VEC2_ASR_BASE_960H",
            weights_file="wav2vec2_fairseq_base_ls960_asr_ls960.pth",
            num_layers=12,
            dim=768,
            labels=ENGLISH_LABELS,
        ),
        ModelFacts(
            name="hubert_base",
            bundle="HUBERT_BASE",
            weights_file="hubert_fairseq_base_ls960.pth",
            num_layers=12,
            dim=768,
        ),
        ModelFacts(
            name="digits",
            bundle=None,
            weights_file="digits.safetensors",
            num_layers=4,
            dim=160,
            labels=ENGLISH_LABELS,
        ),
    )
}
"""Every choice of the Hydra group `model`."""


def weights_path(facts: ModelFacts) -> Path:
    """Where the weights of a model lie: in the package, or in torch hub's cache.

    The cache is found as `torch.hub.get_dir` documents it (TORCH_HOME, else XDG_CACHE_HOME/torch, else
    ~/.cache/torch), without importing torch.
    """
    if facts.bundle is None:
        return Path(__file__).resolve().parent.parent / "shipped" / "model" / facts.weights_file
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", Path(cache) / "torch")).expanduser()
    return home / "hub" / "checkpoints" / facts.weights_file
