"""Loads the weights of a checkpoint into torchaudio's model: each tensor is used, and each parameter is set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model

from pipeline.models.architectures import Architecture
from pipeline.models.checkpoint import NotWeights, differences, read_weights, undrawn
from pipeline.models.encoder import AttentionAdapter
from pipeline.models.huggingface.config import EncoderConfig
from pipeline.models.huggingface.folder import Folder

IGNORED = {
    "masked_spec_embed": "stands for masked frames in training",
    "quantizer.": "of pretraining",
    "project_hid.": "of pretraining",
    "project_q.": "of pretraining",
    "ctc_proj.": "of UniSpeech's pretraining",
    "speaker_proj.": "of UniSpeechSat's pretraining",
    "label_embeddings_concat": "of UniSpeechSat's pretraining",
    "layer_norm_for_extract.": "of UniSpeechSat's pretraining",
    "encoder.pos_conv_embed.batch_norm.num_batches_tracked": "counts batches in training",
}
"""Tensors that no result depends on, by their names or the beginnings of their names, with the reason."""
_BEGINNINGS = (
    ("encoder.feature_projection.", "feature_projection."),
    ("encoder.transformer.", "encoder."),
    ("aux.", "lm_head."),
)
"""How names begin in torchaudio, and in transformers."""
_ADAPTER = ".adapter_layer."
_FORMER = (("conv.weight_g", "conv.parametrizations.weight.original0"),
           ("conv.weight_v", "conv.parametrizations.weight.original1"))  # fmt: skip
"""The names of a weight norm's parts before torch 2.1, and since."""
_JOINED = "attention.attention.in_proj_"
"""WavLM's three projections, which torchaudio holds as one tensor."""


def load(
    folder: Folder, files: Sequence[Path], language: Path | None, config: EncoderConfig, num_labels: int
) -> Wav2Vec2Model:
    """Build the model of a checkpoint and load its weights, as float32.

    Args:
        folder: The checkpoint.
        files: The files with its weights.
        language: The file with the adapters and the head of a language, which replace those of the other files.
        config: The encoder.
        num_labels: Number of labels; 0 for a model without.

    Raises:
        UserError: A file cannot be read as plain data, holds quantised weights, or does not fit the model.
    """
    model = build(config, num_labels)
    wanted = {
        name: tensor.shape for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    shapes = {theirs: shape for name, shape in wanted.items() for theirs, shape in _theirs(name, shape)}
    state = _read(folder, files, language, config, set(shapes))
    _refuse_differences(folder, shapes, {name: tensor.shape for name, tensor in state.items()}, num_labels)
    values = {}
    for name, shape in wanted.items():
        parts = [state.pop(theirs).float() for theirs, _ in _theirs(name, shape)]
        values[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    model.load_state_dict(values, assign=True, strict=False)
    return model


def build(config: EncoderConfig, num_labels: int) -> Wav2Vec2Model:
    """Build the model; its weights have no values yet. Only `ExactForward` runs its adapters and its batch norm.

    Args:
        config: The encoder.
        num_labels: Number of labels; 0 for a model without.
    """
    params = {
        "extractor_mode": f"{config.extractor_norm}_norm",
        "extractor_conv_layer_config": list(zip(config.channels, config.kernels, config.strides, strict=True)),
        "extractor_conv_bias": config.extractor_bias,
        "encoder_embed_dim": config.dim,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": config.position_kernel,
        "encoder_pos_conv_groups": config.position_groups,
        "encoder_num_layers": config.num_layers,
        "encoder_num_heads": config.num_heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": config.feed_forward,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": config.norm_first,
        "encoder_layer_drop": 0.0,
    }
    kind = "Wav2Vec2"
    if config.kind == "wavlm":
        kind = "WavLM"
        params |= {"encoder_num_buckets": config.num_buckets, "encoder_max_distance": config.max_distance}
    model = undrawn(lambda: _altered(Architecture(kind, params).build(num_labels), config))
    for name, module in model.encoder.named_modules():
        # The norms of adapters keep torch's epsilon, as those of the convolutions do.
        if isinstance(module, nn.LayerNorm) and not name.endswith(".adapter.norm"):
            module.eps = config.epsilon
    return model


def _altered(model: Wav2Vec2Model, config: EncoderConfig) -> Wav2Vec2Model:
    """Give a model of torchaudio what transformers has besides."""
    transformer = model.encoder.transformer
    if not config.projection_norm:
        model.encoder.feature_projection.layer_norm = nn.Identity()
    if config.position_batch_norm:
        position = transformer.pos_conv_embed
        kernel = config.position_kernel
        position.conv = nn.Conv1d(config.dim, config.dim, kernel, padding=kernel // 2, groups=config.position_groups)
        position.batch_norm = nn.BatchNorm1d(config.dim)
    if config.adapter is not None:
        for layer in transformer.layers:
            layer.adapter = AttentionAdapter(config.dim, config.adapter)
    return model


def _theirs(name: str, shape: torch.Size) -> list[tuple[str, torch.Size]]:
    """The tensors of transformers that a tensor of torchaudio is made of: names and shapes."""
    for ours, theirs in _BEGINNINGS:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    name = name.replace(".adapter.", _ADAPTER)
    if _JOINED in name:
        third = torch.Size((shape[0] // 3, *shape[1:]))
        return [(name.replace(_JOINED, f"attention.{part}_proj."), third) for part in "qkv"]
    return [(name.replace("attention.attention.", "attention."), shape)]


def _read(
    folder: Folder, files: Sequence[Path], language: Path | None, config: EncoderConfig, wanted: set[str]
) -> dict[str, Tensor]:
    """The tensors of all files by the names of an encoder alone, without those that no result depends on."""
    state: dict[str, Tensor] = {}
    for path in (*files, *([language] if language else [])):
        try:
            found = read_weights(path)
        except NotWeights as error:
            raise folder.refusal(f"{path.name} {error}") from None
        if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            raise folder.refusal(f"{path.name} holds no state dict (names to tensors); save it with save_pretrained")
        plain = {_plain(name, config.prefix, wanted): tensor for name, tensor in found.items()}
        if len(plain) < len(found):
            raise folder.refusal(f"{path.name} holds a tensor under two names; save it again with save_pretrained")
        if quantised := [name for name, tensor in plain.items() if name in wanted and not tensor.is_floating_point()]:
            dtype = str(plain[quantised[0]].dtype).removeprefix("torch.")
            raise folder.refusal(
                f"{path.name} holds quantised weights ({quantised[0]} is {dtype}), which are not supported; "
                f"give float16, bfloat16 or float32"
            )
        if path == language:
            if plain.keys() != (own := {name for name in wanted if _ADAPTER in name or name.startswith("lm_head.")}):
                differs = min(plain.keys() ^ own)
                raise folder.refusal(
                    f"{path.name} must hold the adapters and lm_head and nothing else, and {differs} is "
                    f"{'besides' if differs in plain else 'not there'}; fetch or save it again"
                )
        elif twice := sorted(state.keys() & plain.keys()):
            raise folder.refusal(f"{path.name} holds {twice[0]}, and another file does too; fetch or save them again")
        state |= plain
    return {name: tensor for name, tensor in state.items() if name in wanted or not _ignored(name)}


def _plain(name: str, prefix: str, wanted: set[str]) -> str:
    """The name of a tensor in an encoder alone, and with the present name of a weight norm's part."""
    for former, current in _FORMER:
        name = name.replace(former, current)
    plain = name.removeprefix(prefix)
    return plain if plain in wanted or _ignored(plain) else name


def _ignored(name: str) -> bool:
    return any(name == each or (each.endswith(".") and name.startswith(each)) for each in IGNORED)


def _refuse_differences(
    folder: Folder, wanted: Mapping[str, torch.Size], found: Mapping[str, torch.Size], num_labels: int
) -> None:
    """Refuse weights whose names or shapes are not those of the model."""
    head = found.get("lm_head.weight")
    if num_labels and head is not None and head[0] != num_labels:
        raise folder.refusal(
            f"lm_head.weight has {head[0]} rows, and the vocabulary names {num_labels} labels; put the processor and "
            f"the config.json there that the model was trained with"
        )
    if differs := differences(found, wanted):
        raise folder.refusal(
            f"its weights are not those of its config.json (the file {differs}); "
            f"give a checkpoint as save_pretrained writes it"
        )
