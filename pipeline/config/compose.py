"""Turns `key=value` into a typed configuration, by Hydra; every mistake is one line that names the key.

Hydra's own entry point is not used: it exits 1 with several lines and leaves an `outputs/` folder behind.
Hydra composes the shipped choices. The values are set afterwards, one at a time, so that each names its own mistake.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.groups import GROUPS, HIDDEN, LISTS, OwnConf, choose, compose_choices, expand_home, no_such_key
from pipeline.config.schema import RULES, Settings
from pipeline.config.user_files import Value, flat, read_own
from pipeline.models.sources import source_of
from pipeline.runtime.errors import UserError, explain
from pipeline.runtime.redaction import mask_assignment

_PATHS = ("run_dir", "dataset.root", "dataset.path", "dataset.audio_root", "model.checkpoint")
"""Keys whose value is a path. A path may hold spaces, commas, `=` and `~`, so it is taken as typed."""


def compose(typed: Sequence[str], own: OwnConf | None = None) -> tuple[DictConfig, dict[str, Value]]:
    """Compose the configuration.

    Args:
        typed: `key=value` as typed on the command line.
        own: The person's own files.

    Returns:
        The configuration, typed and resolved, and the values that the person gave by key.

    Raises:
        UserError: A key, a choice or a value is wrong, or a file; with what is allowed.
    """
    overrides = [_parse(text) for text in typed]
    choices = {item.key: choose(item.key, item.key, str(item.value), own) for item in overrides if item.key in GROUPS}
    from_files = read_own(own, choices) if own else []
    values = [*from_files, *(item for item in overrides if item.key not in GROUPS)]
    given = {item.key: item for item in values}
    with naming_files(given):
        config = _structured(choices, from_files)
    keys = keys_of(config)
    for item in values:
        if item.key not in keys and not (item.file and item.key in HIDDEN):
            raise UserError(f"{item.said}: {no_such_key(item.key, keys)}")
    for item in given.values():
        with _explained(item.key, item.said):
            alone = _is_list(config, item.key) and isinstance(item.value, (str, int))
            OmegaConf.update(config, item.key, [item.value] if alone else item.value, merge=False)
    for key in keys:  # one at a time, because an error of `resolve` does not name the key
        with _explained(key, given[key].said if key in given else key):
            value = OmegaConf.select(config, key)
            if OmegaConf.is_config(value):
                OmegaConf.resolve(value)
            elif key in _PATHS and isinstance(value, str):
                OmegaConf.update(config, key, expand_home(value, key))
    OmegaConf.resolve(config)
    return config, given


@contextmanager
def naming_files(given: Mapping[str, Value]) -> Iterator[None]:
    """Put the file in front of an error that begins with a key whose value is from the file."""
    try:
        yield
    except UserError as error:
        item = given.get(str(error).partition("=")[0])
        if item is None or item.file is None:
            raise
        raise UserError(f"{item.file}: {error}") from None


def expand(typed: Sequence[str]) -> list[list[str]]:
    """The runs of a sweep, each as `key=value`: every combination of the values, the last key changing first.

    Args:
        typed: As typed. `a,b`, `choice(a,b)` and `range(1,4)` are several values, as in Hydra's own sweeper. A path is
            taken as typed, but for `choice(...)`.

    Raises:
        UserError: One is not `key=value`, or stands for values that nobody can list.
    """
    axes = []
    for text in typed:
        override = _override(text)
        if override is None or not override.is_sweep_override():
            axes.append([text])
        elif override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP):
            axes.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UserError(f"{mask_assignment(text)}: cannot be swept; give a,b or choice(a,b) or range(1,4)")
    return [list(combination) for combination in itertools.product(*axes)]


def keys_of(config: DictConfig) -> list[str]:
    """The full names of the keys that may be typed."""
    return [key for key, _ in flat(OmegaConf.to_container(config)) if key not in HIDDEN]


def _structured(choices: Mapping[str, str], from_files: Sequence[Value]) -> DictConfig:
    """The configuration of the choices, typed by the modules that they name, with the hidden keys of files."""
    plain = compose_choices({group: choice for group, choice in choices.items() if choice})
    plain.update({group: {} for group, choice in choices.items() if not choice})
    for item in from_files:
        if item.key in HIDDEN:
            with _explained(item.key, item.said):
                OmegaConf.update(plain, item.key, item.value)
                OmegaConf.select(plain, item.key)  # a reference to nothing, or to itself
    said = {item.key: item.said for item in from_files}
    for key in HIDDEN:
        if key == "model.source" and "source" not in plain.model:  # a file of release 0.1 names the model only
            plain.model.source = source_of(plain.model.name)
        if not isinstance(OmegaConf.select(plain, key), str):
            group, _, name = key.partition(".")
            where = said.get(key) or f"{group}={choices.get(group) or '(default)'}"
            raise UserError(f"{where}: the choice does not set {key}; write `{name}: NAME` in the file of the choice")
    config: DictConfig = OmegaConf.structured(Settings)
    for name, modules in GROUPS.items():  # a file may name another module than the choice that it builds on
        with _explained(modules.key, said.get(modules.key, modules.key)):
            config[name] = OmegaConf.structured(modules.load(str(OmegaConf.select(plain, modules.key))).Options)
            for key in [hidden for hidden in HIDDEN if hidden.startswith(f"{name}.")]:
                OmegaConf.update(config, key, OmegaConf.select(plain, key), force_add=True)
            config.merge_with({name: plain.pop(name)})
    config.merge_with(plain)
    return config


def _is_list(config: DictConfig, key: str) -> bool:
    """Whether a key takes a list. A value that is none is then a list of one."""
    section, _, name = key.rpartition(".")
    node = (OmegaConf.select(config, section) if section else config)._get_node(name)
    return node is not None and get_origin(node._metadata.ref_type) is list


@contextmanager
def _explained(key: str, said: str) -> Iterator[None]:
    """Turn an error of OmegaConf into one line that quotes the value and says what is allowed."""
    try:
        yield
    except OmegaConfBaseException as error:
        hint = f"; allowed: {RULES[key].words}" if key in RULES else ""
        raise UserError(f"{said}: {explain(error)}{hint}") from None


def _parse(typed: str) -> Value:
    """Read one `key=value`.

    Raises:
        UserError: It is none, or is one of the forms of Hydra that this project does not have.
    """
    override, said = _override(typed), mask_assignment(typed)
    if override is None:
        key, _, path = typed.partition("=")
        return Value(key, path, said)
    key = override.key_or_group
    if override.is_sweep_override():
        value = typed.partition("=")[2]
        listed = f", or write {shlex.quote(f'{key}=[{value}]')} for a list" if key in LISTS else ""
        raise UserError(f"{said}: several values, and so several runs; add -m to do one after the other{listed}")
    if override.package is not None or override.is_delete() or override.is_add() or override.is_force_add():
        raise UserError(f"{said}: keys cannot be added, removed or moved; write {key}=... for a key that there is")
    return Value(key, override.value(), said)


def _override(typed: str) -> Override | None:
    """`key=value` as Hydra reads it; `None` for a value that is taken as typed.

    A path is, unless it is quoted or swept; and what Hydra cannot read, unless it begins with a bracket or a quotation
    mark.
    """
    key, _, value = typed.partition("=")
    if key in _PATHS and value not in ("", "null", "???") and not value.startswith(("'", '"', "choice(")):
        return None
    try:
        override = OverridesParser.create().parse_override(typed)
        if not override.is_sweep_override():
            override.value()
        return override
    except (HydraException, RecursionError) as error:
        if re.fullmatch(r"[\w.]+", key) and value and value[0] not in "[{'\"" and not isinstance(error, RecursionError):
            return None
        raise UserError(
            f"{mask_assignment(typed)!r}: cannot be read; write key=value or key=[a,b], close each bracket and each "
            f"quotation mark, and put text with other characters in quotation marks of its own: '[\"a, b\",c]'"
        ) from None
