"""The choices of the configuration's groups: those that are shipped, and a person's own (`--config-dir`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.errors import UserError, did_you_mean

GROUPS = ("dataset", "model", "decoder")
PRIMARY = "config"
"""The shipped main configuration, which a person's own (`--config-name`) builds on."""
SCHEMA = "schema"
"""What types it, by the name that its `defaults` use."""


def conf_dir() -> Path:
    """The folder of the shipped configuration: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class OwnConf:
    """A folder of configuration files of the person's own.

    Attributes:
        root: The folder, absolute; in it `dataset/<choice>.yaml`, `model/<choice>.yaml`, `<name>.yaml`.
        name: The main configuration: `config`, or a file in the folder that builds on it.
    """

    root: Path
    name: str = PRIMARY

    @property
    def primary(self) -> Path | None:
        """The file of the main configuration, where it is the person's own."""
        return None if self.name == PRIMARY else self.root / f"{self.name}.yaml"


def open_conf(folder: str, name: str = PRIMARY) -> OwnConf:
    """Check a person's own folder by the names in it; no file is read.

    Args:
        folder: As typed after `--config-dir`.
        name: As typed after `--config-name`, with or without `.yaml`.

    Raises:
        UserError: The folder or the file is not there, the folder has nothing to choose, or a file has the
            name of a shipped one, which Hydra would take instead without a word.
    """
    root = Path(os.path.abspath(os.path.expanduser(folder)))
    said = f"--config-dir={folder}"
    if not root.is_dir():
        reason = "not a folder" if root.exists() else "no such folder"
        raise UserError(f"{said}: {reason}; give the folder that holds dataset/NAME.yaml, model/NAME.yaml, ...")
    try:
        own = {group: _own_names(root / group) for group in GROUPS}
        mains = _names(root)
    except OSError as error:
        raise UserError(f"{said}: {error.filename} cannot be read ({error.strerror}); give read permission") from None
    for group, names in own.items():
        for taken in sorted({*names} & {*_names(conf_dir() / group)}):
            file = root / group / f"{taken}.yaml"
            raise UserError(f"{file}: {group}={taken} is a shipped choice; give the file another name")
    for taken in sorted({*mains} & {PRIMARY, SCHEMA}):
        raise UserError(
            f"{root / taken}.yaml: has a name of the shipped configuration; call it myrun.yaml, begin it "
            f"with `defaults: [{PRIMARY}, _self_]`, and add --config-name myrun"
        )
    name = name.removesuffix(".yaml")
    if name != PRIMARY and name not in mains:
        there = f"there are {', '.join(mains)}" if mains else "there is no .yaml file in it"
        raise UserError(f"--config-name={name}: no {name}.yaml in {root}{did_you_mean(name, mains)}; {there}")
    if name == PRIMARY and not any(own.values()):
        remedy = f", or add --config-name {mains[0]}" if mains else ""
        raise UserError(f"{said}: has no choices; put files into {root / 'dataset'} or {root / 'model'}{remedy}")
    return OwnConf(root, name)


def group_choices(group: str, own: OwnConf | None = None) -> list[str]:
    """The choices of a group, sorted; with a person's own among them."""
    return sorted([*_names(conf_dir() / group), *(_names(own.root / group) if own else ())])


def choice_file(group: str, choice: str, own: OwnConf | None = None) -> Path:
    """The file of a choice that there is."""
    shipped = conf_dir() / group / f"{choice}.yaml"
    return shipped if own is None or shipped.is_file() else own.root / group / f"{choice}.yaml"


def no_such_choice(group: str, choice: str, own: OwnConf | None = None) -> str:
    """What to say of a choice that is not there: what it may have meant, and what there is."""
    there = group_choices(group, own)
    return f"no such choice{did_you_mean(choice, there)}; there are {', '.join(there)}"


def no_such_key(key: str, keys: Iterable[str]) -> str:
    """What to say of a key that is not there: what it may have meant, and its siblings."""
    keys = sorted(keys)
    group = key.rpartition(".")[0]
    children = [other for other in keys if other.startswith(f"{key}.")]
    siblings = [other for other in keys if other.rpartition(".")[0] == group]
    there = children or siblings or [other for other in keys if "." not in other]
    close = ", it holds keys" if children else did_you_mean(key, keys)
    return f"no such key{close}; {'there are ' + ', '.join(there) if there else 'there is nothing to set'}"


def _names(folder: Path) -> list[str]:
    """Names of the YAML files in a folder, sorted; hidden ones, such as an editor's locks, are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        name.removesuffix(".yaml")
        for name in os.listdir(folder)
        if name.endswith(".yaml") and not name.startswith(".") and (folder / name).is_file()
    )


def _own_names(folder: Path) -> list[str]:
    """`_names`, where a file that Hydra would not see is refused."""
    for file in sorted(folder.glob("[!.]*.yml")):
        raise UserError(f"{file}: only .yaml is read; rename it to {file.stem}.yaml")
    return _names(folder)
