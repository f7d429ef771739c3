"""`config.json` of a checkpoint: which encoder it is. What this project cannot run exactly is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.models.facts import Body
from pipeline.models.huggingface.folder import Folder

CLASSES = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "unispeech": "UniSpeech",
    "unispeech-sat": "UniSpeechSat",
}
"""The encoders: `model_type`, and how the names of their classes begin."""
_HEADS = ("ForCTC", "ForPreTraining", "Model")
_OTHERS = {
    "wav2vec2-bert": "Wav2Vec2-BERT reads filter banks in place of waveforms, and its layers are Conformer blocks",
    "wav2vec2-conformer": "its layers are Conformer blocks",
    "data2vec-audio": "data2vec has a stack of positional convolutions, each with a norm",
    "sew": "SEW squeezes the frames before its layers and stretches them afterwards",
    "sew-d": "SEW-D squeezes the frames, and has the attention of DeBERTa",
    "whisper": "Whisper writes words with a decoder and has no CTC labels",
    "speech-encoder-decoder": "it writes words with a decoder and has no CTC labels",
    "mctct": "M-CTC-T reads filter banks in place of waveforms",
}
"""Models of speech that are asked for and cannot be run, with the reason."""
_CONVOLUTIONS = {
    "conv_dim": (512,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
}


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder and whether it has CTC labels. The defaults are those of transformers' `Wav2Vec2Config`.

    Attributes:
        architecture: The class, such as `Wav2Vec2ForCTC`.
        kind: `model_type`.
        num_labels: Rows of the layer that gives the logits; 0 for an encoder without.
        num_layers, dim, num_heads, feed_forward: Number and shape of the transformer's layers.
        norm_first: Whether the norms come before attention and feed-forward (`do_stable_layer_norm`).
        epsilon: What the norms of the transformer add to the variance.
        extractor_norm: `group` or `layer`.
        extractor_bias: Whether the convolutions of the front end have a bias.
        channels, kernels, strides: The convolutions of the front end.
        projection_norm: Whether there is a norm before the projection of the front end's output.
        position_kernel, position_groups: The positional convolution.
        position_batch_norm: Whether a batch norm comes before it, in place of its weight norm.
        num_buckets, max_distance: WavLM's position bias.
        adapter: Width of the attention adapters; `None` where there are none.
    """

    architecture: str
    kind: str
    num_labels: int
    num_layers: int
    dim: int
    num_heads: int
    feed_forward: int
    norm_first: bool
    epsilon: float
    extractor_norm: str
    extractor_bias: bool
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    projection_norm: bool
    position_kernel: int
    position_groups: int
    position_batch_norm: bool
    num_buckets: int
    max_distance: int
    adapter: int | None

    @property
    def has_labels(self) -> bool:
        """Whether the model has a CTC head."""
        return self.architecture.endswith(_HEADS[0])

    @property
    def prefix(self) -> str:
        """What stands before the names of the encoder's tensors in a file with a head."""
        return f"{self.kind.replace('-', '_')}."

    def body(self, normalize_waveform: bool, normalize_epsilon: float) -> Body:
        """The encoder as the planner sees it."""
        return Body(
            self.num_layers,
            self.dim,
            self._num_params(),
            normalize_waveform,
            tuple(zip(self.kernels, self.strides, strict=True)),
            normalize_epsilon,
        )

    def _num_params(self) -> int:
        """Number of parameters without the layer that gives the logits."""
        dim = self.dim
        total = 0
        for index, (channels, kernel) in enumerate(zip(self.channels, self.kernels, strict=True)):
            before = self.channels[index - 1] if index else 1
            normed = self.extractor_norm == "layer" or index == 0
            total += channels * (before * kernel + self.extractor_bias + 2 * normed)
        total += (2 * self.channels[-1] if self.projection_norm else 0) + (self.channels[-1] + 1) * dim
        total += dim * dim // self.position_groups * self.position_kernel + dim
        total += 2 * dim if self.position_batch_norm else self.position_kernel
        layer = 4 * dim * (dim + 1) + (dim + 1) * self.feed_forward + (self.feed_forward + 1) * dim + 4 * dim
        if self.adapter is not None:
            layer += 2 * dim + (dim + 1) * self.adapter + (self.adapter + 1) * dim
        if self.kind == "wavlm":
            layer += self.num_heads + 8 * (dim // self.num_heads + 1)
            total += self.num_buckets * self.num_heads
        return total + self.num_layers * layer + 2 * dim


def read_config(folder: Folder) -> EncoderConfig:
    """Read `config.json`.

    Raises:
        UserError: It is not there or damaged, or the model is one that cannot be run.
    """
    values = _Values(folder)
    _refuse_speechbrain(values)
    kind, architecture = _class(values)
    _refuse_other_layers(values)
    norm = values.get("feat_extract_norm", "group")
    if norm not in ("group", "layer"):
        raise values.refusal("feat_extract_norm", f"says {norm!r}; group and layer are supported")
    channels, kernels, strides = (values.numbers(key, default) for key, default in _CONVOLUTIONS.items())
    if not len(channels) == len(kernels) == len(strides) >= 2:
        raise values.refusal("conv_dim", "needs as many numbers as conv_kernel and conv_stride, and two at least")
    dim, heads = values.number("hidden_size", 768), values.number("num_attention_heads", 12)
    groups = values.number("num_conv_pos_embedding_groups", 16)
    for key, parts in (("num_attention_heads", heads), ("num_conv_pos_embedding_groups", groups)):
        if dim % parts:
            raise values.refusal(key, f"{parts} does not divide hidden_size={dim}")
    norm_first = values.flag("do_stable_layer_norm", False)
    # transformers has adapters only in layers whose norms come first, and none for WavLM.
    adapters = norm_first and kind != "wavlm" and values.get("adapter_attn_dim") is not None
    return EncoderConfig(
        architecture=architecture,
        kind=kind,
        num_labels=values.number("vocab_size", 32) if architecture.endswith(_HEADS[0]) else 0,
        num_layers=values.number("num_hidden_layers", 12),
        dim=dim,
        num_heads=heads,
        feed_forward=values.number("intermediate_size", 3072),
        norm_first=norm_first,
        epsilon=values.positive("layer_norm_eps", 1e-5),
        extractor_norm=norm,
        extractor_bias=values.flag("conv_bias", False),
        channels=channels,
        kernels=kernels,
        strides=strides,
        projection_norm=kind != "hubert" or values.flag("feat_proj_layer_norm", True),
        position_kernel=values.number("num_conv_pos_embeddings", 128),
        position_groups=groups,
        position_batch_norm=kind == "hubert" and values.flag("conv_pos_batch_norm", False),
        num_buckets=values.number("num_buckets", 320) if kind == "wavlm" else 0,
        max_distance=values.number("max_bucket_distance", 800) if kind == "wavlm" else 0,
        adapter=values.number("adapter_attn_dim", 0) if adapters else None,
    )


def _refuse_speechbrain(values: _Values) -> None:
    if values.get("speechbrain_interface"):
        raise values.refusal(
            "speechbrain_interface",
            "says that it is a model of SpeechBrain, which has more layers between encoder and labels; "
            "give a checkpoint of transformers",
        )


def _refuse_other_layers(values: _Values) -> None:
    """Refuse layers, weights, code and activations that this project does not have."""
    for key, meaning in (
        ("add_adapter", "more convolutions after the encoder"),
        ("quantization_config", "quantised weights"),
        ("auto_map", "code that comes with the checkpoint"),
    ):
        if values.get(key):
            raise values.refusal(key, f"stands for {meaning}, which is not supported; give a checkpoint without")
    for key in ("hidden_act", "feat_extract_activation"):
        if (activation := values.get(key, "gelu")) != "gelu":
            raise values.refusal(key, f"says {activation!r}, and the only activation that is supported is gelu")


def _class(values: _Values) -> tuple[str, str]:
    """`model_type` and the class of the model."""
    kind = values.get("model_type")
    classes = ", ".join(f"{name}{_HEADS[0]}" for name in CLASSES.values())
    if not isinstance(kind, str) or kind not in CLASSES:
        why = f" ({_OTHERS[kind]})" if isinstance(kind, str) and kind in _OTHERS else ""
        raise values.refusal("model_type", f"says {kind!r}, which cannot be run{why}; give a checkpoint of {classes}")
    named = values.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        said = f"says {named!r}" if named else "is not there"
        raise values.refusal("architectures", f"{said}; let it name the one class of the model, such as {classes}")
    if named[0] not in {f"{CLASSES[kind]}{head}" for head in _HEADS}:
        raise values.refusal(
            "architectures",
            f"says {named[0]!r}; give a checkpoint of {CLASSES[kind]}ForCTC, or of the encoder alone "
            f"({CLASSES[kind]}Model), for features",
        )
    return kind, named[0]


class _Values:
    """The values of `config.json`, checked one at a time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._values: Mapping[str, Any] = folder.find("config.json") or {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value, whatever it is; the default where there is none."""
        value = self._values.get(key, default)
        return default if value is None else value

    def refusal(self, key: str, reason: str) -> Exception:
        """The error that refuses a value."""
        return self._folder.refusal(f"{key} in config.json {reason}")

    def number(self, key: str, default: int) -> int:
        """A whole number above 0."""
        value = self.get(key, default)
        if not _is_number(value):
            raise self.refusal(key, f"says {value!r}; it must be a whole number above 0")
        return int(value)

    def numbers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of whole numbers above 0."""
        value = self.get(key, default)
        if not isinstance(value, list | tuple) or not all(map(_is_number, value)):
            raise self.refusal(key, f"says {value!r}; it must be a list of whole numbers above 0")
        return tuple(value)

    def positive(self, key: str, default: float) -> float:
        """A number above 0."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise self.refusal(key, f"says {value!r}; it must be a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, f"says {value!r}; it must be true or false")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**7
