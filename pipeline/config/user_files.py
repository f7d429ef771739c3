"""Reads a person's own configuration files. They are data: each stands for `key=value` that could have been typed.

Hydra never sees them. A file says which choice it builds on, which choices of other groups go with it, and values,
whose keys are checked as those that are typed. So a file reaches neither a `_target_` nor Hydra's own configuration.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.groups import GROUPS, HIDDEN, OwnConf, choice_file, choose, group_choices, names_in
from pipeline.runtime.errors import UserError, explain
from pipeline.runtime.redaction import mask_assignment

_MAX_BYTES = 2**20
_MAX_REFERENCES = 10
"""The most references to anchors in one file, because references to references hold a billion values in ten lines."""


@dataclass(frozen=True)
class Value:
    """A value: its full key, as messages quote it, the file if a person's own file has it, and as it can be typed."""

    key: str
    value: Any
    said: str
    file: Path | None = None
    typed: str = ""


def read_own(own: OwnConf, chosen: dict[str, str]) -> list[Value]:
    """Read the files of a person's own that take part; a later value goes before an earlier one.

    Args:
        own: The person's own files.
        chosen: The choices that were typed, by group. Choices in files are added; then each is replaced by the one
            that it builds on, which is shipped or another package's, or empty where it builds on none.

    Raises:
        UserError: A file cannot be read, is not YAML (with the line), or does not say what it builds on.
    """
    layers: dict[str, list[Value]] = {}
    chosen[""] = own.name
    order = ("", *GROUPS)  # the dataset before the model, because a dataset may choose a model
    while waiting := [group for group in order if group in chosen and group not in layers]:
        group = waiting[0]
        name, chosen[group] = chosen[group], ""
        layers[group] = _layer(own, group, name, chosen)
        hidden = {key for key in HIDDEN if key.startswith(f"{group}.")}  # a file that sets them needs no other
        if not chosen[group] and not hidden <= {value.key for value in layers[group]}:
            raise UserError(
                f"{choice_file(group, name, own)}: builds on nothing; begin it with `defaults: [NAME, _self_]`, "
                f"where NAME is one of {', '.join(group_choices(group))}"
            )
    del chosen[""]
    return [value for group in reversed(order) for value in layers.get(group, ())]


def _layer(own: OwnConf, group: str, name: str, chosen: dict[str, str], above: tuple[str, ...] = ()) -> list[Value]:
    """The values of a choice and of the files that it builds on; none for one that is not the person's own."""
    if name not in names_in(own.root / group):
        chosen[group] = name
        return []
    path = choice_file(group, name, own)
    text, content = _read(path)
    if name in above:
        raise UserError(f"{path}: builds on itself, or on a file that does; correct `defaults`")
    found: list[Value] = []
    defaults = content.pop("defaults", [])
    for number, item in enumerate(defaults if isinstance(defaults, list) else [None]):
        key = next(iter(item)) if isinstance(item, dict) and len(item) == 1 else ""
        other = re.sub(r"^override /?", "", str(key))
        if isinstance(item, str) and "_self_" not in defaults[:number]:
            if item != "_self_":
                item = choose(f"{path}: {group or 'defaults'}", group, item, own)
                found += _layer(own, group, item, chosen, (*above, name))
        elif other != key and other in GROUPS:
            chosen.setdefault(other, choose(f"{path}: {other}", other, str(item[key]), own))
        else:
            raise UserError(
                f"{path}: defaults={defaults}: must be a list of names to build on, then _self_, and "
                "`override /GROUP: NAME` for choices of other groups"
            )
    package = re.search(r"^\s*#\s*@package\s+(\S+)", text, re.MULTILINE)
    if package and package[1] != "_global_":
        raise UserError(f"{path}: @package {package[1]}: not supported; write _global_, or leave the line out")
    for key, value in flat(content, "" if package or not group else f"{group}."):
        found.append(Value(key, value, f"{path}: {mask_assignment(f'{key}={value}')}", path))
    return found


def _read(path: Path) -> tuple[str, dict[Any, Any]]:
    """The text of a file, and the text as YAML."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: larger than 1 MB, so not a configuration; give `key: value` lines")
        text = path.read_text(encoding="utf-8")
        references = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        if references > _MAX_REFERENCES:
            raise UserError(f"{path}: {references} references to anchors; write the values out")
        config = OmegaConf.load(io.StringIO(text))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not YAML ({error.problem}); correct this line, or the line before") from None
    except (OSError, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a configuration ({explain(error)}); give `key: value` lines in UTF-8") from None
    if not isinstance(config, DictConfig):
        raise UserError(f"{path}: is a list; give `key: value` lines")
    return text, OmegaConf.to_container(config)  # type: ignore[return-value]


def flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested mappings with their full keys."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
