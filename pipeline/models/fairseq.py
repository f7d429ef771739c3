"""Files of fairseq: the names of their tensors, and what they hold beside the weights.

Source of the names: torchaudio/models/wav2vec2/utils/import_fairseq.py.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

IGNORED = {
    "mask_emb": "stands for masked frames in training",
    "quantizer.": "of pretraining",
    "project_q.": "of pretraining",
    "target_glu.": "of pretraining",
    "final_proj.": "of pretraining",
    "label_embs_concat": "of HuBERT's pretraining",
}
"""Tensors that no result depends on, by their names or the beginnings of their names, with the reason."""
_BEGINNINGS = ("w2v_encoder.w2v_model.", "w2v_encoder.", "w2v_model.")
"""What stands before the names: of a fine-tune, of its head, and of a fine-tune that was saved without its wrapper."""
_FRONT_END, _LAYERS = "feature_extractor.conv_layers", "encoder.transformer.layers"
_NAMES = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"feature_extractor\.conv_layers\.(\d+)\.0\.", rf"{_FRONT_END}.\1.conv."),
        (r"feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", rf"{_FRONT_END}.\1.layer_norm."),
        (r"layer_norm\.", "encoder.feature_projection.layer_norm."),
        (r"post_extract_proj\.", "encoder.feature_projection.projection."),
        (r"encoder\.pos_conv\.0\.", "encoder.transformer.pos_conv_embed.conv."),
        (r"encoder\.layer_norm\.", "encoder.transformer.layer_norm."),
        (r"encoder\.layers\.(\d+)\.self_attn\.", rf"{_LAYERS}.\1.attention."),
        (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", rf"{_LAYERS}.\1.layer_norm."),
        (r"encoder\.layers\.(\d+)\.fc1\.", rf"{_LAYERS}.\1.feed_forward.intermediate_dense."),
        (r"encoder\.layers\.(\d+)\.fc2\.", rf"{_LAYERS}.\1.feed_forward.output_dense."),
        (r"encoder\.layers\.(\d+)\.final_layer_norm\.", rf"{_LAYERS}.\1.final_layer_norm."),
        (r"proj\.", "aux."),
    )
)
"""How names begin in fairseq, and in torchaudio."""


class _Dictionary:
    """Stands for `fairseq.data.dictionary.Dictionary`, which a fine-tune holds beside its weights. It does nothing."""


HARMLESS: list[Any] = [argparse.Namespace, (_Dictionary, "fairseq.data.dictionary.Dictionary")]
"""The classes of objects that fairseq saves beside the weights. Reading one sets attributes and runs no code."""


def is_fairseq(names: Iterable[str]) -> bool:
    """Whether fairseq gave the tensors of a file their names."""
    return any(name.endswith("feature_extractor.conv_layers.0.0.weight") for name in names)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by their names in torchaudio, without those that no result depends on.

    A tensor that torchaudio's model does not have keeps its name.
    """
    plain = {_plain(name): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        return dict(state)
    return {_torchaudio_name(name): tensor for name, tensor in plain.items() if not _ignored(name)}


def normalizes_waveforms(content: Any) -> bool | None:
    """Whether the training normalised waveforms; `None` where the file does not say it."""
    if not isinstance(content, Mapping):
        return None
    settings = content.get("cfg")
    for found in (settings.get("task") if isinstance(settings, Mapping) else None, content.get("args")):
        value = found.get("normalize") if isinstance(found, Mapping) else getattr(found, "normalize", None)
        if isinstance(value, bool):
            return value
    return None


def _plain(name: str) -> str:
    beginning = next((each for each in _BEGINNINGS if name.startswith(each)), "")
    return name.removeprefix(beginning)


def _ignored(name: str) -> bool:
    return any(name == each or (each.endswith(".") and name.startswith(each)) for each in IGNORED)


def _torchaudio_name(name: str) -> str:
    for theirs, ours in _NAMES:
        if found := theirs.match(name):
            return found.expand(ours) + name[found.end() :]
    return name
