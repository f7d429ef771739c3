"""The architecture of each model of the catalogue: a factory of torchaudio and its parameters.

The only module that reads the private attributes of torchaudio's bundles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torchaudio
from torchaudio.models import Wav2Vec2Model, wav2vec2_model, wavlm_model

from pipeline.models import digits
from pipeline.models.catalog import BUNDLES

_FACTORIES = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}


@dataclass(frozen=True)
class Architecture:
    """What is needed to build a model.

    Attributes:
        kind: The factory: `Wav2Vec2` for `torchaudio.models.wav2vec2_model`, `WavLM` for `wavlm_model`.
        params: The parameters of the factory.
        unused_labels: The rows of the published output layer that torchaudio removes while it loads the weights,
            because they are labels of fairseq's dictionary that no transcript has (`_remove_aux_axes` in
            torchaudio/pipelines/_wav2vec2/utils.py).
    """

    kind: str
    params: dict[str, Any]
    unused_labels: tuple[int, ...] = ()

    def build(self, num_labels: int) -> Wav2Vec2Model:
        """Build the model with random weights and `num_labels` labels; without an output layer where there are none."""
        return _FACTORIES[self.kind](**(self.params | {"aux_num_out": num_labels or None}))


def architecture_of(name: str) -> Architecture:
    """The architecture of a model, by its name in the catalogue."""
    if name not in BUNDLES:
        return Architecture("Wav2Vec2", digits.ARCHITECTURE)
    bundle = torchaudio_bundle(name)
    return Architecture(bundle._model_type, bundle._params, tuple(getattr(bundle, "_remove_aux_axis", ())))


def torchaudio_bundle(name: str) -> Any:
    """The attribute of `torchaudio.pipelines` that a name of the catalogue stands for."""
    return getattr(torchaudio.pipelines, name.upper())
