"""Turns `key=value` into a typed configuration, by Hydra; every mistake is one line that names the key.

Hydra's own entry point is not used: it exits 1 with several lines and leaves an `outputs/` folder behind.
Hydra composes the choices. The values are set afterwards, one at a time, so that each names its own mistake.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
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
)
from pipeline.config.schema import Settings
from pipeline.config.user_files import Origins, OwnSource
from pipeline.models.sources import source_of
from pipeline.runtime.errors import UserError
from pipeline.runtime.redaction import is_secret, mask_assignment

_PATHS = ("run_dir", "dataset.root", "dataset.path", "dataset.audio_root", "model.checkpoint")
"""Keys whose value is a path. A path may hold spaces, commas, `=` and `~`, so it is taken as typed."""


@dataclass(frozen=True)
class _Typed:
    """One `key=value`: as typed, with secrets masked, and its parts."""

    typed: str
    said: str
    key: str
    value: Any


def compose_typed(typed: Sequence[str], own: OwnConf | None = None) -> tuple[DictConfig, Origins]:
    """Compose the configuration.

    Args:
        typed: `key=value` as typed on the command line.
        own: The person's own files.

    Returns:
        The configuration, typed and resolved, and where each value comes from.

    Raises:
        UserError: A key, a choice or a value is wrong; with what is allowed.
    """
    overrides = [_parse(text) for text in typed]
    values = [item for item in overrides if item.key not in GROUPS]
    plain, origins = _composed([item for item in overrides if item.key in GROUPS], own)
    origins.add(None, {item.key: item.said for item in overrides})
    with origins.named():
        config = _structured(plain)
    keys = keys_of(config)
    origins.check_keys(keys)
    for item in values:
        OmegaConf.update(plain, item.key, item.value, merge=False)
    for name in plain:
        try:
            config.merge_with({name: plain._get_node(name)})
        except OmegaConfBaseException as error:
            raise origins.refusal(error, str(name)) from None
    for key in keys:  # one at a time, because an error of `resolve` does not name the key
        try:
            value = OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            raise origins.refusal(error, key) from None
        if key in _PATHS and isinstance(value, str):
            OmegaConf.update(config, key, os.path.expanduser(value))
    OmegaConf.resolve(config)
    return config, origins


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
        path = _path_in(text)
        if path and not path.startswith("choice("):
            axes.append([text])
            continue
        override = _hydra_override(text, mask_assignment(text))
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


def _composed(choices: Sequence[_Typed], own: OwnConf | None) -> tuple[DictConfig, Origins]:
    """The configuration of the choices alone, as plain values, and the person's own files in it."""
    for item in choices:
        if item.value not in group_choices(item.key, own):
            raise UserError(f"{item.said}: {no_such_choice(item.key, str(item.value), own)}")
    Plugins.instance().register(OwnSource)
    setbase("1.3")
    for name, group in GROUPS.items():
        for choice in added_choices(name):
            ConfigStore.instance().store(choice, {group.key: choice}, group=name)
    search = ConfigSearchPathImpl()
    search.append("hydra", "pkg://hydra.conf")
    search.append("main", f"file://{conf_dir()}")
    if own is not None:
        search.append("own", f"{OwnSource.scheme()}://{own.root}")
    search.append("schema", "structured://")
    loader = ConfigLoaderImpl(search)
    origins = Origins(own, next((source for source in loader.get_sources() if isinstance(source, OwnSource)), None))
    main, typed = PRIMARY if own is None else own.name, [item.typed for item in choices]
    try:
        origins.add_files(loader.compute_defaults_list(main, typed, RunMode.RUN).defaults)
        plain = loader.load_configuration(main, typed, RunMode.RUN)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
        if own is None:
            raise
        raise origins.refusal(error) from None
    OmegaConf.set_struct(plain, False)
    del plain["hydra"]
    model = plain.get("model")
    if isinstance(model, DictConfig) and model.get("name") and not model.get("source"):
        with origins.named():  # a file of release 0.1 names the model only
            model.source = source_of(str(model.name))
    origins.check_set(plain)
    return plain, origins


def _structured(plain: DictConfig) -> DictConfig:
    """The typed configuration with its defaults, for the modules that the choices name."""
    config: DictConfig = OmegaConf.structured(Settings)
    for name, group in GROUPS.items():
        config[name] = OmegaConf.structured(group.schema(str(plain[name][group.key])))
    return config


def _parse(typed: str) -> _Typed:
    """Read one `key=value`.

    Raises:
        UserError: It is none, or is one of the forms of Hydra that this project does not have.
    """
    said = mask_assignment(typed)
    if path := _path_in(typed):
        return _Typed(typed, said, typed.partition("=")[0], path)
    override = _hydra_override(typed, said)
    key = override.key_or_group
    if override.is_sweep_override():
        raise UserError(f"{said}: several values, and so several runs; add -m to do one after the other")
    if override.package is not None or override.is_delete() or override.is_add() or override.is_force_add():
        raise UserError(f"{said}: keys cannot be added, removed or moved; write {key}=... for a key that there is")
    return _Typed(typed, said, key, override.value())


def _hydra_override(typed: str, said: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(typed)
        if not override.is_sweep_override():
            override.value()
        return override
    except (HydraException, RecursionError) as error:
        # Hydra's reason quotes pieces of the value.
        secret = is_secret(said.partition("=")[0])
        reason = "cannot be read" if secret or isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UserError(f"{said!r}: not an override ({reason}); write key=value, quoted if needed") from None


def _path_in(typed: str) -> str:
    """The value of a key that takes a path; nothing if the value is quoted for Hydra's grammar, or is no path."""
    key, _, value = typed.partition("=")
    return value if key in _PATHS and value not in ("null", "???") and not value.startswith(("'", '"')) else ""
