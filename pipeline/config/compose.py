"""Turns `key=value` into a typed configuration, by Hydra; every mistake is one line that names the key.

Hydra's own entry point is not used: it exits 1 with several lines and leaves an `outputs/` folder behind.
Hydra composes the choices. The values are set afterwards, one at a time, so that each names its own mistake.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.groups import (
    GROUPS,
    HIDDEN,
    PRIMARY,
    OwnConf,
    added_choices,
    conf_dir,
    group_choices,
    no_such_choice,
    no_such_key,
)
from pipeline.config.user_files import OwnFiles, OwnSource
from pipeline.models.sources import source_of
from pipeline.runtime.errors import UserError, explain
from pipeline.runtime.redaction import is_secret, mask_assignment

_PATHS = ("run_dir", "dataset.root", "dataset.path", "dataset.audio_root", "model.checkpoint")
"""Keys whose value is a path. A path may hold spaces, commas, `=` and `~`, so it is taken as typed."""


@dataclass(frozen=True)
class _Typed:
    """One `key=value`: as typed with secrets masked, as Hydra's grammar reads it, and its parts."""

    said: str
    quoted: str
    key: str
    value: Any


@dataclass(frozen=True)
class Composed:
    """A composed configuration.

    Attributes:
        config: The configuration, typed and resolved.
        files: The person's own files in it.
        typed: The keys on the command line.
    """

    config: DictConfig
    files: OwnFiles
    typed: frozenset[str]


def compose_typed(
    typed: Sequence[str], schema: type, allowed: Mapping[str, str], own: OwnConf | None = None
) -> Composed:
    """Compose the configuration.

    Args:
        typed: `key=value` as typed on the command line.
        schema: The dataclass that types the configuration; the groups are of type `Any`.
        allowed: Key to what is allowed there, in words, for messages.
        own: The person's own files.

    Raises:
        UserError: A key, a choice or a value is wrong; with what is allowed.
    """
    overrides = [_parse(text) for text in typed]
    choices = [_check_choice(item, own) for item in overrides if item.key in GROUPS]
    values = [item for item in overrides if item.key not in GROUPS]
    plain, files = _composed(choices, own)
    typed_keys = frozenset(item.key for item in overrides)
    with files.named(typed_keys):
        config = _structured(plain, schema)
    keys = keys_of(config)
    files.check_keys(keys)
    try:
        config.merge_with(plain)
    except OmegaConfBaseException as error:
        raise files.refusal(error, allowed) from None
    for item in values:
        if item.key not in keys:
            raise UserError(f"{item.said}: {no_such_key(item.key, keys)}")
        try:
            OmegaConf.update(config, item.key, item.value)
        except OmegaConfBaseException as error:
            raise _refusal(item.said, item.key, error, allowed) from None
    said = {item.key: item.said for item in values}
    for key in keys:  # one at a time, because an error of `resolve` does not name the key
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            if key in said:
                raise _refusal(said[key], key, error, allowed) from None
            raise files.refusal(error, allowed) from None
    OmegaConf.resolve(config)
    for key in {*_PATHS} & {*keys}:
        if isinstance(path := OmegaConf.select(config, key), str):
            OmegaConf.update(config, key, os.path.expanduser(path))
    return Composed(config, files, typed_keys)


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
        override = _hydra_override(_quote_path(text, sweep=True), mask_assignment(text))
        if not override.is_sweep_override():
            axes.append([text])
        elif override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP):
            axes.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UserError(f"{mask_assignment(text)}: cannot be swept; give a,b or choice(a,b) or range(1,4)")
    return [list(combination) for combination in itertools.product(*axes)]


def keys_of(config: DictConfig, prefix: str = "") -> list[str]:
    """The full names of the keys that may be typed."""
    found = []
    for key in map(str, config):
        full, node = f"{prefix}{key}", config._get_node(key)
        if isinstance(node, DictConfig) and (node or full in GROUPS):
            found += keys_of(node, f"{full}.")
        elif full not in HIDDEN:
            found.append(full)
    return found


def _composed(choices: Iterable[_Typed], own: OwnConf | None) -> tuple[DictConfig, OwnFiles]:
    """The configuration of the choices alone, as plain values, and the person's own files in it."""
    Plugins.instance().register(OwnSource)
    setbase("1.3")
    for group, item in GROUPS.items():
        for choice in added_choices(group):
            ConfigStore.instance().store(choice, {item.key: choice}, group=group)
    search = ConfigSearchPathImpl()
    search.append("hydra", "pkg://hydra.conf")
    search.append("main", f"file://{conf_dir()}")
    if own is not None:
        search.append("own", f"{OwnSource.scheme()}://{own.root}")
    search.append("schema", "structured://")
    loader = ConfigLoaderImpl(search)
    files = OwnFiles(own, next((source for source in loader.get_sources() if isinstance(source, OwnSource)), None))
    name, quoted = PRIMARY if own is None else own.name, [item.quoted for item in choices]
    try:
        files.order(loader.compute_defaults_list(name, quoted, RunMode.RUN).defaults)
        plain = loader.load_configuration(name, quoted, RunMode.RUN)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
        if own is None:
            raise
        raise files.refusal(error, {}) from None
    OmegaConf.set_struct(plain, False)
    del plain["hydra"]
    model = plain.get("model")
    if isinstance(model, DictConfig) and model.get("name") and not model.get("source"):
        with files.named(()):  # a file of release 0.1 names the model only
            model.source = source_of(str(model.name))
    files.check_set(plain)
    return plain, files


def _structured(plain: DictConfig, schema: type) -> DictConfig:
    """The typed configuration with its defaults, for the modules that the choices name."""
    config: DictConfig = OmegaConf.structured(schema)
    for name, group in GROUPS.items():
        config[name] = OmegaConf.structured(group.schema(str(plain[name][group.key])))
    return config


def _refusal(said: str, key: str, error: BaseException, allowed: Mapping[str, str]) -> UserError:
    return UserError(f"{said}: {explain(error)}{f'; allowed: {allowed[key]}' if key in allowed else ''}")


def _parse(typed: str) -> _Typed:
    """Read one `key=value`.

    Raises:
        UserError: It is none, or is one of the forms of Hydra that this project does not have.
    """
    quoted, said = _quote_path(typed), mask_assignment(typed)
    override = _hydra_override(quoted, said)
    key = override.key_or_group
    if override.is_sweep_override():
        raise UserError(f"{said}: several values, and so several runs; add -m to do one after the other")
    if override.package is not None:
        raise UserError(f"{said}: a group cannot be moved; write {key}=...")
    if override.is_delete() or override.is_add() or override.is_force_add():
        raise UserError(f"{said}: keys cannot be added or removed; write {key}=... for a key that there is")
    return _Typed(said, quoted, key, override.value())


def _hydra_override(quoted: str, said: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(quoted)
        if not override.is_sweep_override():
            override.value()
        return override
    except (HydraException, RecursionError) as error:
        # Hydra's reason quotes pieces of the value.
        secret = is_secret(said.partition("=")[0])
        reason = "cannot be read" if secret or isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UserError(f"{said!r}: not an override ({reason}); write key=value, quoted if needed") from None


def _quote_path(typed: str, *, sweep: bool = False) -> str:
    """Quote the value of a path for Hydra's grammar, unless the person did."""
    key, equals, value = typed.partition("=")
    if key not in _PATHS or not equals or value in ("", "null", "???") or value[0] in "'\"":
        return typed
    if sweep and value.startswith("choice("):
        return typed
    return f"{key}={_quote(os.path.expanduser(value))}"


def _quote(value: str) -> str:
    # In Hydra's quoted strings a backslash counts only before a quote, or as the last character.
    value = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"'{value}'"


def _check_choice(item: _Typed, own: OwnConf | None) -> _Typed:
    if item.value not in group_choices(item.key, own):
        raise UserError(f"{item.said}: {no_such_choice(item.key, str(item.value), own)}")
    return item
