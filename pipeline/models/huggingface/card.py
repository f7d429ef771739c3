"""What a checkpoint is, for a person who thinks of using it: from its small files and its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.models.huggingface.folder import Folder

CARD = "README.md"
"""The card of a repository."""
_LIMIT = 100_000
"""Characters of a card that are read."""


def read_card(folder: Folder) -> dict[str, str | None]:
    """What the head of a card says of the language and the licence; `None` where it does not say it.

    The head is YAML between two lines `---`. A card that is damaged says nothing.
    """
    try:
        with open(folder.path / CARD, encoding="utf-8", errors="replace") as file:
            lines = file.read(_LIMIT).splitlines()
    except OSError:
        lines = []
    said: Any = None
    if lines[:1] == ["---"] and "---" in lines[1:]:
        try:
            # As plain text: `no` is Norwegian.
            said = yaml.load("\n".join(lines[1 : lines.index("---", 1)]), Loader=yaml.BaseLoader)
        except (yaml.YAMLError, RecursionError):
            said = None
    found = said if isinstance(said, Mapping) else {}
    named = "license_name" if found.get("license") == "other" and "license_name" in found else "license"
    return {"language": _text(found.get("language")), "licence": _text(found.get(named))}


def _text(value: Any) -> str | None:
    values = value if isinstance(value, list) else [value]
    return ", ".join(each for each in values if isinstance(each, str) and each) or None
