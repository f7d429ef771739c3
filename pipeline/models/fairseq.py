"""Files of fairseq and fairseq2: the names of their tensors, and what they hold beside the weights.

Sources of the names: torchaudio/models/wav2vec2/utils/import_fairseq.py for fairseq, and for fairseq2 its
src/fairseq2/models/wav2vec2/asr/interop.py, which turns files of fairseq into its own.
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
"""Tensors of fairseq that no result depends on, by their names or how these begin, with the reason."""
IGNORED_OF_FAIRSEQ2 = {"masker.": "stands for masked frames in training"}
"""The same of fairseq2, where `final_proj` is the head."""
_BEGINNINGS = ("w2v_encoder.w2v_model.", "w2v_encoder.", "w2v_model.")
"""What stands before the names: of a fine-tune, of its head, and of a fine-tune that was saved without its wrapper."""
_FRONT_END, _LAYERS = "feature_extractor.conv_layers", "encoder.transformer.layers"
_FAIRSEQ = (
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
"""How names begin in fairseq, and in torchaudio."""
_FAIRSEQ2 = (
    (r"encoder_frontend\.feature_extractor\.layers\.(\d+)\.(conv|layer_norm)\.", rf"{_FRONT_END}.\1.\2."),
    (r"encoder_frontend\.post_extract_layer_norm\.", "encoder.feature_projection.layer_norm."),
    (r"encoder_frontend\.model_dim_proj\.", "encoder.feature_projection.projection."),
    (r"encoder_frontend\.pos_encoder\.conv\.", "encoder.transformer.pos_conv_embed.conv."),
    (r"encoder\.layer_norm\.", "encoder.transformer.layer_norm."),
    (r"encoder\.layers\.(\d+)\.self_attn\.output_proj\.", rf"{_LAYERS}.\1.attention.out_proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", rf"{_LAYERS}.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", rf"{_LAYERS}.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.ffn\.inner_proj\.", rf"{_LAYERS}.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.ffn\.output_proj\.", rf"{_LAYERS}.\1.feed_forward.output_dense."),
    (r"encoder\.layers\.(\d+)\.ffn_layer_norm\.", rf"{_LAYERS}.\1.final_layer_norm."),
    (r"final_proj\.", "aux."),
)
"""How names begin in fairseq2, and in torchaudio."""


class _Dictionary:
    """Stands for `fairseq.data.dictionary.Dictionary`, which a fine-tune holds beside its weights. It does nothing."""


HARMLESS: list[Any] = [argparse.Namespace, (_Dictionary, "fairseq.data.dictionary.Dictionary")]
"""The classes of objects that fairseq saves beside the weights. Reading one sets attributes and runs no code."""


def is_fairseq(names: Iterable[str]) -> bool:
    """Whether fairseq gave the tensors of a file their names."""
    return any(name.endswith("feature_extractor.conv_layers.0.0.weight") for name in names)


def is_fairseq2(names: Iterable[str]) -> bool:
    """Whether fairseq2 gave the tensors of a file their names."""
    return any(name.startswith("encoder_frontend.") for name in names)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of fairseq or fairseq2 by their names in torchaudio, without those no result depends on.

    A tensor that torchaudio's model does not have keeps its name.
    """
    if is_fairseq2(state):
        return {_name(name, _FAIRSEQ2): state[name] for name in state if not _ignored(name, IGNORED_OF_FAIRSEQ2)}
    plain = {_plain(name): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        return dict(state)
    return {_name(name, _FAIRSEQ): tensor for name, tensor in plain.items() if not _ignored(name, IGNORED)}


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


def _ignored(name: str, ignored: Iterable[str]) -> bool:
    return any(name == each or (each.endswith(".") and name.startswith(each)) for each in ignored)


def _name(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    for theirs, ours in beginnings:
        if found := re.match(theirs, name):
            return found.expand(ours) + name[found.end() :]
    return name
