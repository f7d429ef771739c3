"""A file of one's own weights into a named architecture: safetensors or torch, as plain data or not at all."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchaudio
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchaudio.models import Wav2Vec2Model, wav2vec2_model, wavlm_model

from pipeline.models import digits
from pipeline.models.catalog import MODELS, ModelFacts, weights_path
from pipeline.runtime.errors import UserError

_NESTED = ("state_dict", "model_state_dict", "model")
"""Where trainers keep the weights beside the optimiser's state."""
_PREFIXES = ("module.", "model.")
"""What DataParallel, and Lightning or the bundles' own wrapper, put before every name."""
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


def load_checkpoint(facts: ModelFacts) -> Wav2Vec2Model:
    """Build the architecture and load the file, as float32.

    Taken as they are: `model.state_dict()`, bare or inside what a trainer saved; the bundles' published files, with
    torch's former names of the weight norm and with the unused label rows that the bundles remove.

    Args:
        facts: Of `catalog.checkpoint`.

    Raises:
        UserError: The file cannot be read as plain data, or is not of this architecture and these labels.
    """
    path = weights_path(facts)
    state = _bare(_read(path))
    if state is None:
        raise UserError(
            f"model.checkpoint={path}: holds no state dict (names to tensors); "
            f"save it with torch.save(model.state_dict(), FILE) or safetensors"
        )
    _remove_unused_labels(state, facts)
    # On no device: the file's own tensors become the weights, and none are made at random first.
    with torch.device("meta"):
        model = _build(facts)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    _refuse_differences(facts, {_current(name): tensor.shape for name, tensor in state.items()}, expected)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model


def _build(facts: ModelFacts) -> Wav2Vec2Model:
    num_labels = len(facts.labels) or None
    if facts.bundle is None:
        return wav2vec2_model(**(digits.ARCHITECTURE | {"aux_num_out": num_labels}))
    bundle = getattr(torchaudio.pipelines, facts.bundle)
    factory = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}[bundle._model_type]
    return factory(**(bundle._params | {"aux_num_out": num_labels}))


def _read(path: Path) -> Any:
    """What the file holds; safetensors are told by their header, whatever the name."""
    try:
        with open(path, "rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"
        if is_safetensors:
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"model.checkpoint={path}: cannot be read ({error.strerror}); give a file of weights") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"model.checkpoint={path}: holds {more_than_data(error)}; save the weights alone, "
            f"with torch.save(model.state_dict(), FILE) or safetensors, where the file comes from"
        ) from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model.checkpoint={path}: is neither a safetensors nor a torch file, or is damaged "
            f"({type(error).__name__}: {reason}); give a file of weights"
        ) from None


def more_than_data(error: pickle.UnpicklingError) -> str:
    """What a file holds that torch refuses to unpickle.

    In place of torch's own words, which recommend to load without the check; that would run whatever the file says.
    """
    culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"{f'more than data ({culprit[1]})' if culprit else 'no plain data'}, and loading that could run code"


def _bare(content: Any) -> dict[str, Tensor] | None:
    """Names to tensors, out of what a trainer puts around them; `None` where there are none."""
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


def _remove_unused_labels(state: dict[str, Tensor], facts: ModelFacts) -> None:
    """Published weights carry label rows of fairseq's dictionary, which the bundle removes while loading.

    See `_remove_aux_axes` in torchaudio/pipelines/_wav2vec2/utils.py. Told by the number of rows, and only with the
    architecture's own labels: with others nobody knows which rows would be unused.
    """
    if facts.architecture is None or facts.bundle is None or facts.labels != MODELS[facts.architecture].labels:
        return
    unused = getattr(getattr(torchaudio.pipelines, facts.bundle), "_remove_aux_axis", ())
    for name in {"aux.weight", "aux.bias"} & state.keys():
        rows = len(state[name])
        if rows == len(facts.labels) + len(unused):
            state[name] = state[name][[row for row in range(rows) if row not in unused]]


def _current(name: str) -> str:
    """The name of a weight norm's part since it is a parametrization; torch reads the former ones too."""
    for former, current in (("weight_g", "original0"), ("weight_v", "original1")):
        name = name.replace(f"pos_conv_embed.conv.{former}", f"pos_conv_embed.conv.parametrizations.weight.{current}")
    return name


def _refuse_differences(facts: ModelFacts, found: Mapping[str, torch.Size], expected: Mapping[str, torch.Size]) -> None:
    said = f"model.checkpoint={weights_path(facts)}"
    rows = found["aux.weight"][0] if "aux.weight" in found else 0
    # Told first, and alone where all else fits: it is the labels that are to be changed then.
    body = [{name: shape for name, shape in of.items() if not name.startswith("aux.")} for of in (found, expected)]
    if body[0] == body[1] and rows != len(facts.labels):
        raise UserError(
            f"{said}: its output layer has {rows or 'no'} labels and model.labels names {len(facts.labels) or 'none'}; "
            f"give model.labels=[...] with {f'its {rows} labels, blank first' if rows else 'no labels'}"
        )
    differences = [
        f"{what} {_some(names)}"
        for what, names in (
            ("lacks", [name for name in expected if name not in found]),
            ("has besides", [name for name in found if name not in expected]),
            (
                "has other shapes:",
                [
                    f"{name} {tuple(found[name])} for {tuple(shape)}"
                    for name, shape in expected.items()
                    if name in found and found[name] != shape
                ],
            ),
        )
        if names
    ]
    if differences:
        raise UserError(
            f"{said}: is not of model.architecture={facts.architecture} (it {'; '.join(differences)}); "
            f"give the architecture that it was trained with (`python -m pipeline.models` lists them)"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
