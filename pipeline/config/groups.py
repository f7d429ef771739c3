"""The groups of the configuration and their choices: shipped ones, those of other packages, and a person's own."""

from __future__ import annotations

import copy
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from pipeline.datasets import CONNECTORS
from pipeline.decoding import DECODERS
from pipeline.models.sources import SOURCES
from pipeline.runtime.errors import UserError, did_you_mean, one_of
from pipeline.runtime.plugins import Modules, distribution

PRIMARY = "config"
"""The shipped main configuration, which a person's own (`--config-name`) builds on."""
EXECUTORS = Modules("executor.name", "pipeline.executors", "Executor")
GROUPS = {"dataset": CONNECTORS, "model": SOURCES, "decoder": DECODERS, "executor": EXECUTORS}
"""The modules of each group. A choice names one; the keys of the group are the fields of its dataclass `Options`."""
HIDDEN = ("model.name", *(modules.key for modules in GROUPS.values()))
"""The keys that a choice sets and that nobody types."""


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
            another choice, so that nobody could choose one of them.
    """
    given, said = expand_home(folder, "--config-dir"), f"--config-dir={folder}"
    if not os.path.isdir(given):
        raise UserError(f"{said}: is no folder; give one that holds dataset/NAME.yaml, model/NAME.yaml, ...")
    root = Path(os.path.abspath(given))
    for group in ("", *GROUPS):
        for file in sorted((root / group).glob("[!.]*.yml")) if group else ():
            raise UserError(f"{file}: only .yaml is read; rename it to {file.stem}.yaml")
        for taken in sorted({*names_in(root / group)} & {*group_choices(group)}):
            raise UserError(f"{root / group / taken}.yaml: has the name of a choice that is there already; rename it")
    name, mains = name.removesuffix(".yaml"), names_in(root)
    there = f"there are {', '.join(mains)}" if mains else "there is no .yaml file in it"
    if name not in (PRIMARY, *mains):
        raise UserError(f"--config-name={name}: no {name}.yaml in {root}{did_you_mean(name, mains)}; {there}")
    if name == PRIMARY and not any(names_in(root / group) for group in GROUPS):
        remedy = f"put files into {root / 'dataset'} or {root / 'model'}, or add --config-name NAME"
        raise UserError(f"{said}: has no choices; {remedy} ({there})")
    return OwnConf(root, name)


def added_choices(group: str) -> dict[str, str]:
    """The choices of a group that other packages add: name to the package."""
    return {name: distribution(point) for name, point in GROUPS[group].added().items()} if group else {}


def group_choices(group: str, own: OwnConf | None = None) -> list[str]:
    """The choices of a group, sorted: shipped, other packages', a person's own. No group: the main configurations."""
    return sorted([*names_in(conf_dir() / group), *added_choices(group), *(names_in(own.root / group) if own else ())])


def choose(key: str, group: str, name: str, own: OwnConf | None = None) -> str:
    """The choice of a group that has this name. Upper and lower case are one, and so are `-` and `_`.

    Args:
        key: The key, or the place in a file, for the message.
        group: The group.
        name: The name as given.
        own: The person's own files.

    Raises:
        UserError: There is no such choice.
    """
    choices = group_choices(group, own)
    alike = [choice for choice in choices if choice.lower().replace("-", "_") == name.lower().replace("-", "_")]
    if name not in choices and len(alike) == 1:
        return alike[0]
    path = for_recordings(name) if group == "dataset" else ""
    one_of(key, name, choices, path and f"; {path}")
    return name


def choice_file(group: str, choice: str, own: OwnConf | None = None) -> Path:
    """The file of a choice; for a choice of another package, which has none, a path where no file is."""
    shipped = conf_dir() / group / f"{choice}.yaml"
    return shipped if own is None or shipped.is_file() else own.root / group / f"{choice}.yaml"


def names_in(folder: Path) -> list[str]:
    """Names of the YAML files in a folder, sorted; hidden ones, such as an editor's locks, are left out."""
    return sorted(path.stem for path in folder.glob("[!.]*.yaml") if path.is_file())


def expand_home(path: str, key: str) -> str:
    """Replace `~` or `~user` at the start of a path by the home directory.

    Args:
        path: The path. A path that exists as it is stays unchanged.
        key: What has the path as its value, for the message.

    Raises:
        UserError: There is no such home directory. Otherwise a folder named `~` would be made.
    """
    expanded = os.path.expanduser(path)
    if not expanded.startswith("~") or os.path.lexists(expanded):
        return expanded
    home = path.partition("/")[0]
    raise UserError(f"{key}={path}: {home} is no home directory here; write the path without {home}, or set HOME")


class Setting(NamedTuple):
    """A key that a person may type: the full name, the default as written, and the comment."""

    key: str
    default: str
    comment: str


class Description(NamedTuple):
    """What a choice is, from the first comment in its file, and its settings."""

    said: str
    settings: list[Setting]


def describe(group: str, choice: str, own: OwnConf | None = None) -> Description:
    """Describe a choice, or without a group a main configuration; nothing is said of a file that cannot be read."""
    if choice in added_choices(group):
        options = OmegaConf.structured(GROUPS[group].load(choice).Options)
        settings = [Setting(f"{group}.{key}", str(options._get_node(key)), "") for key in options]
        return Description(f"Added by the package {added_choices(group)[choice]}.", settings)
    try:
        text = choice_file(group, choice, own).read_text(encoding="utf-8", errors="replace")
        content = yaml.compose(text, yaml.SafeLoader)
    except (OSError, yaml.YAMLError):  # a person's own file; a run that chooses the file reports the error
        return Description("", [])

    def settings_in(node: yaml.Node, prefix: str) -> Iterator[Setting]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            full, start, end = f"{prefix}{key.value}", value.start_mark.index, value.end_mark.index
            if isinstance(value, yaml.MappingNode):
                yield from settings_in(value, f"{full}.")
            elif key.value != "defaults" and full not in HIDDEN:
                comment = text[end:].partition("\n")[0].partition("#")[2].strip()
                yield Setting(full, " ".join(text[start:end].split()), comment)

    comments = [line.strip("# ") for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    prefix = f"{group}." if group and "@package _global_" not in text else ""
    return Description(next(iter(comments), ""), list(settings_in(content, prefix)))


def compose_choices(choices: Mapping[str, str]) -> DictConfig:
    """Let Hydra compose the main configuration with choices, none of which is a person's own."""
    return copy.deepcopy(_composed(tuple(f"{group}={choice}" for group, choice in choices.items())))


@cache
def _composed(choices: tuple[str, ...]) -> DictConfig:
    for name, modules in GROUPS.items():
        for choice in added_choices(name):
            ConfigStore.instance().store(choice, {modules.key.partition(".")[2]: choice}, group=name)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose(PRIMARY, list(choices))
    OmegaConf.set_struct(composed, False)
    return composed


LISTS = ("outputs", "stages", "features.layers", "report.layers", "score.by", "dataset.extensions")
"""The keys that take a list."""

_FOLDER = "write dataset=folder dataset.root=FOLDER"
_LIST = "write dataset=manifest dataset.path=LIST"
_OUTPUT = "write run_dir=FOLDER"
_GPU = "write device=cuda for every GPU, or device=cuda:1 for the second one"
_BATCH = "write batch.max_seconds=, the most seconds of audio in one batch"
_WORKERS = "write threads= for the cores that compute, loader.workers= for the processes that read audio"
_LANGUAGE = "choose a model of that language; python -m pipeline.models lists them"
_OTHER_TOOLS = {
    name: remedy
    for remedy, names in (
        (_FOLDER, "input inputs input_dir input_path data data_dir audio audio_dir audio_path folder dir source"),
        (_LIST, "list manifest csv jsonl filelist file_list"),
        (_OUTPUT, "out output_dir out_dir outdir output_path save_dir result_dir results results_dir"),
        (_GPU, "gpu gpus gpu_id num_gpus n_gpus ngpu cuda device_id devices"),
        (_BATCH, "batch batch_size batchsize bs"),
        (_WORKERS, "num_workers n_workers jobs n_jobs num_jobs nj num_threads n_threads cpus cores"),
        (_LANGUAGE, "language languages lang locale"),
        ("leave it out; the same command continues a run", "resume continue restart"),
        ("write another run_dir=, or remove the old folder", "overwrite force"),
        ("write precision=", "dtype fp16 half bf16 amp"),
        ("write model=checkpoint model.checkpoint=FILE", "weights ckpt model_path"),
    )
    for name in names.split()
}


def remedy_for(key: str) -> str:
    """What to write in place of a key that other tools have; an empty string if it is none."""
    return _OTHER_TOOLS.get(key.lower().replace("-", "_"), "")


def for_recordings(path: str) -> str:
    """What to write for a folder of recordings or a list; an empty string if a text looks like no path."""
    given = os.path.expanduser(path)
    if os.path.isfile(given):
        folder = shlex.quote(os.path.dirname(path) or ".")
        return (
            f"for a list of recordings write dataset=manifest dataset.path={shlex.quote(path)}, "
            f"for all recordings beside a file dataset=folder dataset.root={folder}"
        )
    if os.path.isdir(given):
        return f"for a folder of recordings write dataset=folder dataset.root={shlex.quote(path)}"
    return "for recordings write dataset=folder dataset.root=FOLDER" if re.search(r"[/\\]", path) else ""


def keys_with(name: str) -> list[str]:
    """The keys of every choice that have this name, in full or as their last part."""
    settings = [setting.key for setting in describe("", PRIMARY).settings]
    settings += [
        setting.key for group in GROUPS for each in group_choices(group) for setting in describe(group, each).settings
    ]
    keys = [*GROUPS, *dict.fromkeys(settings)]
    return [name] if name in keys else [key for key in keys if key.rpartition(".")[2] == name]


def no_such_key(key: str, keys: Sequence[str]) -> str:
    """Why a key is refused: the choices that have the key, or what may have been meant, and the keys beside it."""
    parent, _, last = key.rpartition(".")
    nested = [
        other
        for other in keys
        if other.rpartition(".")[2] == last.lower() != other and other.startswith(parent and f"{parent}.")
    ]
    if nested:
        return f"no such key (did you mean {' or '.join(nested)}?)"
    for group in GROUPS:
        full = key if parent else f"{group}.{key}"
        owners = [
            f"{group}={name}"
            for name in group_choices(group)
            if full in {setting.key for setting in describe(group, name).settings}
        ]
        if owners:
            return (
                f"no such key of this choice; {full} is a key of {', '.join(owners)}; add {owners[0]}, or leave it out"
            )
    if remedy := remedy_for(key):
        return f"no such key; {remedy}"
    inside = [other for other in keys if other.startswith(f"{key}.")]
    beside = [other for other in keys if other.rpartition(".")[0] == parent]
    near = inside or beside or [other for other in keys if "." not in other]
    return f"no such key{did_you_mean(key.lower(), keys)}; there are {', '.join(sorted(near))}"
