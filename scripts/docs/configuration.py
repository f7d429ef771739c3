"""Write the reference of the configuration: every key with its type, default, allowed values and description.

The keys, types and defaults come from the dataclasses. The description of a key is its comment in conf/, which
`--help` shows too, or its line in the docstring of the dataclass.
"""

from __future__ import annotations

import functools
import html
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, fields, is_dataclass
from itertools import groupby
from typing import Any, get_args, get_origin, get_type_hints

from docstrings import attributes
from mkdocs.exceptions import PluginError
from omegaconf import MISSING, OmegaConf

from pipeline.config import run_config as checked
from pipeline.config.groups import GROUPS, PRIMARY, Setting, choice_file, group_choices
from pipeline.config.groups import describe as describe_choice
from pipeline.config.schema import RULES, Settings
from pipeline.datasets import CONNECTORS
from pipeline.models import __main__ as models
from pipeline.models.catalog import MODELS
from pipeline.models.sources import SOURCES
from pipeline.stages.identity import describe

_KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "one value or a list"}
_CHECKPOINT, _HUGGINGFACE = "checkpoint", "huggingface"
_BESIDES = ("precision", "shard.hours", "model.architecture", "model.labels", "model.language")
"""What identifies a run besides the identity of a run whose model is no checkpoint."""


class UndescribedKey(PluginError):
    """A key that nothing is said of: it needs a comment in conf/."""


@dataclass(frozen=True)
class Key:
    """A key: its full name, what may be given in words, its default as it is typed, what is said of it."""

    name: str
    kind: str
    default: str
    said: str


def reference() -> str:
    """The page, in Markdown."""
    parts = ["## Every run", *map(_entry, main_keys())]
    parts += ["## `dataset=`: where recordings come from"]
    for name in group_choices("dataset"):
        keys = dataset_keys(name)
        said = describe_choice("dataset", name).said
        parts += [f"### `dataset={name}` {{ #dataset-{name} }}", _text(said)]
        parts += [_entry(key, place=f"dataset-{name}") for key in keys] if keys else ["Nothing to set."]
    parts += ["## `model=`: what reads them", *_models()]
    for group, does in (
        ("decoder", "how labels become text"),
        ("executor", "where the work is done"),
        ("vad", "which stretches of recordings are speech"),
    ):
        parts += [f"## `{group}=`: {does}"]
        for name in group_choices(group):
            parts += [f"`{group}={name}`: {_text(describe_choice(group, name).said)}"]
            parts += [_entry(key, place=f"{group}-{name}") for key in own_keys(group, name)]
    return "\n\n".join(parts)


def main_keys() -> list[Key]:
    """The keys of every run, but the choices."""
    said = {setting.key: setting for setting in describe_choice("", PRIMARY).settings}
    return _keys(Settings, said, skip=GROUPS)


def dataset_keys(choice: str) -> list[Key]:
    """The keys of `dataset=choice`."""
    file = choice_file("dataset", choice)
    connector = OmegaConf.load(file)
    connector = connector.get("dataset", connector).connector
    said = {setting.key: setting for setting in describe_choice("dataset", choice).settings}
    return _keys(CONNECTORS.load(connector).Options, said, "dataset.")


def own_keys(group: str, name: str) -> list[Key]:
    """The keys of `decoder=name`, `executor=name` or `vad=name`, where the module has the name of the choice."""
    said = {setting.key: setting for setting in describe_choice(group, name).settings}
    return _keys(GROUPS[group].load(name).Options, said, f"{group}.")


def model_keys(choice: str) -> list[Key]:
    """The keys of `model=choice`, where the module has the name of the choice."""
    said = {setting.key: setting for setting in describe_choice("model", choice).settings}
    return _keys(SOURCES.load(choice).Options, said, "model.")


def _keys(schema: type, said: Mapping[str, Setting], prefix: str = "", skip: Collection[str] = ()) -> list[Key]:
    """The keys of a dataclass and of those inside it, in their order.

    Args:
        schema: The dataclass.
        said: What conf/ says of them, by their full names.
        prefix: In front of their names.
        skip: Fields that a choice sets, not a person.

    Raises:
        UndescribedKey: Nothing is said of one.
    """
    found: list[Key] = []
    hints = get_type_hints(schema)
    described = attributes(schema)
    for field in fields(schema):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if field.name in skip:
            continue
        if is_dataclass(hint):
            found += _keys(hint, said, f"{name}.")
            continue
        setting = said.get(name)
        comment = setting.comment if setting and setting.comment else described.get(field.name, "")
        if not comment:
            raise UndescribedKey(f"{name}: give it a comment in conf/, or a line in the docstring of {schema.__name__}")
        kind = RULES[name].words if name in RULES else _kind(hint)
        found.append(Key(name, kind, setting.default if setting else _default(field), comment))
    return found


def _default(field: Field[Any]) -> str:
    value = field.default if field.default_factory is NO_DEFAULT else field.default_factory()
    if value is None or value == MISSING:
        return "null" if value is None else MISSING
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _kind(hint: Any) -> str:
    """What a type lets in, in words."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        return ", or ".join("null" if item is type(None) else _kind(item) for item in get_args(hint))
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return "list" if item is str else f"list of {_KINDS[item]}s"
    return _KINDS[hint]


@functools.cache
def _fixed() -> frozenset[str]:
    """Keys that a run directory keeps for good. Outputs and layers can be added."""
    identity = describe(checked.load(["dataset=digits"]), "", "fp32", "").as_json()
    return frozenset((*identity, *_BESIDES)) - {"outputs", "features.layers"}


def _entry(key: Key, place: str = "") -> str:
    """A key; several datasets have one of its name, so `place` stands in front of its anchor instead of `dataset`."""
    anchor = f"{place}.{key.name.partition('.')[2]}" if place else key.name
    default = re.sub(r"\$\{oc\.env:(\w+),\w+\}", r"$\1, else null", key.default)
    required = key.default == MISSING
    facts = [html.escape(key.kind.removesuffix(", or null") if required else key.kind, quote=False)]
    facts.append("**required**" if required else f"default `{default}`")
    if key.name in _fixed():
        facts.append("fixed for a run directory")
    return f"#### `{key.name}` {{ #{anchor} }}\n\n{' · '.join(facts)}\n{{ .facts }}\n\n{_text(key.said)}"


def _text(said: str) -> str:
    """A comment as a sentence of Markdown, with its values in code; one that begins with a value keeps its case."""
    said = html.escape(said, quote=False).replace("*", r"\*")
    said = re.sub(r"\[[^\]\s]+\]|\b(?:null|true|false)\b", r"`\g<0>`", said)
    said = said[:1].upper() + said[1:] if re.match(r"[a-z]+ (?!or\b|\()", said) else said
    return said if said.endswith(".") else f"{said}."


def _models() -> Iterator[str]:
    """What can be set for every model, the models by what they give, and what only one of a person's own takes."""
    of_all = {setting.key for setting in describe_choice("model", next(iter(MODELS))).settings}
    yield from (_entry(key) for key in model_keys(_CHECKPOINT) if key.name in of_all)
    told = [models.describe(facts) for facts in MODELS.values()]
    for outputs, members in groupby(told, lambda model: ", ".join(model["outputs"])):
        rows = ["| `model=` | language | layers x dim | parameters | licence |", "|---|---|---|---:|---|"]
        for model in members:
            size = f"{model['layers']} x {model['dim']} | {model['parameters'] / 1e6:,.0f} M"
            rows.append(f"| `{model['model']}` | {model['language']} | {size} | {model['licence']} |")
        yield f"### {outputs.capitalize()}\n\n" + "\n".join(rows)
    for choice, place in ((_CHECKPOINT, ""), (_HUGGINGFACE, f"model-{_HUGGINGFACE}")):
        yield f"### `model={choice}` {{ #model-{choice} }}\n\n" + _text(describe_choice("model", choice).said)
        yield from (_entry(key, place) for key in model_keys(choice) if key.name not in of_all)
