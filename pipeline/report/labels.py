"""Names labels so that a reader knows each of them: the blank, the delimiter, and labels that cannot be seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORD_BOUNDARY = "|"
"""The delimiter of runs of an earlier release, which do not say it."""


def roles_of(metadata: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of the labels that stand for no character, by their indices.

    Args:
        metadata: The metadata of the table `emissions`.

    >>> roles_of({"labels": ["<pad>", "|", "a"], "blank": 0, "delimiter": "|"})
    {1: 'delimiter', 0: 'blank'}
    """
    labels, delimiter = list(metadata["labels"]), metadata.get("delimiter", WORD_BOUNDARY)
    roles = {labels.index(delimiter): "delimiter"} if delimiter in labels else {}
    return roles if metadata.get("blank") is None else {**roles, int(metadata["blank"]): "blank"}


def label_names(metadata: Mapping[str, Any]) -> list[str]:
    """Return a readable name for each label, in the order of an emission's columns.

    Args:
        metadata: The metadata of the table `emissions`.

    >>> label_names({"labels": ["<pad>", "|", "a", " "], "blank": 0, "delimiter": "|"})
    ['blank <pad>', 'delimiter |', 'a', 'U+0020']
    """
    roles, names = roles_of(metadata), [visible(label) for label in metadata["labels"]]
    return [f"{roles[index]} {name}" if index in roles else name for index, name in enumerate(names)]


def visible(label: str) -> str:
    """Return a label, or the code points of one that is only white space."""
    return label if label.strip() else code_points(label)


def code_points(text: str) -> str:
    """Return the code points of a text, such as `U+0928`."""
    return " ".join(f"U+{ord(character):04X}" for character in text)
