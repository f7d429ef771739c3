"""What a run asks of a model, checked against what is known of the model without torch: outputs and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.models.catalog import MODELS
from pipeline.models.facts import ModelFacts
from pipeline.runtime.errors import UserError


def check_outputs(facts: ModelFacts, outputs: Sequence[str], *, takes_labels: bool = False) -> None:
    """Refuse outputs that a model cannot give.

    Args:
        facts: The model.
        outputs: The value of `outputs`.
        takes_labels: Whether `model.labels` can be set for this model.

    Raises:
        UserError: With the outputs that the model gives, and the models that give more.
    """
    said = f"outputs=[{','.join(outputs)}]: model={facts.name}"
    able = ", ".join(name for name, of in MODELS.items() if of.transcribes)
    other = f"or take a model that transcribes: {able} (`python -m pipeline.models` describes them)"
    if not facts.labels and set(outputs) - {"features"}:
        named = ", give model.labels=" if takes_labels else ""
        raise UserError(f"{said} has no labels and gives features only; say outputs=[features]{named}, {other}")
    if not facts.transcribes and "transcripts" in outputs:
        raise UserError(
            f"{said} has labels without a word boundary (such as |), so its letters cannot be told apart "
            f"into words; say outputs=[emissions,features], {other}"
        )


def select_layers(facts: ModelFacts, value: Any) -> tuple[int, ...]:
    """The layers that `features.layers` names, ascending.

    Args:
        facts: The model.
        value: `last`, `all`, the number of a layer, or a list of numbers.

    Raises:
        UserError: The model does not have a layer, no layer is named, or one is named twice.
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
