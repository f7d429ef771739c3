"""The groups of the configuration and their choices: shipped ones, those of other packages, and a person's own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from pipeline.datasets import CONNECTORS
from pipeline.decoding import DECODERS
from pipeline.models.sources import SOURCES
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.plugins import Modules, distribution

PRIMARY = "config"
"""The shipped main configuration, which a person's own (`--config-name`) builds on."""


@dataclass(frozen=True)
class Group:
    """A group, whose choices name a module with a dataclass `Options`.

    Attributes:
        modules: The modules.
        hidden: The keys that a choice sets and that nobody types.
    """

    modules: Modules
    hidden: tuple[str, ...] = ("name",)

    @property
    def key(self) -> str:
        """The hidden key that names the module."""
        return self.modules.key.partition(".")[2]

    @cache  # noqa: B019 - groups live as long as the process
    def schema(self, module_name: str) -> type:
        """The dataclass of everything in the group: the module's `Options` and the hidden keys.

        Raises:
            UserError: There is no such module.
        """
        options = self.modules.load(module_name).Options
        hidden = [(key, str, field(default=MISSING)) for key in self.hidden]
        return make_dataclass(options.__name__, hidden, bases=(options,))

    def options(self, given: Any) -> Any:
        """The module's `Options` out of an instance of `schema`."""
        options = self.modules.load(getattr(given, self.key)).Options
        return options(**{item.name: getattr(given, item.name) for item in fields(options)})


GROUPS = {
    "dataset": Group(CONNECTORS, ("connector",)),
    "model": Group(SOURCES, ("name", "source")),
    "decoder": Group(DECODERS),
    "executor": Group(Modules("executor.name", "pipeline.executors", "Executor")),
}
HIDDEN = tuple(f"{name}.{key}" for name, group in GROUPS.items() for key in group.hidden)


def conf_dir() -> Path:
    """The folder of the shipped configuration: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class OwnConf:
    """A folder with configuration files of a person's own.

    Attributes:
        root: The folder, absolute. It holds `dataset/<choice>.yaml`, `model/<choice>.yaml` and `<name>.yaml`.
        name: The main configuration: `config`, or a file in the folder that builds on it.
    """

    root: Path
    name: str = PRIMARY


def open_conf(folder: str, name: str = PRIMARY) -> OwnConf:
    """Check a person's own folder by the names in it; no file is read.

    Args:
        folder: The folder as typed after `--config-dir`.
        name: The main configuration as typed after `--config-name`, with or without `.yaml`.

    Raises:
        UserError: The folder or the file is not there; the folder has nothing to choose; a file has the name of
            another choice, which Hydra would take instead without a word.
    """
    given, said = os.path.expanduser(folder), f"--config-dir={folder}"
    try:
        os.listdir(given)
    except OSError as error:
        raise UserError(
            f"{said}: {error.strerror}; give a folder that holds dataset/NAME.yaml, model/NAME.yaml, ..."
        ) from None
    root = Path(os.path.abspath(given))
    own, mains = {group: _names(root / group) for group in GROUPS}, _names(root)
    for group, names in own.items():
        for file in sorted((root / group).glob("[!.]*.yml")):
            raise UserError(f"{file}: only .yaml is read; rename it to {file.stem}.yaml")
        for taken in sorted({*names} & {*group_choices(group)}):
            raise UserError(f"{root / group / taken}.yaml: {group}={taken} is there already; rename the file")
    if PRIMARY in mains:
        raise UserError(
            f"{root / PRIMARY}.yaml: has the name of the shipped configuration; call it myrun.yaml, begin it "
            f"with `defaults: [{PRIMARY}, _self_]`, and add --config-name myrun"
        )
    name = name.removesuffix(".yaml")
    if name not in (PRIMARY, *mains):
        there = f"there are {', '.join(mains)}" if mains else "there is no .yaml file in it"
        raise UserError(f"--config-name={name}: no {name}.yaml in {root}{did_you_mean(name, mains)}; {there}")
    if name == PRIMARY and not any(own.values()):
        remedy = f", or add --config-name {mains[0]}" if mains else ""
        raise UserError(f"{said}: has no choices; put files into {root / 'dataset'} or {root / 'model'}{remedy}")
    return OwnConf(root, name)


def added_choices(group: str) -> dict[str, str]:
    """The choices of a group that other packages add: name to the package."""
    return {name: distribution(point) for name, point in GROUPS[group].modules.added().items()}


def group_choices(group: str, own: OwnConf | None = None) -> list[str]:
    """The choices of a group, sorted: shipped ones, those of other packages, and a person's own."""
    return sorted([*_names(conf_dir() / group), *added_choices(group), *(_names(own.root / group) if own else ())])


def choice_file(group: str, choice: str, own: OwnConf | None = None) -> Path:
    """The file of a choice; for a choice of another package, which has none, a path where no file is."""
    shipped = conf_dir() / group / f"{choice}.yaml"
    return shipped if own is None or shipped.is_file() else own.root / group / f"{choice}.yaml"


def no_such_choice(group: str, choice: str, own: OwnConf | None = None) -> str:
    """Why a choice is refused: what may have been meant, and what there is."""
    there = group_choices(group, own)
    return f"no such choice{did_you_mean(choice, there)}; there are {', '.join(there)}"


def no_such_key(key: str, keys: Iterable[str]) -> str:
    """Why a key is refused: the choice that has the key, or what may have been meant, and the keys beside it."""
    keys = sorted(keys)
    group, _, name = key.partition(".")
    first = name.partition(".")[0]
    owners = [choice for choice, names in _keys_of_choices(group).items() if first in names]
    if owners:
        choices = ", ".join(f"{group}={owner}" for owner in owners)
        return f"no such key of this choice; {key} is a key of {choices}; add {group}={owners[0]}, or leave it out"
    parent = key.rpartition(".")[0]
    children = [other for other in keys if other.startswith(f"{key}.")]
    siblings = [other for other in keys if other.rpartition(".")[0] == parent]
    there = children or siblings or [other for other in keys if "." not in other]
    close = ", it holds keys" if children else did_you_mean(key, keys)
    return f"no such key{close}; {'there are ' + ', '.join(there) if there else 'there is nothing to set'}"


@cache
def _keys_of_choices(group: str) -> dict[str, list[str]]:
    """The keys that each shipped module takes, by a choice that names the module."""
    found: dict[str, list[str]] = {}
    for choice in _names(conf_dir() / group) if group in GROUPS else []:
        config = OmegaConf.load(conf_dir() / group / f"{choice}.yaml")
        assert isinstance(config, DictConfig)
        module = GROUPS[group].modules.load(str(config.get(group, config)[GROUPS[group].key]))
        found[choice] = [item.name for item in fields(module.Options)]
    return found


def _names(folder: Path) -> list[str]:
    """Names of the YAML files in a folder, sorted; hidden ones, such as an editor's locks, are left out."""
    return sorted(path.stem for path in folder.glob("[!.]*.yaml") if path.is_file())
