"""The models that come with torchaudio or with the package, as known without torch. Tested against torchaudio."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pipeline.models.facts import Body, ModelFacts, Origin
from pipeline.models.labels import ENGLISH_LABELS, LABEL_SETS, WORD_BOUNDARY

_TORCHAUDIO_URL = "https://download.pytorch.org/torchaudio/models"
"""Where torchaudio's bundles come from (torchaudio/pipelines/_wav2vec2/utils.py)."""


class Bundle(NamedTuple):
    """A bundle of torchaudio.

    Attributes:
        facts: What is known of the model.
        url: Where the weights are downloaded. torch hub keeps them under the last part of the URL.
    """

    facts: ModelFacts
    url: str


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


def _features(bundle: str, weights_file: str, body: Body, training_data: str, language: str = "English") -> Bundle:
    """A self-supervised bundle."""
    return Bundle(
        ModelFacts(bundle.lower(), body, Origin(language, training_data)), f"{_TORCHAUDIO_URL}/{weights_file}"
    )


def _english(bundle: str, weights_file: str, body: Body, training_data: str) -> Bundle:
    """A bundle that was fine-tuned on English."""
    facts, url = _features(bundle, weights_file, body, training_data)
    return Bundle(replace(facts, labels=ENGLISH_LABELS, delimiter=WORD_BOUNDARY), url)


def _voxpopuli(code: str, language: str, hours: int) -> Bundle:
    """A bundle that was fine-tuned on speeches of the European Parliament in one language."""
    facts = ModelFacts(
        name=f"voxpopuli_asr_base_10k_{code}",
        body=_BASE,
        origin=Origin(language, f"VoxPopuli 10,000 h in 23 languages, then {hours} h {language}", _NON_COMMERCIAL),
        labels=LABEL_SETS[f"voxpopuli_{code}"],
        delimiter=WORD_BOUNDARY,
    )
    return Bundle(facts, f"{_TORCHAUDIO_URL}/wav2vec2_voxpopuli_base_10k_asr_{code}.pt")


_W2V = "wav2vec2_fairseq"
_TRANSCRIBING = (
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
)
_ALIGNING = (
    Bundle(
        ModelFacts(
            name="mms_fa",
            body=_LARGE_LV60K,
            origin=Origin("1,130 languages", "MMS 31,000 h", _NON_COMMERCIAL),
            labels=LABEL_SETS["mms_fa"],
            values="log_probs",
        ),
        "https://dl.fbaipublicfiles.com/mms/torchaudio/ctc_alignment_mling_uroman/model.pt",
    ),
)
_SELF_SUPERVISED = (
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
BUNDLES = {bundle.facts.name: bundle for bundle in (*_TRANSCRIBING, *_ALIGNING, *_SELF_SUPERVISED)}
"""torchaudio's bundles by the choice of the group `model`, which is the bundle's name in lower case."""

DIGITS = ModelFacts(
    name="digits",
    body=Body(4, 160, 1_595_040),
    origin=Origin("English digits", "Free Spoken Digit Dataset", "CC BY-SA 4.0"),
    labels=ENGLISH_LABELS,
    delimiter=WORD_BOUNDARY,
)
"""The model that comes with the package."""

MODELS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        *(bundle.facts for bundle in _TRANSCRIBING),
        DIGITS,
        *(bundle.facts for bundle in (*_ALIGNING, *_SELF_SUPERVISED)),
    )
}
"""Every model whose weights are known: first the models that transcribe."""
