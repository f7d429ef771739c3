"""Reads a person's own configuration files before Hydra composes them; every mistake is one line with the file.

The files are data. Every key in them is checked against the known keys, so a file reaches neither a `_target_` nor
Hydra's own configuration, where a search path may name a Python package to import.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.groups import (
    GROUPS,
    HIDDEN,
    PRIMARY,
    OwnConf,
    conf_dir,
    group_choices,
    no_such_choice,
    no_such_key,
)
from pipeline.runtime.errors import UserError, explain

_MAX_BYTES = 2**20
_MAX_VALUES = 100_000
"""The most values in one file, where a reference to an anchor counts as many values as the anchor."""


@dataclass(frozen=True)
class OwnFile:
    """A configuration file of a person.

    Attributes:
        path: The file.
        values: The values that the file sets, by their full keys.
        defaults: The items of its `defaults`: group, empty for a file in the same folder, and choice.
    """

    path: Path
    values: Mapping[str, Any]
    defaults: tuple[tuple[str, str], ...]

    def sets(self, key: str) -> bool:
        """Whether the file sets the key or a part of it."""
        return any(own == key or own.startswith(f"{key}.") for own in self.values)


def read_file(path: Path, package: str = "") -> OwnFile:
    """Read a file.

    Args:
        path: The file.
        package: Hydra's package of the file, which is put before its keys: `dataset`, or nothing for the root.

    Raises:
        UserError: The file cannot be read, is not YAML (with the line), is not a mapping, or sets a key of Hydra's
            own configuration.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: larger than 1 MB, so not a configuration; give `key: value` lines")
        if _num_values(yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader), {}) > _MAX_VALUES:
            raise UserError(f"{path}: stands for more than {_MAX_VALUES} values; write out what its anchors repeat")
        config = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not YAML ({error.problem}); correct this line, or the one before") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a configuration ({explain(error)}); correct it") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or explain(error)}); give `key: value` lines"
        ) from None
    if not isinstance(config, DictConfig):
        raise UserError(f"{path}: is a list; give `key: value` lines")
    content: dict[Any, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    given = content.pop("defaults", [])
    if not isinstance(given, list):
        raise UserError(f"{path}: defaults={given}: must be a list, such as [folder, _self_]")
    defaults = tuple(
        (str(group), str(choice))
        for item in given
        for group, choices in (item.items() if isinstance(item, dict) else [("", item)])
        for choice in (choices if isinstance(choices, list) else [choices])
    )
    values = dict(_flat(content, package))
    for key in (*(group or choice for group, choice in defaults), *values):
        if re.match(r"((override|optional) )?/?hydra\b", key):
            raise UserError(f"{path}: {key}: Hydra's own configuration cannot be changed; leave it out")
    return OwnFile(path, values, defaults)


def check_files(own: OwnConf, chosen: Collection[tuple[str, str]]) -> None:
    """Read the main configuration, the chosen files, and every file that these build on, before Hydra does.

    Args:
        own: The person's own folder.
        chosen: Group and choice of each choice on the command line.

    Raises:
        UserError: As `read_file`; the main configuration does not build on the shipped one; a choice does not exist; a
            file builds on itself.
    """
    if own.primary is not None:
        if PRIMARY not in [choice.removeprefix("/") for group, choice in read_file(own.primary).defaults if not group]:
            raise UserError(
                f"{own.primary}: does not build on the shipped configuration; "
                f"begin it with `defaults: [{PRIMARY}, _self_]`"
            )
        _follow(own, own.name, ())
    for group, choice in chosen:
        _follow(own, f"{group}/{choice}", ())


def _follow(own: OwnConf, name: str, above: tuple[str, ...]) -> None:
    """Read a file and every file that it builds on.

    Args:
        own: The person's own folder.
        name: The path of the file below the folder, without `.yaml`.
        above: The files that build on this file.
    """
    path = own.root / f"{name}.yaml"
    if (conf_dir() / f"{name}.yaml").is_file() or not path.is_file():
        return
    if name in above:
        raise UserError(f"{path}: builds on itself; take {name.rpartition('/')[2]} out of its `defaults`")
    here = name.rpartition("/")[0]
    for key, choice in read_file(path).defaults:
        group = re.sub(r"^(override|optional) |@.*", "", key) if key else here
        group = group.removeprefix("/")
        if not here and group in GROUPS and not key.startswith("override"):
            raise UserError(
                f"{path}: {group}: {choice}: {PRIMARY} chooses one already; write `override {group}: {choice}`"
            )
        if group in GROUPS and choice not in ("_self_", "None", *group_choices(group, own)):
            raise UserError(f"{path}: {group}={choice}: {no_such_choice(group, choice, own)}")
        _follow(own, f"{group}/{choice}" if group else choice, () if key.startswith("override") else (*above, name))


class OwnFiles:
    """The person's own files in a configuration, in the order in which Hydra merges them."""

    def __init__(self, own: OwnConf | None, parts: Collection[tuple[str, str]] = ()) -> None:
        """Read the files.

        Args:
            own: The person's own folder.
            parts: Path without `.yaml` and package of every file in the configuration, shipped files included.

        Raises:
            UserError: As `read_file`.
        """
        self._root = None if own is None else own.root
        self._files: list[OwnFile] = []
        for relative, package in parts:
            path = Path(f"{relative}.yaml")
            if own is not None and not (conf_dir() / path).is_file() and (own.root / path).is_file():
                self._files.append(read_file(own.root / path, package))

    def check_keys(self, keys: Collection[str]) -> None:
        """Check that every key in the files is one of `keys`, a part of one, or a key that a choice sets.

        Raises:
            UserError: With the file, and the keys that there are.
        """
        known = [*keys, *HIDDEN]
        for file in self._files:
            for key in file.values:
                if not any(key == other or key.startswith(f"{other}.") for other in known):
                    raise UserError(f"{file.path}: {key}: {no_such_key(key, keys)}")

    def check_set(self, keys: Collection[str], composed: DictConfig) -> None:
        """Check that the hidden keys are set, which a file may have left out.

        Raises:
            UserError: With the file.
        """
        for key in keys:
            group, _, name = key.partition(".")
            part = composed.get(group)
            if not isinstance(part, DictConfig) or OmegaConf.select(part, name) is None:
                path = next((file.path for file in reversed(self._files) if file.path.parent.name == group), self._root)
                there = ", ".join(group_choices(group))
                raise UserError(f"{path}: {key} is not set; begin with `defaults: [NAME, _self_]`, NAME one of {there}")

    def refusal(self, error: BaseException, allowed: Mapping[str, str]) -> UserError:
        """The message for a configuration that cannot be composed.

        Args:
            error: The exception of Hydra or OmegaConf.
            allowed: Key to the allowed values, in words.
        """
        where = re.match(r"In '([^']+)': ", str(error))
        inner: BaseException | None = error
        while inner is not None and not getattr(inner, "full_key", None):
            inner = inner.__cause__ or inner.__context__
        key = str(getattr(inner, "full_key", "")).split("[")[0]
        error, file = inner or error, self._of(key)
        if file is not None:
            hint = f"; allowed: {allowed[key]}" if key in allowed else ""
            return UserError(f"{file.path}: {key}={file.values.get(key, '...')}: {explain(error)}{hint}")
        path = self._root if where is None or self._root is None else self._root / f"{where[1]}.yaml"
        return UserError(f"{path}: {explain(error)}")

    @contextmanager
    def named(self, typed: Collection[str]) -> Iterator[None]:
        """Put the file in front of an error that begins with a key of the file.

        Args:
            typed: The keys on the command line, whose errors stay as they are.
        """
        try:
            yield
        except UserError as error:
            key = re.match(r"[\w.]+(?==)", str(error))
            file = self._of(key[0]) if key and key[0] not in typed else None
            if file is None:
                raise
            raise UserError(f"{file.path}: {error}") from None

    def _of(self, key: str) -> OwnFile | None:
        """The last file that sets the key, whose value Hydra takes."""
        return next((file for file in reversed(self._files) if key and file.sets(key)), None)


def _num_values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """The number of values in a node, with each reference to an anchor counted as the anchor's values.

    Nine lines of anchors, each with nine references to the line before, hold a billion values.

    Raises:
        ValueError: An anchor holds itself.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = -1
        parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    if known[id(node)] < 0:
        raise ValueError("an anchor that holds itself")
    return known[id(node)]


def _flat(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        full = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and value:
            yield from _flat(value, full)
        else:
            yield full, value
