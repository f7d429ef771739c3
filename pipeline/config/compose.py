"""Turns `key=value` into a typed configuration, by Hydra; every mistake is one line that names the key.

Hydra's own entry point is not used: it exits 1 with several lines and leaves an `outputs/` folder behind.
Hydra composes the shipped choices. The values are set afterwards, one at a time, so that each names its own mistake.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.groups import (
    GROUPS,
    HIDDEN,
    LISTS,
    PATHS,
    OwnConf,
    choose,
    compose_choices,
    expand_home,
    no_such_key,
)
from pipeline.config.schema import RULES, Settings
from pipeline.config.user_files import Value, flat, read_own
from pipeline.runtime.errors import UserError, explain
from pipeline.runtime.redaction import mask_assignment


def compose(typed: Sequence[Value], own: OwnConf | None = None) -> tuple[DictConfig, dict[str, Value]]:
    """Compose the configuration of what was typed and of the person's own files.

    Returns:
        The configuration, typed and resolved, and where the value of each key is from.

    Raises:
        UserError: A key, a choice or a value is wrong, or a file; with what is allowed.
    """
    choices = {item.key: choose(item.key, item.key, str(item.value), own) for item in typed if item.key in GROUPS}
    persons = read_own(own, choices) if own else []
    persons += [item for item in typed if item.key not in GROUPS]
    chosen = tuple(choices.items())
    shipped = {key: Value(key, value, key) for key, value in _shipped(chosen)}
    own_values = {item.key: item for item in persons if item.file or item.key not in HIDDEN}
    given = shipped | own_values
    with naming(given):
        config = copy.deepcopy(_typed(chosen, tuple((key, str(given[key].value)) for key in HIDDEN)))
    keys = keys_of(config)
    for item in persons:
        if item.key not in keys and not (item.file and item.key in HIDDEN):
            raise UserError(f"{item.said}: {no_such_key(item.key, keys)}")
    for key in keys:
        if key in own_values:
            with naming(given, key):
                _set(config, key, own_values[key].value)
    for key in keys:  # one at a time, because an error of `resolve` does not name the key
        with naming(given, key):
            value = OmegaConf.select(config, key)
            if OmegaConf.is_config(value):
                OmegaConf.resolve(value)
            elif key in PATHS and isinstance(value, str):
                OmegaConf.update(config, key, expand_home(value, key))
    OmegaConf.resolve(config)
    return config, given


def _shipped(choices: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, Any]]:
    """The shipped values of the main configuration and of the choices; a module may say more of them.

    Args:
        choices: The groups and the choices in them; an empty one where the files of a person build on nothing.
    """
    composed = compose_choices(tuple(f"{group}={name}" for group, name in choices if name))
    composed = composed | {group: {} for group, name in choices if not name}
    return ((key, value) for key, value in flat(composed) if value != "???")


@cache
def _typed(choices: tuple[tuple[str, str], ...], modules: tuple[tuple[str, str], ...]) -> DictConfig:
    """The configuration with the keys of every run and of the chosen modules, and with the shipped values.

    Args:
        choices: As in `_shipped`.
        modules: The keys of `HIDDEN` and their values.
    """
    config: DictConfig = OmegaConf.structured(Settings)
    config.merge_with({key.partition(".")[0]: {} for key in RULES if "." in key})  # makes the sections
    for group, each in GROUPS.items():
        with naming({}, each.key):
            config[group] = OmegaConf.structured(each.load(dict(modules)[each.key]).Options)
    for key, value in modules:
        OmegaConf.update(config, key, value, force_add=True)
    keys = keys_of(config)
    for key, value in _shipped(choices):
        if key in keys:
            _set(config, key, value)
    return config


def _set(config: DictConfig, key: str, value: Any) -> None:
    """Set a key. A list may be given as its only value."""
    alone = _is_list(config, key) and isinstance(value, (str, int))
    OmegaConf.update(config, key, [value] if alone else value, merge=False)


@contextmanager
def naming(given: Mapping[str, Value], key: str = "") -> Iterator[None]:
    """Name the value that a person gave, and the file that it stands in, in an error about it.

    Args:
        given: The values that the person gave.
        key: The key that an error of OmegaConf is about. A `UserError` begins with its key.
    """
    try:
        yield
    except UserError as error:
        item = given.get(str(error).partition("=")[0])
        if item is None or item.file is None:
            raise
        raise UserError(f"{item.file}: {error}") from None
    except OmegaConfBaseException as error:
        if not key:
            raise
        said = given[key].said if key in given else key
        hint = f"; allowed: {RULES[key].words}" if key in RULES else ""
        raise UserError(f"{said}: {explain(error)}{hint}") from None


def keys_of(config: DictConfig) -> list[str]:
    """The full names of the keys that may be typed."""
    return [key for key, _ in flat(OmegaConf.to_container(config)) if key not in HIDDEN]


def _is_list(config: DictConfig, key: str) -> bool:
    """Whether a key takes a list. A value that is none is then a list of one."""
    section, _, name = key.rpartition(".")
    node = (OmegaConf.select(config, section) if section else config)._get_node(name)
    return node is not None and get_origin(node._metadata.ref_type) is list


def read(typed: str, *, sweep: bool = False) -> list[Value]:
    """Read one `key=value` by Hydra's grammar. In a sweep, `a,b`, `choice(a,b)` and `range(1,4)` give several values.

    A path is taken as typed, unless it is quoted or begins with `choice(`. So is what Hydra cannot read, unless it
    begins with a bracket or a quotation mark.

    Raises:
        UserError: It is none, or is one of the forms of Hydra that this project does not have.
    """
    key, _, value = typed.partition("=")
    said = mask_assignment(typed)
    if key in PATHS and value not in ("", "null", "???") and not value.startswith(("'", '"', "choice(")):
        return [Value(key, value, said, typed=typed)]
    try:
        override = OverridesParser.create().parse_override(typed)
        swept = override.is_sweep_override()
        found: Iterable[Any] = override.sweep_iterator() if swept else [override.value()]
        values = [Override._convert_value(each) for each in found]
    except (HydraException, RecursionError) as error:
        if re.fullmatch(r"[\w.]+", key) and value and value[0] not in "[{'\"" and not isinstance(error, RecursionError):
            return [Value(key, value, said, typed=typed)]
        raise UserError(
            f"{said!r}: cannot be read; write key=value or key=[a,b], close each bracket and each quotation mark, "
            "and put text with other characters in quotation marks of its own: '[\"a, b\",c]'"
        ) from None
    key = override.key_or_group
    if override.package is not None or override.type is not OverrideType.CHANGE:
        raise UserError(f"{said}: keys cannot be added, removed or moved; write {key}=... for a key that there is")
    if len(values) == 1:
        return [Value(key, values[0], said, typed=typed)]
    if not sweep:
        listed = f", or write {shlex.quote(f'{key}=[{value}]')} for a list" if key in LISTS else ""
        raise UserError(f"{said}: several values, and so several runs; add -m to do one after the other{listed}")
    forms = map(str, values) if key in PATHS else override.sweep_string_iterator()
    return [
        Value(key, each, mask_assignment(f"{key}={each}"), typed=f"{key}={form}")
        for each, form in zip(values, forms, strict=True)
    ]
