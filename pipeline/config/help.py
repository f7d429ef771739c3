"""The page that `python -m pipeline.run --help` prints.

Choices, settings, defaults and descriptions are read from the files in conf/ and their comments.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Sequence

from omegaconf import DictConfig, OmegaConf

from pipeline import __version__
from pipeline.config.commandline import OPTIONS, USAGE
from pipeline.config.groups import GROUPS, PRIMARY, Description, OwnConf, Setting, choice_file, describe, group_choices
from pipeline.models.catalog import MODELS

VERSION = f"overnight-speech {__version__}"
WIDTH = 80
_COLUMN = 27
"""The column in which a description begins."""

_INTRODUCTION = f"""\
usage: {USAGE}

Recordings in, Parquet tables out: transcripts with word times and scores,
emissions, features of any layer. The same command again continues where it
stopped.

examples
  See everything work now, offline:
    python -m pipeline.run dataset=digits
  Any folder of recordings, tables to any place:
    python -m pipeline.run dataset=folder dataset.root=calls run_dir=out
  Features of every layer, no transcripts:
    python -m pipeline.run dataset=voices model=hubert_base features.layers=all
  Settings of your own, from conf/dataset/mycalls.yaml:
    python -m pipeline.run --config-dir conf dataset=mycalls
  Two models over one corpus, one after the other:
    python -m pipeline.run -m model=digits,hubert_base dataset=voices"""

_END = """\
exit codes
  0    everything committed, no failures
  3    everything committed, some utterances in failures/
  2    the configuration, the input or a refused resume
  1    an error stopped the run
  130, 143, 129   stopped by Ctrl-C, SIGTERM, SIGHUP; what was committed stays
  With -m the worst of the runs: 1 is worse than 2, 2 than 3, 3 than 0.

python -m pipeline.status RUN_DIR says how far a run is.
python -m pipeline.verify RUN_DIR says whether all of it is as committed."""


def page(own: OwnConf | None = None, overrides: Sequence[str] = ()) -> str:
    """The page, 80 columns wide.

    Args:
        own: The person's own files, whose choices are listed with the others.
        overrides: `key=value` as typed beside `--help`. With a choice among them, the page lists its keys.
    """
    typed = [override.partition("=") for override in overrides]
    details = [_details(key, name, own) for key, _, name in typed if key in GROUPS and name in group_choices(key, own)]
    if details:
        return "\n\n".join([*details, "python -m pipeline.run --help says what can be set in every run."])
    defaults = [item for item in OmegaConf.load(choice_file("", PRIMARY)).defaults if isinstance(item, DictConfig)]
    default = {str(group): name for item in defaults for group, name in item.items()}
    any_model = [item for item in describe("model", min(MODELS)).settings if "model." in item.key]
    sections = {
        "options": [_entry(f"{option.short}, {option.full} {option.value}", option.does) for option in OPTIONS],
        f"dataset=NAME (default {default['dataset']})": _choices("dataset", own),
        f"model=NAME (default {default['model']}; with dataset=digits: digits)": [
            *_wrapped(", ".join(MODELS), "  ", "  "),
            *_choices("model", own, skip=MODELS),
            "  python -m pipeline.models says more of each.",
        ],
        f"decoder=NAME (default {default['decoder']})": _choices("decoder", own),
        f"executor=NAME (default {default['executor']})": _choices("executor", own),
        f"vad=NAME (default {default['vad']})": _choices("vad", own),
        "settings: key=default": [_setting(setting) for setting in [*describe("", PRIMARY).settings, *any_model]],
    }
    return "\n\n".join([_INTRODUCTION, *("\n".join([title, *lines]) for title, lines in sections.items()), _END])


def _choices(group: str, own: OwnConf | None, skip: Collection[str] = ()) -> list[str]:
    return [_entry(name, _said(describe(group, name, own))) for name in group_choices(group, own) if name not in skip]


def _said(choice: Description) -> str:
    """The description of a choice, and the keys that it requires."""
    required = [f"{setting.key}=..." for setting in choice.settings if setting.default == "???"]
    return " ".join([choice.said, *(["Needs", *required] if required else [])])


def _details(group: str, name: str, own: OwnConf | None) -> str:
    """The page of one choice, with its keys."""
    choice, file = describe(group, name, own), choice_file(group, name, own)
    title = _wrapped(f"{group}={name}: {_said(choice)}", "", "  ")
    end = [f"  ({file})"] if file.is_file() else []
    return "\n".join([*title, *(map(_setting, choice.settings) if choice.settings else ["  nothing to set"]), *end])


def _setting(setting: Setting) -> str:
    default, said = setting.default.replace(", ", ","), setting.comment
    if default == "???":
        default, said = "...", f"required: {said}"
    default = re.sub(r"\$\{oc\.env:(\w+),\w+\}", r"$\1", default)
    return _entry(f"{setting.key}={default}", said)


def _entry(name: str, said: str) -> str:
    """A name in the left column and its description in the right column, or below a long name."""
    lines = _wrapped(said, " " * _COLUMN, " " * _COLUMN)
    left = _wrapped(name if len(name) + 2 <= WIDTH else name.replace(",", ", "), "  ", "      ")
    if len(left[-1]) + 2 <= _COLUMN and lines:
        left[-1] = left[-1].ljust(_COLUMN) + lines.pop(0).strip()
    return "\n".join([*left, *lines])


def _wrapped(text: str, first: str, then: str) -> list[str]:
    layout = textwrap.TextWrapper(WIDTH, first, then, break_long_words=False, break_on_hyphens=False)
    return layout.wrap(text)
