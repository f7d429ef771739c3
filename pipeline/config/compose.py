"""Command-line overrides to a composed configuration, by Hydra; every mistake is one line that names it.

Hydra's own entry point is not used: it exits 1 with several lines and leaves an `outputs/` folder behind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipeline import datasets
from pipeline.config.groups import (
    GROUPS,
    PRIMARY,
    SCHEMA,
    OwnConf,
    conf_dir,
    group_choices,
    no_such_choice,
    no_such_key,
)
from pipeline.config.user_files import OwnFiles, check_files
from pipeline.runtime.errors import UserError, explain
from pipeline.runtime.redaction import is_secret, mask_assignment

_INTERNAL = ("dataset.connector", "model.source", "model.name", "decoder.name")
"""Keys that a choice sets; a person makes the choice instead."""
_PATHS = ("run_dir", "dataset.root", "dataset.path", "dataset.audio_root", "model.checkpoint")
"""Keys whose value is a path, which may hold spaces, commas, `=`, `~`: it is taken as typed."""


@dataclass(frozen=True)
class _Override:
    """One `key=value`: as the person typed it (a secret masked), as Hydra gets it, and its parts."""

    typed: str
    quoted: str
    key: str
    value: object
    adds: bool


@dataclass(frozen=True)
class Composed:
    """A composed configuration, and where it came from.

    Attributes:
        config: Typed and resolved.
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
        schema: The dataclass that types it.
        allowed: Key to what is allowed there, in words, where its type does not say it all.
        own: The person's own files.

    Raises:
        UserError: A key, a choice, or a value of the wrong type, with what is allowed.
    """
    ConfigStore.instance().store(name=SCHEMA, node=schema)
    GlobalHydra.instance().clear()
    overrides = [_parse(text) for text in typed]
    typed_keys = frozenset(override.key for override in overrides)
    # In two steps: first the choices, which decide the keys there are; then the values.
    choices = [_checked_choice(override, own) for override in overrides if override.key in GROUPS]
    values = [override for override in overrides if override.key not in GROUPS]
    main, name = conf_dir(), PRIMARY
    if own is not None:
        check_files(own, [(item.key, str(item.value)) for item in overrides if item.key in GROUPS])
        # Hydra looks for the main configuration in one folder, for everything else also along its search path.
        main, other = (own.root, main) if own.primary else (main, own.root)
        name = own.name
        choices.append(f"hydra.searchpath=[{_quote(f'file://{other}')}]")
    with initialize_config_dir(version_base="1.3", config_dir=str(main)):
        composed, files = _composed(name, choices, schema, allowed, own)
        with files.named(typed_keys):
            options = _options(composed)
        keys, option_keys = _keys(composed), _keys(options, "dataset.")
        files.check_keys(["dataset.connector", *option_keys], group="dataset")
        unset = {*option_keys} - {*keys}
        for override in values:
            _check_key(override, [*keys, *unset])
        # Hydra takes a key that no file sets only where it is said to be new.
        values = [replace(item, quoted=f"++{item.quoted}") if item.key in unset else item for item in values]
        try:
            resolved = _resolved(name, [*choices, *(override.quoted for override in values)])
        except (HydraException, OmegaConfBaseException) as error:
            raise _refusal(error, name, choices, values, allowed, files) from None
        if unset:
            with open_dict(resolved):
                resolved.dataset = OmegaConf.merge(options, resolved.dataset)
        for key in _PATHS:
            if isinstance(path := OmegaConf.select(resolved, key), str):
                OmegaConf.update(resolved, key, os.path.expanduser(path))
        return Composed(resolved, files, typed_keys)


def _composed(
    name: str, choices: list[str], schema: type, allowed: Mapping[str, str], own: OwnConf | None
) -> tuple[DictConfig, OwnFiles]:
    """The configuration of the choices alone, and the person's own files in it, whose keys are checked.

    Raises:
        UserError: What is wrong in a file: the shipped ones are right.
    """
    files = OwnFiles(own)
    try:
        if own is not None:
            parts = GlobalHydra.instance().config_loader().compute_defaults_list(name, choices, RunMode.RUN).defaults
            files = OwnFiles(own, [(part.config_path or "", part.package or "") for part in parts])
            files.check_keys(_all_keys(schema))
        composed = compose(name, overrides=choices)
        files.check_set(_INTERNAL, composed)
        return composed, files
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        if own is None:
            raise
        raise files.refusal(error, allowed) from None


def _options(composed: DictConfig) -> DictConfig:
    """The options of the dataset's connector, with their defaults."""
    options = OmegaConf.to_container(OmegaConf.structured(datasets.load(composed.dataset.connector).Options))
    return DictConfig(options)


def _refusal(
    error: BaseException,
    name: str,
    choices: list[str],
    values: list[_Override],
    allowed: Mapping[str, str],
    files: OwnFiles,
) -> BaseException:
    """What to say of values that do not compose: the first that does not alone, or what stands in a file."""
    try:
        _resolved(name, choices)
    except (HydraException, OmegaConfBaseException) as before:
        return files.refusal(before, allowed)
    for override in values:
        try:
            _resolved(name, [*choices, override.quoted])
        except (HydraException, OmegaConfBaseException) as reason:
            hint = f"; allowed: {allowed[override.key]}" if override.key in allowed else ""
            return UserError(f"{override.typed}: {explain(reason)}{hint}")
    return error


def _parse(typed: str) -> _Override:
    quoted, said = _quote_path(typed), mask_assignment(typed)
    try:
        override = OverridesParser.create().parse_override(quoted)
        if override.is_sweep_override():
            raise UserError(f"{said}: sweeps are not supported; give one value")
        value = override.value()
    except (HydraException, RecursionError) as error:
        # Hydra's reason quotes pieces of the value.
        secret = is_secret(typed.partition("=")[0])
        reason = "cannot be read" if secret or isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UserError(f"{said!r}: not an override ({reason}); write key=value, quoted if needed") from None
    key = override.key_or_group
    if override.package is not None:
        raise UserError(f"{said}: a group cannot be moved; write {key}=...")
    adds = override.is_delete() or override.is_add() or override.is_force_add()
    if adds and key in GROUPS:
        raise UserError(f"{said}: groups cannot be added or removed; write {key}=...")
    return _Override(said, quoted, key, value, adds)


def _quote_path(typed: str) -> str:
    """Quote the value of a path for Hydra's grammar, unless the person did."""
    key, equals, value = typed.partition("=")
    if key not in _PATHS or not equals or value in ("", "null", "???") or value[0] in "'\"":
        return typed
    return f"{key}={_quote(os.path.expanduser(value))}"


def _quote(value: str) -> str:
    # In Hydra's quoted strings a backslash counts only before a quote, or as the last character.
    value = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"'{value}'"


def _checked_choice(override: _Override, own: OwnConf | None) -> str:
    if override.value not in group_choices(override.key, own):
        raise UserError(f"{override.typed}: {no_such_choice(override.key, str(override.value), own)}")
    return override.quoted


def _check_key(override: _Override, keys: Collection[str]) -> None:
    if override.adds:
        remedy = f"; write {override.typed.lstrip('+~')}" if override.key in keys else ""
        raise UserError(f"{override.typed}: keys cannot be added or removed{remedy}")
    if override.key not in keys:
        raise UserError(f"{override.typed}: {no_such_key(override.key, keys)}")


def _resolved(name: str, overrides: list[str]) -> DictConfig:
    composed = compose(name, overrides=overrides)
    for key in _keys(composed):  # one at a time: an error of `resolve` does not say the key
        OmegaConf.select(composed, key)
    OmegaConf.resolve(composed)
    return composed


def _all_keys(schema: type) -> list[str]:
    """Every key but those of the dataset, whose connector says them; also those that only a file may set."""
    keys = _keys(OmegaConf.structured(schema))
    return [key for key in (*keys, *_INTERNAL) if not key.startswith("dataset")]


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in map(str, config):
        if f"{prefix}{key}" in _INTERNAL:
            continue
        node = config._get_node(key)
        if isinstance(node, DictConfig) and node:
            keys += _keys(node, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys
