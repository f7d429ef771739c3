"""The page that `python -m pipeline.run --help` prints.

Choices, settings, defaults and descriptions are read from the files in conf/ and their comments.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipeline import __version__
from pipeline.config.commandline import OPTIONS
from pipeline.config.groups import GROUPS, HIDDEN, PRIMARY, OwnConf, added_choices, choice_file, conf_dir, group_choices
from pipeline.models.catalog import MODELS

VERSION = f"overnight-speech {__version__}"
WIDTH = 80
_MAIN = conf_dir() / f"{PRIMARY}.yaml"
_COLUMN = 27
"""The column in which the description of a setting begins."""
_HIDDEN = {key.partition(".")[2] for key in HIDDEN}

_INTRODUCTION = """\
usage: python -m pipeline.run [option ...] [key=value ...]

Recordings in, Parquet tables out: transcripts with word times and scores,
emissions, features of any layer. The same command again continues where it
stopped; when everything is done it says so within seconds."""

EXAMPLES = (
    ("See everything work now, offline", ("dataset=digits",)),
    ("The corpus VOiCES", ("dataset=voices", "dataset.root=VOiCES_devkit")),
    ("Any folder of recordings, tables to any place", ("dataset=folder", "dataset.root=calls", "run_dir=out")),
    (
        "Recordings that a list names, transcripts only",
        ("dataset=manifest", "dataset.path=list.jsonl", "outputs=[transcripts]"),
    ),
    (
        "Features of every layer, no transcripts",
        ("dataset=folder", "dataset.root=calls", "model=hubert_base", "features.layers=all"),
    ),
    ("Settings of your own, from conf/dataset/mycalls.yaml", ("--config-dir", "conf", "dataset=mycalls")),
    ("Two models over one corpus, one after the other", ("-m", "model=digits,hubert_base", "dataset=voices")),
)
"""Commands: the purpose, and the arguments."""

_END = """\
exit codes
  0    everything committed, no failures
  3    everything committed, some utterances in failures/
  2    the configuration, the input or a refused resume
  1    an error stopped the run
  130, 143, 129   stopped by Ctrl-C, SIGTERM, SIGHUP; what was committed stays
  With -m the worst of the runs: 1 is worse than 2, 2 than 3, 3 than 0.

the run directory
  transcripts/ emissions/ features/ failures/   Parquet, right at any moment:
                           pandas.read_parquet("RUN_DIR/transcripts")
  manifest.parquet         one row per utterance; every id of it is in the
                           tables or in failures/
  scores.parquet           word error rates, where there are references
  config.yaml, run.json, commits/, logs/

  python -m pipeline.status RUN_DIR says how far a run is.
  python -m pipeline.verify RUN_DIR says whether all of it is as committed."""


@dataclass(frozen=True)
class Setting:
    """A line of a configuration file: the full key, the default as written, and the comment."""

    key: str
    default: str
    comment: str


def page(own: OwnConf | None = None, overrides: Sequence[str] = ()) -> str:
    """The page, 80 columns wide.

    Args:
        own: The person's own files, whose choices are listed with the others.
        overrides: `key=value` as typed beside `--help`. With a choice among them, the page lists its keys.
    """
    details = [
        _details(group, choice, own)
        for group, _, choice in (override.partition("=") for override in overrides)
        if group in GROUPS and choice in group_choices(group, own)
    ]
    if details:
        return "\n\n".join([*details, "python -m pipeline.run --help says what can be set in every run."])
    default = {
        key: name
        for item in OmegaConf.load(_MAIN).defaults
        if isinstance(item, DictConfig)
        for key, name in item.items()
    }
    parts = [
        _INTRODUCTION,
        "examples\n" + "\n".join(_examples()),
        "options\n" + "\n".join(_options()),
        f"dataset=NAME: where recordings come from (default {default['dataset']})\n" + _described("dataset", own),
        f"model=NAME (default {default['model']}; with dataset=digits: digits)\n" + "\n".join(_models(own)),
        *(f"{group}=NAME (default {default[group]})\n" + _described(group, own) for group in ("decoder", "executor")),
        "settings: key=default\n" + "\n".join(map(_setting, _settings())),
        _END,
    ]
    return "\n\n".join(parts)


def description(file: Path) -> str:
    """The description in a configuration file: its first comment that is not for Hydra."""
    lines = _text(file).splitlines()
    return next((line.strip("# ") for line in lines if line.startswith("#") and "@package" not in line), "")


def settings_of(file: Path, prefix: str = "") -> list[Setting]:
    """The settings in a configuration file.

    Args:
        file: The file, with mappings in block style, lists in brackets, and comments after values.
        prefix: The group of the file, for files without a `@package`.
    """
    found: list[Setting] = []
    levels: list[tuple[int, str]] = []
    text = re.sub(r",\n +", ", ", _text(file))
    for line in text.splitlines():
        match = re.match(r"( *)(\w+):(?: +([^#\s].*?))?(?: +# *(.*))?$", line)
        if match is None or match[2] == "defaults":
            continue
        while levels and levels[-1][0] >= len(match[1]):
            levels.pop()
        key = ".".join([*(name for _, name in levels), match[2]])
        levels.append((len(match[1]), match[2]))
        if match[3] and match[2] not in _HIDDEN:
            packaged = "@package _global_" in text
            found.append(Setting(key if packaged or not prefix else f"{prefix}.{key}", match[3], match[4] or ""))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # of a person's own; a run that chooses it says so
        return ""


def _examples() -> Iterator[str]:
    for does, arguments in EXAMPLES:
        yield f"  {does}:"
        yield from _wrapped(" ".join(["python -m pipeline.run", *arguments]), "    ", "        ", end=" \\")


def _options() -> Iterator[str]:
    for option in OPTIONS:
        yield _entry(f"{option.short}, {option.full} {option.value}".rstrip(), option.does)


def _described(group: str, own: OwnConf | None) -> str:
    return "\n".join(_entry(name, _said(group, name, own)) for name in group_choices(group, own))


def _said(group: str, name: str, own: OwnConf | None) -> str:
    """The description of a choice, and the keys that it requires."""
    if name in added_choices(group):
        return f"Added by the package {added_choices(group)[name]}."
    file = choice_file(group, name, own)
    required = [f"{setting.key}=..." for setting in settings_of(file, group) if setting.default == "???"]
    return " ".join([description(file), *(["Needs", *required] if required else [])])


def _models(own: OwnConf | None) -> Iterator[str]:
    """The models by their outputs, because there are too many for a line each."""
    names = group_choices("model", own)
    facts = {name: MODELS[name] for name in names if name in MODELS}
    kinds = {
        "transcribe": [name for name, model in facts.items() if model.transcribes],
        "emissions and features": [name for name, model in facts.items() if model.labels and not model.transcribes],
        "features only": [name for name, model in facts.items() if not model.labels],
    }
    for kind, members in kinds.items():
        if members:
            yield _entry(kind, ", ".join(members))
    for name in names:
        if name not in facts:
            yield _entry(name, _said("model", name, own))
    yield "  python -m pipeline.models says more of each."


def _settings() -> list[Setting]:
    """The settings of every run: those of the main file, and those of every model."""
    main = settings_of(_MAIN)
    models = [setting for name in MODELS for setting in settings_of(choice_file("model", name), "model")]
    shared = {setting.key: setting for setting in reversed(models) if setting.key.startswith("model.")}
    return [*main, *shared.values()]


def _details(group: str, choice: str, own: OwnConf | None) -> str:
    """The page of one choice, with its keys."""
    file = choice_file(group, choice, own)
    settings = settings_of(file, group)
    if choice in added_choices(group):
        schema = OmegaConf.structured(GROUPS[group].modules.load(choice).Options)
        settings = [Setting(f"{group}.{key}", str(schema._get_node(key)), "") for key in schema]
        return "\n".join([f"{group}={choice}: {_said(group, choice, own)}", *map(_setting, settings)])
    lines = list(map(_setting, settings)) or ["  nothing to set"]
    return "\n".join([*_wrapped(f"{group}={choice}: {description(file)}", "", "  "), *lines, f"  ({file})"])


def _setting(setting: Setting) -> str:
    default, said = setting.default.replace(", ", ","), setting.comment
    if default == "???":
        default, said = "...", f"required: {said}"
    default = re.sub(r"\$\{oc\.env:(\w+),\w+\}", r"$\1", default)
    return _entry(f"{setting.key}={default}", said)


def _entry(name: str, said: str) -> str:
    """A name in the left column and its description in the right one, or below a long name."""
    lines = _wrapped(said, " " * _COLUMN, " " * _COLUMN)
    if len(name) + 4 > _COLUMN:
        breakable = name.replace(",", ", ") if len(name) + 2 > WIDTH else name
        return "\n".join([*_wrapped(breakable, "  ", "      "), *lines])
    return "\n".join([f"  {name}".ljust(_COLUMN) + (lines[0].strip() if lines else ""), *lines[1:]]).rstrip()


def _wrapped(text: str, first: str, then: str, end: str = "") -> list[str]:
    lines = textwrap.wrap(
        text,
        WIDTH - len(end),
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [*(f"{line}{end}" for line in lines[:-1]), *lines[-1:]]
