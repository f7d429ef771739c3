"""Loads a file of weights, safetensors or torch, into an architecture. Files are read as plain data or not at all."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchaudio.models import Wav2Vec2Model

from pipeline.models import fairseq
from pipeline.models.architectures import Architecture, architecture_of
from pipeline.models.catalog import MODELS
from pipeline.models.labels import FAIRSEQ_SPECIAL
from pipeline.runtime.errors import UserError

_NESTED = ("state_dict", "model_state_dict", "model")
"""Where trainers keep the weights beside the optimiser's state."""
_PREFIXES = ("module.", "model.")
"""What DataParallel, and Lightning or the bundles' own wrapper, put before every name."""
_FAIRSEQ2_SIZE = (24, 1024)
"""Layers and width of omniASR_CTC_300M, which has 16 heads as `wav2vec2_xlsr_300m` does."""
_SHOWN = 3
UNREADABLE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    pickle.UnpicklingError,
    SafetensorError,
)
"""What torch and safetensors raise over bytes that are no weights."""


def load_checkpoint(path: Path, architecture: str, labels: Sequence[str]) -> Wav2Vec2Model:
    """Build an architecture and load a file of weights into it, as float32.

    The file may hold `model.state_dict()`, bare or inside what a trainer saved; or be the published file of a bundle,
    with the names that torch formerly gave to a weight norm and with the unused label rows that torchaudio removes; or
    be a file of fairseq.

    Args:
        path: The file.
        architecture: The model of the catalogue whose architecture it is.
        labels: The labels in the order of the logits; empty for a model without a CTC head.

    Raises:
        UserError: The file cannot be read as plain data, or is not of this architecture and these labels.
    """
    said = f"model.checkpoint={path}"
    try:
        content = read_weights(path)
    except NotWeights as error:
        raise UserError(f"{said}: {error}") from None
    state = _bare(content)
    if state is None:
        raise UserError(
            f"{said}: holds no state dict (names to tensors); "
            f"save it with torch.save(model.state_dict(), FILE) or safetensors"
        )
    if fairseq.is_fairseq2(state):
        _refuse_other_sizes(said, architecture)
        state = fairseq.renamed(state)
        _refuse_other_training(said, architecture, labels, "aux.weight" in state, normalizes=True)
    elif fairseq.is_fairseq(state):
        state = fairseq.renamed(state)
        _refuse_other_training(said, architecture, labels, "aux.weight" in state, fairseq.normalizes_waveforms(content))
    elif any(".pos_conv_embed." in name and "encoder.transformer." not in name for name in state):
        raise UserError(
            f"{said}: holds weights of transformers; give its folder, with model=huggingface model.checkpoint=DIR "
            f"(models of SpeechBrain, which have more layers before their labels, cannot be run)"
        )
    builder = architecture_of(architecture)
    # With other labels than the architecture's own nobody knows which rows would be unused.
    if tuple(labels) == MODELS[architecture].labels:
        _remove_unused_labels(state, builder, len(labels))
    model = undrawn(lambda: builder.build(len(labels)))
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {_current(name): tensor.shape for name, tensor in state.items()}
    _refuse_differences(said, architecture, len(labels), found, expected)
    _assign(model, state)
    return model


def load_published(path: Path, name: str) -> Wav2Vec2Model:
    """Build the model of a bundle and load its published file: what `get_model` of the bundle gives, bare.

    `get_model` first draws random weights, which takes a second for each 95 million.

    Args:
        path: The file.
        name: The bundle's name in the catalogue.

    Raises:
        OSError: The file cannot be read.
        Exception: One of `UNREADABLE`, if it does not hold the weights of this model.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    builder, num_labels = architecture_of(name), len(MODELS[name].labels)
    _remove_unused_labels(state, builder, num_labels)
    model = undrawn(lambda: builder.build(num_labels))
    _assign(model, state)
    return model


def reason_of(error: BaseException) -> str:
    """Why a file holds no weights, in one line, out of what torch or safetensors raised."""
    if isinstance(error, pickle.UnpicklingError):
        return f"it holds {_more_than_data(error)}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _WithoutDrawing(TorchFunctionMode):
    """Leaves out random initialisation, because the tensors of a file replace the weights.

    Memory that is never written takes no space. The device `meta` would do the same, but it imports sympy for a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("uniform_", "normal_")):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def undrawn(build: Callable[[], Wav2Vec2Model]) -> Wav2Vec2Model:
    """Build a model whose weights have no values yet."""
    with _WithoutDrawing():
        return build()


def _assign(model: Wav2Vec2Model, state: Mapping[str, Tensor]) -> None:
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)


class NotWeights(Exception):
    """Says why a file cannot be read as weights, and what to do; the name of the file is to stand before it."""


def read_weights(path: Path) -> Any:
    """Read what a file holds, as plain data; safetensors are told by their header, whatever the name.

    Raises:
        NotWeights: The file cannot be read, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"
        if is_safetensors:
            return load_file(path)
        with torch.serialization.safe_globals(fairseq.HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise NotWeights(f"cannot be read ({error.strerror}); give a file of weights") from None
    except pickle.UnpicklingError as error:
        raise NotWeights(
            f"holds {_more_than_data(error)}; save the weights alone, "
            f"with torch.save(model.state_dict(), FILE) or safetensors, where the file comes from"
        ) from None
    except UNREADABLE as error:
        raise NotWeights(
            f"is neither a safetensors nor a torch file, or is damaged ({reason_of(error)}); give a file of weights"
        ) from None


def _more_than_data(error: pickle.UnpicklingError) -> str:
    """What a file holds that torch refuses to unpickle.

    In place of torch's own words, which recommend to load without the check; that would run whatever the file says.
    """
    culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"{f'more than data ({culprit[1]})' if culprit else 'no plain data'}, and loading that could run code"


def _bare(content: Any) -> dict[str, Tensor] | None:
    """Name to tensors, out of what a trainer puts around them; `None` where there are none."""
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        return None
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()):
        return None
    state = dict(content)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _refuse_other_sizes(said: str, architecture: str) -> None:
    """Refuse a file of fairseq2 of another size than the one whose number of attention heads is known (300M)."""
    if MODELS[architecture].body[:2] != _FAIRSEQ2_SIZE:
        raise UserError(
            f"{said}: is a file of fairseq2, and only those of 24 layers of width 1024 can be run, such as "
            f"omniASR_CTC_300M, because the file does not say its number of attention heads; "
            f"give model.architecture=wav2vec2_xlsr_300m, or convert it to transformers"
        )


def _refuse_other_training(
    said: str, architecture: str, labels: Sequence[str], has_head: bool, normalizes: bool | None
) -> None:
    """Refuse a file of fairseq or fairseq2 whose labels or waveforms are not those that the model would be run with."""
    if has_head and tuple(labels[:1]) != FAIRSEQ_SPECIAL[:1]:
        raise UserError(
            f"{said}: is a fine-tune of fairseq, whose blank is {FAIRSEQ_SPECIAL[0]}; "
            f"give the dictionary that it was trained with, model.labels=DIR/dict.ltr.txt"
        )
    expected = MODELS[architecture].body.normalize_waveform
    if normalizes not in (None, expected):
        ways = {True: "normalised waveforms", False: "waveforms as they are"}
        raise UserError(
            f"{said}: fairseq trained it on {ways[not expected]}, and model.architecture={architecture} is given "
            f"{ways[expected]}; convert it to transformers and run it with model=huggingface"
        )


def _remove_unused_labels(state: dict[str, Tensor], architecture: Architecture, num_labels: int) -> None:
    """Remove the label rows that torchaudio removes from published weights; the number of rows tells them."""
    unused = architecture.unused_labels
    for name in {"aux.weight", "aux.bias"} & state.keys():
        rows = len(state[name])
        if rows == num_labels + len(unused):
            state[name] = state[name][[row for row in range(rows) if row not in unused]]


def _current(name: str) -> str:
    """The name of a weight norm's part since it is a parametrization; torch reads the former ones too."""
    for former, current in (("weight_g", "original0"), ("weight_v", "original1")):
        name = name.replace(f"pos_conv_embed.conv.{former}", f"pos_conv_embed.conv.parametrizations.weight.{current}")
    return name


def _refuse_differences(
    said: str, architecture: str, num_labels: int, found: Mapping[str, torch.Size], expected: Mapping[str, torch.Size]
) -> None:
    """Refuse weights whose names or shapes are not those of the model that has been built."""
    rows = found["aux.weight"][0] if "aux.weight" in found else 0
    # Where everything but the output layer fits, the labels are what a person has to change.
    body = [{name: shape for name, shape in of.items() if not name.startswith("aux.")} for of in (found, expected)]
    if body[0] == body[1] and rows != num_labels:
        raise UserError(
            f"{said}: its output layer has {rows or 'no'} labels and model.labels names {num_labels or 'none'}; "
            f"give model.labels= with {f'its {rows} labels, blank first: a list or file' if rows else 'no labels: []'}"
        )
    if differs := differences(found, expected):
        raise UserError(
            f"{said}: is not of model.architecture={architecture} (it {differs}); "
            f"give the architecture that it was trained with (`python -m pipeline.models` lists them)"
        )


def differences(found: Mapping[str, torch.Size], expected: Mapping[str, torch.Size]) -> str:
    """Say in words how the names and shapes of tensors differ from the expected ones; an empty text if they do not."""
    shapes = [
        f"{name} {tuple(found[name])} for {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return "; ".join(
        f"{what} {_some(names)}"
        for what, names in (
            ("lacks", [name for name in expected if name not in found]),
            ("has besides", [name for name in found if name not in expected]),
            ("has other shapes:", shapes),
        )
        if names
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
