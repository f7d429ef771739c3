"""A person's own configuration files, read before Hydra composes them: every mistake is one line with the file.

The files are data. What is in them is checked against the keys that there are, so nothing in them reaches
Hydra's own configuration (a search path, for one, may name a Python package to import) or a `_target_`.
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
    """One file.

    Attributes:
        path: Where it lies.
        values: What it sets, by the full key.
        defaults: What it builds on, in Hydra's words: group (nothing for a file beside it) and choice.
    """

    path: Path
    values: Mapping[str, Any]
    defaults: tuple[tuple[str, str], ...]

    def sets(self, key: str) -> bool:
        """Whether it sets the key or a part of it."""
        return any(own == key or own.startswith(f"{key}.") for own in self.values)


def read_file(path: Path, package: str = "") -> OwnFile:
    """Read a file of the person's own.

    Args:
        path: The file.
        package: Where in the configuration its keys belong, as Hydra says it: `dataset`, or nothing for the root.

    Raises:
        UserError: It cannot be read, is not YAML (with the line), is not a mapping, or reaches for Hydra's own
            configuration.
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
    """Read the main configuration and every choice, and what they build on, before Hydra does.

    Args:
        own: The person's own folder.
        chosen: Group and choice of what is chosen on the command line.

    Raises:
        UserError: As `read_file`; a main configuration that does not build on the shipped one; a choice that
            there is not; a file that builds on itself.
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
    """Read `name`, a path below the folder without `.yaml`, and what it builds on; `above` builds on it."""
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
    """The files of the person's own that take part in a configuration, in the order they are merged."""

    def __init__(self, own: OwnConf | None, parts: Collection[tuple[str, str]] = ()) -> None:
        """Read them.

        Args:
            own: The person's own folder.
            parts: Path without `.yaml` and package of every file that takes part, the shipped ones too.

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
        """Check that what every choice sets is set: a file may have left it out.

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
        """What to say of a configuration that Hydra could not compose.

        Args:
            error: What Hydra or OmegaConf raised.
            allowed: Key to what is allowed there, in words.
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
        """Errors that begin with a key that a file sets, and that was not typed, begin with the file.

        Args:
            typed: The keys on the command line.
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
        """The file whose value counts: the last that sets the key."""
        return next((file for file in reversed(self._files) if key and file.sets(key)), None)


def _num_values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Values that a node stands for. Nine lines of anchors, each naming the one before nine times, are a billion.

    Raises:
        ValueError: It holds itself.
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
