"""Reads a person's own configuration files for Hydra; every mistake is one line with the file.

The files are data. Every key in them is checked against the known keys, so a file reaches neither a `_target_` nor
Hydra's own configuration, where a search path may name a Python package to import.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigResult
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
from pipeline.config.schema import ALLOWED
from pipeline.runtime.errors import UserError, explain

_MAX_BYTES = 2**20
_MAX_REFERENCES = 10
"""The most references to anchors in one file, because references to references hold a billion values in ten lines."""


class OwnSource(FileConfigSource):
    """The person's own folder as a source of Hydra, which asks it for every file that takes part."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.read: dict[str, tuple[Path, dict[str, Any]]] = {}

    def __deepcopy__(self, _: object) -> OwnSource:
        return self  # Hydra reads from a copy of its sources, and `read` is wanted

    @staticmethod
    def scheme() -> str:
        """The scheme of the folder in a search path of Hydra."""
        return "own"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file.

        Raises:
            UserError: The file cannot be read, is not YAML (with the line), is not a mapping, or sets a key of Hydra's
                own configuration.
        """
        path = Path(self.path) / self._normalize_file_name(config_path)
        text, config = _read(path)
        content: dict[Any, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
        defaults = content.pop("defaults", None)
        values = dict(_flat(content))
        self.read[config_path] = path, values
        items = defaults if isinstance(defaults, list) else []
        for name in [*values, *(key for item in items for key in (item if isinstance(item, dict) else [item]))]:
            _refuse_hydra(path, str(name), r"(^|[/@ ])hydra\b")
        return ConfigResult(self.provider, f"own://{self.path}", config, self._get_header_dict(text))


def _read(path: Path) -> tuple[str, DictConfig]:
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
    return text, config


def _refuse_hydra(path: Path, name: str, pattern: str = "hydra") -> None:
    if re.search(pattern, name):
        raise UserError(f"{path}: {name}: Hydra's own configuration cannot be changed; leave it out")


class Origins:
    """Where each value of a configuration comes from, for messages: a file of the person's own, or the command line."""

    def __init__(self, own: OwnConf | None, source: OwnSource | None) -> None:
        """Begin without files.

        Args:
            own: The person's own folder.
            source: The source that reads the folder.
        """
        self._own = own
        self._read = {} if source is None else source.read
        self._merged: list[tuple[Path | None, Mapping[str, Any]]] = []

    def add(self, path: Path | None, values: Mapping[str, Any]) -> None:
        """Add values, which replace the values before.

        Args:
            path: The file; `None` for the command line.
            values: The values of a file, or what was typed, by full key.
        """
        self._merged.append((path, values))

    def add_files(self, parts: Iterable[ResultDefault]) -> None:
        """Add the person's own files.

        Args:
            parts: Every file in the configuration in the order in which Hydra merges them, shipped files included.

        Raises:
            UserError: A file is put below Hydra's own configuration; the main file does not build on the shipped file.
        """
        names = []
        for part in parts:
            names.append(part.config_path or "")
            if names[-1] in self._read:
                path, values = self._read[names[-1]]
                package = part.package or ""
                _refuse_hydra(path, package, r"^hydra\b")
                self.add(path, {f"{package}.{key}".lstrip("."): value for key, value in values.items()})
        if self._own is not None and PRIMARY not in names:
            raise UserError(
                f"{self._own.root / self._own.name}.yaml: does not build on the shipped configuration; "
                f"begin it with `defaults: [{PRIMARY}, _self_]`"
            )

    def check_keys(self, keys: Collection[str]) -> None:
        """Check that every key is one of `keys`, in a file also a part of one or a key that a choice sets.

        Raises:
            UserError: With the file, and the keys that there are.
        """
        for path, values in self._merged:
            for key in values:
                known = [*keys, *HIDDEN] if path else [*keys, *GROUPS]
                if key not in known and not (path and key.startswith(tuple(f"{other}." for other in known))):
                    raise UserError(f"{f'{path}: {key}' if path else values[key]}: {no_such_key(key, keys)}")

    def check_set(self, composed: DictConfig) -> None:
        """Check that the hidden keys are set, which a file may have left out.

        Raises:
            UserError: With the file.
        """
        for key in HIDDEN:
            group = key.partition(".")[0]
            if not isinstance(composed.get(group), DictConfig) or OmegaConf.select(composed, key) is None:
                path = next(path for path, _ in reversed(self._merged) if path and path.parent.name == group)
                there = ", ".join(group_choices(group))
                raise UserError(f"{path}: {key} is not set; begin with `defaults: [NAME, _self_]`, NAME one of {there}")

    def refusal(self, error: BaseException, key: str = "") -> UserError:
        """The message for a configuration that cannot be composed.

        Args:
            error: The exception of Hydra or OmegaConf.
            key: The key whose value is wrong, if `error` does not name the key.
        """
        inner: BaseException | None = error
        while inner is not None and not getattr(inner, "full_key", None):
            inner = inner.__cause__ or inner.__context__
        key = str(getattr(inner, "full_key", key)).split("[")[0]
        for path, values in self._of(key):
            hint = f"; allowed: {ALLOWED[key]}" if key in ALLOWED else ""
            said = f"{path}: {key}={values.get(key, '...')}" if path else values[key]
            return UserError(f"{said}: {explain(inner or error)}{hint}")
        where = re.match(r"In '([^']+)': ", str(error))
        file, _ = self._read.get(where[1] if where else "", next(iter(self._read.values()), (conf_dir(), {})))
        if isinstance(error, RecursionError):
            return UserError(f"{file}: builds on itself, or on a file that does; correct `defaults`")
        if missing := re.search(r"Could not (?:find|load) '(\w+)/([^']+)'", str(error)):
            return UserError(f"{file}: {missing[1]}={missing[2]}: {no_such_choice(missing[1], missing[2], self._own)}")
        reason = " ".join(str(error).split())
        return UserError(f"{file}: {reason}; correct the file")

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the file in front of an error that begins with a key whose value is from the file."""
        try:
            yield
        except UserError as error:
            key = re.match(r"[\w.]+(?==)", str(error))
            path = next((path for path, _ in self._of(key[0])), None) if key else None
            if path is None:
                raise
            raise UserError(f"{path}: {error}") from None

    def _of(self, key: str) -> Iterator[tuple[Path | None, Mapping[str, Any]]]:
        """What sets a key or a part of it; first the origin whose value is taken."""
        for path, values in reversed(self._merged):
            if key and any(own == key or own.startswith(f"{key}.") for own in values):
                yield path, values


def _flat(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
