"""What is known of each model before torch is imported: labels, shapes, origins. Tested against torchaudio."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.models.labels import ENGLISH_LABELS, LABEL_SETS, WORD_BOUNDARY
from pipeline.records import Labels

CHECKPOINT = "checkpoint"
"""The choice of the group `model` that loads a file of one's own into one of the architectures below."""

MODELS_URL = "https://download.pytorch.org/torchaudio/models"
"""Where torchaudio's bundles come from (torchaudio/pipelines/_wav2vec2/utils.py)."""

# (kernel, stride) of the convolutional front end that every wav2vec2-type model shares
# (Baevski et al. 2020, section 4.2; torchaudio.models.wav2vec2.model.wav2vec2_base).
_CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the weights come from, as torchaudio's documentation of the bundle says.

    Attributes:
        language: Of the transcripts, or of the audio where there are none.
        training_data: Unlabelled audio, then what it was fine-tuned on.
        licence: Of the weights.
    """

    language: str
    training_data: str
    licence: str = "MIT"


class Body(NamedTuple):
    """Everything of an architecture but the linear layer that gives the labels.

    Attributes:
        num_layers: Transformer layers.
        dim: Width of a layer's output.
        num_params: Parameters.
        normalize_waveform: Whether each waveform is brought to mean 0 and variance 1 first.
    """

    num_layers: int
    dim: int
    num_params: int
    normalize_waveform: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as the planner and the tables see it.

    Attributes:
        name: The choice of the Hydra group `model`.
        bundle: Attribute of `torchaudio.pipelines` that has its architecture; `None` for the shipped model's.
        weights_file: File name of the weights (in torch hub's cache, for a bundle); the path of a checkpoint.
        body: Its shape.
        origin: Where its weights come from; `None` for a checkpoint.
        labels: Labels in the order of the logits, blank first; empty where the model has no CTC head.
        values: What its emissions are.
        url: Where a bundle's weights are downloaded, if not below `MODELS_URL`.
        architecture: For a checkpoint, the choice whose architecture it has.
        sample_rate: Hz of the waveforms it was trained on.
    """

    name: str
    bundle: str | None
    weights_file: str
    body: Body
    origin: Origin | None
    labels: tuple[str, ...] = ()
    values: Literal["logits", "log_probs"] = "logits"
    url: str | None = None
    architecture: str | None = None
    sample_rate: int = 16_000

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        return self.body.num_layers

    @property
    def dim(self) -> int:
        """Width of a layer's output."""
        return self.body.dim

    @property
    def num_params(self) -> int:
        """Parameters, those of the linear layer that gives the labels included."""
        return self.body.num_params + len(self.labels) * (self.dim + 1)

    @property
    def transcribes(self) -> bool:
        """Whether its labels can be written as words: alignment models know no word boundary."""
        return WORD_BOUNDARY in self.labels

    @property
    def weights_url(self) -> str:
        """Where a bundle's weights are downloaded."""
        return self.url or f"{MODELS_URL}/{self.weights_file}"

    @property
    def blank(self) -> int:
        """Index of the blank label."""
        return 0

    @property
    def ctc_labels(self) -> Labels:
        """The labels as a decoder takes them."""
        return Labels(self.labels, self.blank, WORD_BOUNDARY)

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


_BASE = Body(12, 768, 94_370_944)
_LARGE = Body(24, 1024, 315_427_968)
_LARGE_LV60K = Body(24, 1024, 315_437_696, normalize_waveform=True)
_XLSR_1B = Body(48, 1280, 962_496_128, normalize_waveform=True)
_XLSR_2B = Body(48, 1920, 2_159_257_728, normalize_waveform=True)
_HUBERT_LARGE = Body(24, 1024, 315_434_112, normalize_waveform=True)
_HUBERT_XLARGE = Body(48, 1280, 962_492_544, normalize_waveform=True)
_WAVLM_BASE = Body(12, 768, 94_381_168)
_WAVLM_LARGE = Body(24, 1024, 315_452_096, normalize_waveform=True)

_NON_COMMERCIAL = "CC BY-NC 4.0"
_LS = "LibriSpeech 960 h"
_LL = "Libri-Light 60,000 h"
_10M, _100H, _960H = "then Libri-Light 10 min", "then LibriSpeech 100 h", "then LibriSpeech 960 h"
_MIX_94K = f"{_LL}, GigaSpeech 10,000 h, VoxPopuli 24,000 h"
_XLSR = "MLS, Common Voice, VoxLingua107, BABEL, VoxPopuli: 436,000 h"
_MMS_FA_URL = "https://dl.fbaipublicfiles.com/mms/torchaudio/ctc_alignment_mling_uroman/model.pt"


def _features(bundle: str, weights_file: str, body: Body, training_data: str, language: str = "English") -> ModelFacts:
    """A self-supervised bundle."""
    return ModelFacts(bundle.lower(), bundle, weights_file, body, Origin(language, training_data))


def _english(bundle: str, weights_file: str, body: Body, training_data: str) -> ModelFacts:
    """A bundle fine-tuned on English."""
    return replace(_features(bundle, weights_file, body, training_data), labels=ENGLISH_LABELS)


def _voxpopuli(code: str, language: str, hours: int) -> ModelFacts:
    """A bundle fine-tuned on the European Parliament in one language."""
    return ModelFacts(
        name=f"voxpopuli_asr_base_10k_{code}",
        bundle=f"VOXPOPULI_ASR_BASE_10K_{code.upper()}",
        weights_file=f"wav2vec2_voxpopuli_base_10k_asr_{code}.pt",
        body=_BASE,
        origin=Origin(language, f"VoxPopuli 10,000 h in 23 languages, then {hours} h {language}", _NON_COMMERCIAL),
        labels=LABEL_SETS[f"voxpopuli_{code}"],
    )


_W2V = "wav2vec2_fairseq"
MODELS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        _english("WAV2VEC2_ASR_BASE_10M", f"{_W2V}_base_ls960_asr_ll10m.pth", _BASE, f"{_LS}, {_10M}"),
        _english("WAV2VEC2_ASR_BASE_100H", f"{_W2V}_base_ls960_asr_ls100.pth", _BASE, f"{_LS}, {_100H}"),
        _english("WAV2VEC2_ASR_BASE_960H", f"{_W2V}_base_ls960_asr_ls960.pth", _BASE, f"{_LS}, {_960H}"),
        _english("WAV2VEC2_ASR_LARGE_10M", f"{_W2V}_large_ls960_asr_ll10m.pth", _LARGE, f"{_LS}, {_10M}"),
        _english("WAV2VEC2_ASR_LARGE_100H", f"{_W2V}_large_ls960_asr_ls100.pth", _LARGE, f"{_LS}, {_100H}"),
        _english("WAV2VEC2_ASR_LARGE_960H", f"{_W2V}_large_ls960_asr_ls960.pth", _LARGE, f"{_LS}, {_960H}"),
        _english("WAV2VEC2_ASR_LARGE_LV60K_10M", f"{_W2V}_large_lv60k_asr_ll10m.pth", _LARGE_LV60K, f"{_LL}, {_10M}"),
        _english("WAV2VEC2_ASR_LARGE_LV60K_100H", f"{_W2V}_large_lv60k_asr_ls100.pth", _LARGE_LV60K, f"{_LL}, {_100H}"),
        _english("WAV2VEC2_ASR_LARGE_LV60K_960H", f"{_W2V}_large_lv60k_asr_ls960.pth", _LARGE_LV60K, f"{_LL}, {_960H}"),
        _english("HUBERT_ASR_LARGE", "hubert_fairseq_large_ll60k_asr_ls960.pth", _HUBERT_LARGE, f"{_LL}, {_960H}"),
        _english("HUBERT_ASR_XLARGE", "hubert_fairseq_xlarge_ll60k_asr_ls960.pth", _HUBERT_XLARGE, f"{_LL}, {_960H}"),
        _voxpopuli("en", "English", 543),
        _voxpopuli("es", "Spanish", 166),
        _voxpopuli("de", "German", 282),
        _voxpopuli("fr", "French", 211),
        _voxpopuli("it", "Italian", 91),
        ModelFacts(
            name="digits",
            bundle=None,
            weights_file="digits.safetensors",
            body=Body(4, 160, 1_595_040),
            origin=Origin("English digits", "Free Spoken Digit Dataset", "CC BY-SA 4.0"),
            labels=ENGLISH_LABELS,
        ),
        ModelFacts(
            name="mms_fa",
            bundle="MMS_FA",
            weights_file="model.pt",
            body=_LARGE_LV60K,
            origin=Origin("1,130 languages", "MMS 31,000 h", _NON_COMMERCIAL),
            labels=LABEL_SETS["mms_fa"],
            values="log_probs",
            url=_MMS_FA_URL,
        ),
        _features("WAV2VEC2_BASE", f"{_W2V}_base_ls960.pth", _BASE, _LS),
        _features("WAV2VEC2_LARGE", f"{_W2V}_large_ls960.pth", _LARGE, _LS),
        _features("WAV2VEC2_LARGE_LV60K", f"{_W2V}_large_lv60k.pth", _LARGE_LV60K, _LL),
        _features(
            "WAV2VEC2_XLSR53",
            f"{_W2V}_large_xlsr53.pth",
            _LARGE_LV60K,
            "MLS, Common Voice, BABEL: 56,000 h",
            "53 languages",
        ),
        _features("WAV2VEC2_XLSR_300M", "wav2vec2_xlsr_300m.pth", _LARGE_LV60K, _XLSR, "128 languages"),
        _features("WAV2VEC2_XLSR_1B", "wav2vec2_xlsr_1b.pth", _XLSR_1B, _XLSR, "128 languages"),
        _features("WAV2VEC2_XLSR_2B", "wav2vec2_xlsr_2b.pth", _XLSR_2B, _XLSR, "128 languages"),
        _features("HUBERT_BASE", "hubert_fairseq_base_ls960.pth", _BASE, _LS),
        _features("HUBERT_LARGE", "hubert_fairseq_large_ll60k.pth", _HUBERT_LARGE, _LL),
        _features("HUBERT_XLARGE", "hubert_fairseq_xlarge_ll60k.pth", _HUBERT_XLARGE, _LL),
        _features("WAVLM_BASE", "wavlm_base.pth", _WAVLM_BASE, _LS),
        _features("WAVLM_BASE_PLUS", "wavlm_base_plus.pth", _WAVLM_BASE, _MIX_94K),
        _features("WAVLM_LARGE", "wavlm_large.pth", _WAVLM_LARGE, _MIX_94K),
    )
}
"""Every choice of the Hydra group `model` but `checkpoint`: those that transcribe first."""


def checkpoint(path: Path, architecture: str, labels: tuple[str, ...] | None) -> ModelFacts:
    """The facts of a file of weights that is loaded into the architecture of a choice.

    Args:
        path: The file.
        architecture: A key of `MODELS`.
        labels: Its labels, blank first; `None` for those of the architecture's own weights.
    """
    base = MODELS[architecture]
    return replace(
        base,
        name=CHECKPOINT,
        weights_file=str(path),
        origin=None,
        labels=base.labels if labels is None else labels,
        architecture=architecture,
    )


def weights_path(facts: ModelFacts) -> Path:
    """Where the weights of a model lie: as given, in the package, or in torch hub's cache.

    The cache is found as `torch.hub.get_dir` documents it (TORCH_HOME, else XDG_CACHE_HOME/torch, else
    ~/.cache/torch), without importing torch.
    """
    if facts.architecture is not None:
        return Path(facts.weights_file)
    if facts.bundle is None:
        return Path(__file__).resolve().parent.parent / "shipped" / "model" / facts.weights_file
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", Path(cache) / "torch")).expanduser()
    return home / "hub" / "checkpoints" / facts.weights_file
