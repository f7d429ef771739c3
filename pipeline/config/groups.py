"""The groups of the configuration and their choices: shipped ones, those of other packages, and a person's own."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pipeline.audio.archives.contents import is_archive
from pipeline.datasets import CONNECTORS
from pipeline.decoding import DECODERS
from pipeline.models.sources import SOURCES
from pipeline.runtime.errors import UserError, did_you_mean, one_of
from pipeline.runtime.plugins import Modules, distribution

PRIMARY = "config"
"""The shipped main configuration, which a person's own (`--config-name`) builds on."""
EXECUTORS = Modules("executor.name", "pipeline.executors", "Executor")
DETECTORS = Modules("vad.name", "pipeline.vad", "Detector")
GROUPS = {"dataset": CONNECTORS, "model": SOURCES, "decoder": DECODERS, "executor": EXECUTORS, "vad": DETECTORS}
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
    """A person's own files: an absolute folder with `<group>/<choice>.yaml`, and the name of the main configuration."""

    root: Path
    name: str = PRIMARY

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options of the command line that name these files."""
        return "--config-dir", str(self.root), "--config-name", self.name


def open_conf(folder: str, name: str = PRIMARY) -> OwnConf:
    """Check the values of `--config-dir` and `--config-name` by the names of the files; no file is read.

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
    name = choose("--config-name", "", name.removesuffix(".yaml"), OwnConf(root))
    if name == PRIMARY and not any(names_in(root / group) for group in GROUPS):
        mains = ", ".join(names_in(root)) or "none"
        remedy = f"put files into {root / 'dataset'} or {root / 'model'}, or add --config-name NAME (there are {mains})"
        raise UserError(f"{said}: has no choices; {remedy}")
    return OwnConf(root, name)


def added_choices(group: str) -> dict[str, str]:
    """The choices of a group that other packages add: name to the package."""
    return {name: distribution(point) for name, point in GROUPS[group].added().items()} if group else {}


def group_choices(group: str, own: OwnConf | None = None) -> list[str]:
    """The choices of a group, sorted: shipped, other packages', a person's own. No group: the main configurations."""
    return sorted([*names_in(conf_dir() / group), *added_choices(group), *(names_in(own.root / group) if own else ())])


def choose(key: str, group: str, name: str, own: OwnConf | None = None) -> str:
    """The choice of a group that has this name. Upper and lower case are one, and so are `-` and `_`.

    Raises:
        UserError: There is no such choice. The message begins with `key`, the key or the place in a file.
    """
    choices = group_choices(group, own)
    alike = [choice for choice in choices if choice.lower().replace("-", "_") == name.lower().replace("-", "_")]
    if len(alike) == 1:
        return alike[0]
    path = {"dataset": for_recordings, "model": _for_weights}.get(group, lambda _: "")(name)
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
    """Replace `~` or `~user` at the start of the path that `key` has as its value by the home directory.

    Raises:
        UserError: There is no such home directory, and the path does not exist. A folder named `~` would be made.
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


@cache
def compose_choices(choices: tuple[str, ...]) -> dict[str, Any]:
    """Let Hydra compose the main configuration with choices such as `dataset=digits`, none of them a person's own."""
    for group, modules in GROUPS.items():
        for name in added_choices(group):
            ConfigStore.instance().store(name, {modules.key.partition(".")[2]: name}, group=group)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose(PRIMARY, list(choices)))  # type: ignore[return-value]


LISTS = ("outputs", "stages", "features.layers", "report.layers", "score.by", "dataset.extensions")
"""The keys that take a list."""
PATHS = (
    "run_dir",
    "dataset.root",
    "dataset.path",
    "dataset.audio_root",
    "model.checkpoint",
    "decoder.lm",
    "decoder.lexicon",
    "decoder.hotwords",
)
"""The keys that take a path. A path may hold spaces, commas, `=` and `~`, so it is taken as typed."""

_OTHER_TOOLS = {
    "input inputs input_dir input_path data data_dir folder dir source audio audio_dir audio_path": (
        "write dataset=folder dataset.root=FOLDER"
    ),
    "list manifest csv jsonl filelist file_list": "write dataset=manifest dataset.path=LIST",
    "out output_dir out_dir outdir output_path save_dir result_dir results results_dir": "write run_dir=FOLDER",
    "gpu gpus gpu_id num_gpus n_gpus ngpu cuda device_id devices": (
        "write device=cuda for every GPU, or device=cuda:1 for the second one"
    ),
    "batch batch_size batchsize bs": "write batch.max_seconds=, the most seconds of audio in one batch",
    "jobs n_jobs num_jobs nj num_threads n_threads cpus cores": "write threads= for the cores that compute",
    "num_workers n_workers": "write loader.workers= for the processes that read audio",
    "language languages lang locale": "choose a model of that language; python -m pipeline.models lists them",
    "resume continue restart": "leave it out; the same command continues a run",
    "overwrite force": "write another run_dir=, or remove the old folder",
    "dtype fp16 half bf16 amp": "write precision=",
    "weights ckpt model_path": "write model=checkpoint model.checkpoint=FILE",
    "model_name_or_path pretrained_model_name_or_path pretrained model_id repo_id": (
        "write model=huggingface model.checkpoint=DIR, or model.checkpoint=owner/name"
    ),
}
"""What to write in place of keys that other tools have."""


def remedy_for(key: str) -> str:
    """What to write in place of a key that other tools have; an empty string if it is none."""
    name = key.lower().replace("-", "_")
    return next((remedy for names, remedy in _OTHER_TOOLS.items() if name in names.split()), "")


def _for_weights(path: str) -> str:
    """What to write for a checkpoint; an empty string if a text looks like none."""
    given, quoted = os.path.expanduser(path), shlex.quote(path)
    if os.path.isfile(given):
        return f"for a file of weights write model=checkpoint model.checkpoint={quoted}"
    if os.path.isdir(given) or "/" in path:
        return f"for a checkpoint of transformers write model=huggingface model.checkpoint={quoted}"
    return ""


def for_recordings(path: str) -> str:
    """What to write for a folder, an archive or a list of recordings; an empty string if a text looks like no path."""
    given, quoted = os.path.expanduser(path), shlex.quote(path)
    if os.path.isfile(given) and is_archive(path):
        return f"for an archive of recordings write dataset=folder dataset.root={quoted}"
    if os.path.isfile(given):
        return (
            f"for a list of recordings write dataset=manifest dataset.path={quoted}, for all recordings beside a file "
            f"dataset=folder dataset.root={shlex.quote(os.path.dirname(path) or '.')}"
        )
    if os.path.isdir(given):
        return f"for a folder of recordings write dataset=folder dataset.root={quoted}"
    is_path = re.search(r"[/\\]", path)
    return "no such file or folder; for recordings write dataset=folder dataset.root=FOLDER" if is_path else ""


def keys_like(name: str) -> dict[str, list[str]]:
    """The keys that have a name, in full or as their last part, each with the choices that have it; none for all."""
    parent, _, last = name.lower().rpartition(".")
    owners: dict[str, list[str]] = {key: [] for key in GROUPS}
    owners |= {setting.key: [] for setting in describe("", PRIMARY).settings}
    for group in GROUPS:
        for choice in group_choices(group):
            for setting in describe(group, choice).settings:
                owners.setdefault(setting.key, []).append(f"{group}={choice}")
    return {key: of for key, of in owners.items() if key.startswith(parent) and key.rpartition(".")[2] == last}


def no_such_key(key: str, keys: Sequence[str]) -> str:
    """Why a key is refused: what may have been meant, or the choices that have the key, or the keys beside it."""
    alike = keys_like(key)
    if meant := [each for each in alike if each in keys]:
        return f"no such key (did you mean {' or '.join(meant)}?)"
    for each, of in alike.items():
        said = f"{each} is a key of {', '.join(of)}; add {of[0]}" if of else f"write `defaults: [override {key}: NAME]`"
        return f"no such key{' of this choice' if of else ''}; {said}, or leave it out"
    if remedy := remedy_for(key):
        return f"no such key; {remedy}"
    there = keys if "." in key else [*GROUPS, *keys]
    near = [each for each in there if each.rpartition(".")[0] in (key, key.rpartition(".")[0])] or there
    return f"no such key{did_you_mean(key.lower(), there)}; there are {', '.join(sorted(near))}"
