"""What was asked of a model, checked against what is known of it, without torch: `model.*`, outputs, layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.models.catalog import CHECKPOINT, MODELS, ModelFacts, checkpoint, weights_path
from pipeline.models.labels import LABEL_SETS, WORD_BOUNDARY
from pipeline.runtime.errors import UserError, did_you_mean

_LISTED = "`python -m pipeline.models` describes them"


def select(name: str, file: str | None, architecture: str | None, labels: Any, *, reads_file: bool) -> ModelFacts:
    """The facts of the chosen model.

    Args:
        name: The choice: a key of `MODELS`, or `checkpoint`.
        file: `model.checkpoint`. This and the next two are `None` for every choice but `checkpoint`.
        architecture: `model.architecture`, a key of `MODELS`.
        labels: `model.labels`: a list, the name of a label set, or `None` for the architecture's own.
        reads_file: Whether the checkpoint is going to be read, and so has to be there.

    Raises:
        UserError: No such model, architecture, label set or file; labels that cannot be; a key of another model.
    """
    if name != CHECKPOINT:
        _known("model.name", name, [*MODELS, CHECKPOINT])
        for key, value in (("checkpoint", file), ("architecture", architecture), ("labels", labels)):
            if value is not None:
                raise UserError(
                    f"model.{key}={_said(value)}: model={name} has weights and labels of its own; "
                    f"add model={CHECKPOINT}, or leave it out"
                )
        return MODELS[name]
    if not file:
        raise UserError("model.checkpoint is required and has no default; add model.checkpoint=FILE")
    path = Path(os.path.abspath(os.path.expanduser(file)))
    if reads_file and not path.is_file():
        reason = "is not a file" if path.exists() else "no such file"
        raise UserError(f"model.checkpoint={file}: {reason}; give a file of weights, safetensors or torch")
    if reads_file and not _may_hold_weights(path):
        raise UserError(f"model.checkpoint={file}: neither safetensors nor a torch file; give a file of weights")
    if architecture is None:
        raise UserError(
            f"model.architecture is required and has no default; add one of {', '.join(MODELS)} ({_LISTED})"
        )
    _known("model.architecture", architecture, list(MODELS))
    return checkpoint(path, architecture, _labels(labels))


def check_sha256(facts: ModelFacts, found: str, wanted: str | None) -> None:
    """Refuse weights other than those that `model.sha256` names.

    Args:
        facts: The model.
        found: SHA-256 of its weights file.
        wanted: `model.sha256`.

    Raises:
        UserError: With both values, the file and what to do.
    """
    if wanted is not None and wanted != found:
        from_hub = facts.architecture is None and facts.bundle is not None
        remedy = "remove the file, so that it is fetched again" if from_hub else "give the file that has it"
        raise UserError(
            f"model.sha256={wanted}: {weights_path(facts)} has {found}; these are other weights, and are not used; "
            f"{remedy}, or give model.sha256={found} if these are meant"
        )


def check_outputs(facts: ModelFacts, outputs: Sequence[str]) -> None:
    """Refuse outputs that a model cannot give.

    Raises:
        UserError: With what it does give, and which models give more.
    """
    said = f"outputs=[{','.join(outputs)}]: model={facts.name}"
    able = ", ".join(name for name, of in MODELS.items() if of.transcribes)
    other = f"or take a model that transcribes: {able} ({_LISTED})"
    if not facts.labels and set(outputs) - {"features"}:
        named = ", give model.labels=" if facts.name == CHECKPOINT else ""
        raise UserError(f"{said} has no labels and gives features only; say outputs=[features]{named}, {other}")
    if not facts.transcribes and "transcripts" in outputs:
        raise UserError(
            f"{said} has labels without a word boundary ({WORD_BOUNDARY}), so its letters cannot be told apart "
            f"into words; say outputs=[emissions,features], {other}"
        )


def select_layers(facts: ModelFacts, value: Any) -> tuple[int, ...]:
    """The layers that `features.layers` names, ascending: `last`, `all`, one, or a list.

    Raises:
        UserError: A layer that the model has not, none, or one twice.
    """
    if value == "last":
        return (facts.num_layers,)
    if value == "all":
        return tuple(range(1, facts.num_layers + 1))
    layers = list(value) if isinstance(value, list) else [value]
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= layer <= facts.num_layers:
            raise UserError(
                f"features.layers={value}: {layer!r} is not a layer of {facts.name}; "
                f"allowed are last, all, or a list of 1 to {facts.num_layers}"
            )
    if not layers or len(set(layers)) != len(layers):
        raise UserError(f"features.layers={value}: give each layer once, and one at least")
    return tuple(sorted(layers))


def _may_hold_weights(path: Path) -> bool:
    """Whether a file begins as safetensors, as torch's zip or as its older pickles do; nothing of it is executed."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return True  # whoever reads it says what is wrong
    return head[8:] == b"{" or head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04")


def _labels(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        _known("model.labels", value, list(LABEL_SETS), "; or give a list, blank first")
        return LABEL_SETS[value]
    said = f"model.labels={_said(value)}"
    if not isinstance(value, list):
        raise UserError(f"{said}: must be null, a list, or one of {', '.join(LABEL_SETS)}")
    for label in value:
        # A digit is read as a number; what YAML takes for a truth value or nothing was not quoted.
        if isinstance(label, bool) or not isinstance(label, str | int) or str(label).split() != [str(label)]:
            raise UserError(
                f"{said}: {label!r} is not a label; give text without spaces, quoted where it means something else: "
                f"[-,'|',a,b,'null']"
            )
    labels = tuple(map(str, value))
    if len(set(labels)) != len(labels):
        twice = next(label for index, label in enumerate(labels) if label in labels[:index])
        raise UserError(f"{said}: has {twice!r} twice; give each label once, in the order of the logits")
    if len(labels) == 1 or labels[:1] == (WORD_BOUNDARY,):
        raise UserError(f"{said}: the blank comes first, then the labels, in the order of the logits: [-,'|',a,b]")
    return labels


def _known(key: str, value: str, allowed: Sequence[str], otherwise: str = "") -> None:
    if value not in allowed:
        close = did_you_mean(value, allowed)
        raise UserError(f"{key}={value}: not allowed{close}; there are {', '.join(allowed)}{otherwise}")


def _said(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
