"""Command-line overrides to a composed configuration, by Hydra; every mistake is one line that names it.

Hydra's own entry point is not used: it exits 1 with several lines and leaves an `outputs/` folder behind.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import UserError

GROUPS = ("dataset", "model", "decoder")
_INTERNAL = ("dataset.connector", "model.name", "decoder.name")
"""Keys that a choice sets; a person makes the choice instead."""
_PATHS = ("run_dir", "dataset.root", "dataset.path")
"""Keys whose value is a path, which may hold spaces, commas, `=`, `~`: it is taken as typed."""


@dataclass(frozen=True)
class _Override:
    """One `key=value`: as the person typed it, as Hydra gets it, and its parts."""

    typed: str
    quoted: str
    key: str
    value: object
    adds: bool


def conf_dir() -> Path:
    """The folder of the shipped configuration: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def group_choices(group: str) -> list[str]:
    """The choices of a Hydra group, sorted."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def compose_typed(typed: Sequence[str], schema: type, allowed: Mapping[str, str]) -> DictConfig:
    """Compose the configuration.

    Args:
        typed: `key=value` as typed on the command line.
        schema: The dataclass that types it.
        allowed: Key to what is allowed there, in words, where its type does not say it all.

    Raises:
        UserError: A key, a choice, or a value of the wrong type, with what is allowed.
    """
    ConfigStore.instance().store(name="schema", node=schema)
    GlobalHydra.instance().clear()
    overrides = [_parse(text) for text in typed]
    # In two steps: first the choices, which decide the keys there are; then the values.
    choices = [_checked_choice(override) for override in overrides if override.key in GROUPS]
    values = [override for override in overrides if override.key not in GROUPS]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        keys = _keys(compose("config", overrides=choices))
        for override in values:
            _check_key(override, keys)
        try:
            return _resolved([*choices, *(override.quoted for override in values)])
        except (HydraException, OmegaConfBaseException):
            for override in values:
                try:
                    _resolved([*choices, override.quoted])
                except (HydraException, OmegaConfBaseException) as error:
                    hint = f"; allowed: {allowed[override.key]}" if override.key in allowed else ""
                    raise UserError(f"{override.typed}: {explain(error)}{hint}") from None
            raise


def did_you_mean(word: str, candidates: Sequence[str]) -> str:
    """` (did you mean x?)`, or nothing where no candidate is close."""
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def explain(error: BaseException) -> str:
    """One line out of Hydra's and OmegaConf's several: the innermost reason, in words that say what is allowed."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = (str(error) or type(error).__name__).splitlines()[0]
    for sign, allowed in (
        ("to Float", "must be a number"),
        ("to Integer", "must be a whole number"),
        ("valid bool", "must be true or false"),
        ("ListConfig", "must be a list, such as [a,b]"),
        ("NoneType", "null cannot stand in the list"),
        ("to string", "must be one value, not a list or a mapping"),
        ("not Optional", "cannot be null; give a value"),
        ("Incompatible value 'None'", "cannot be null; give a value"),
    ):
        if sign in reason:
            return allowed
    return reason


def _parse(typed: str) -> _Override:
    quoted = _quote_path(typed)
    try:
        override = OverridesParser.create().parse_override(quoted)
        if override.is_sweep_override():
            raise UserError(f"{typed}: sweeps are not supported; give one value")
        value = override.value()
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{typed!r}: not an override ({reason}); write key=value, quoted if needed") from None
    key = override.key_or_group
    if override.package is not None:
        raise UserError(f"{typed}: a group cannot be moved; write {key}=...")
    adds = override.is_delete() or override.is_add() or override.is_force_add()
    if adds and key in GROUPS:
        raise UserError(f"{typed}: groups cannot be added or removed; write {key}=...")
    return _Override(typed, quoted, key, value, adds)


def _quote_path(typed: str) -> str:
    """Quote the value of a path for Hydra's grammar, unless the person did."""
    key, equals, value = typed.partition("=")
    if key not in _PATHS or not equals or value in ("", "null", "???") or value[0] in "'\"":
        return typed
    # In Hydra's quoted strings a backslash counts only before a quote, or as the last character.
    value = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), os.path.expanduser(value))
    return f"{key}='{value}'"


def _checked_choice(override: _Override) -> str:
    allowed = group_choices(override.key)
    if override.value not in allowed:
        close = did_you_mean(str(override.value), allowed)
        raise UserError(f"{override.typed}: no such choice{close}; there are {', '.join(allowed)}")
    return override.quoted


def _check_key(override: _Override, keys: list[str]) -> None:
    if override.adds:
        remedy = f"; write {override.typed.lstrip('+~')}" if override.key in keys else ""
        raise UserError(f"{override.typed}: keys cannot be added or removed{remedy}")
    if override.key not in keys:
        group = override.key.rpartition(".")[0]
        siblings = [key for key in keys if key.rpartition(".")[0] == group] or [key for key in keys if "." not in key]
        close = did_you_mean(override.key, keys)
        raise UserError(f"{override.typed}: no such key{close}; there are {', '.join(sorted(siblings))}")


def _resolved(overrides: list[str]) -> DictConfig:
    composed = compose("config", overrides=overrides)
    OmegaConf.resolve(composed)
    return composed


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in map(str, config):
        if f"{prefix}{key}" in _INTERNAL:
            continue
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            keys += _keys(node, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys
