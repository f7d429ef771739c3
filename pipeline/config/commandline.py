"""The command line: options with dashes, which have Hydra's names, and `key=value`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from pipeline.config import groups
from pipeline.runtime.command import Parser
from pipeline.runtime.errors import UserError, did_you_mean, one_of

USAGE = "python -m pipeline.run [option ...] [key=value ...]"


class Option(NamedTuple):
    """An option: its two names, the name of its value (empty where it takes none), and its line on the help page."""

    short: str
    full: str
    value: str
    does: str


OPTIONS = (
    Option("-h", "--help", "", "this page; with dataset=NAME or model=NAME, what can be set there"),
    Option("-V", "--version", "", "the version"),
    Option("-cd", "--config-dir", "DIR", "a folder of your own choices: DIR/dataset/mycalls.yaml is dataset=mycalls"),
    Option("-cn", "--config-name", "NAME", "the settings of a run from DIR/NAME.yaml"),
    Option("-c", "--cfg", "job", "check the settings, print every one as YAML, do nothing"),
    Option("-m", "--multirun", "", "one run after the other for every combination of key=a,b"),
    Option("-q", "--quiet", "", "print only errors; logs/run.log in the run directory has the rest"),
    Option("-j", "--json", "", "print only errors, and at the end one line of JSON for each run"),
    Option("-sc", "--shell-completion", "install=SHELL", 'Tab completion: eval "$(... -sc install=bash)"; or zsh'),
)
_DASHES = "-\u2013\u2014"
"""Word processors write the longer two."""


@dataclass(frozen=True)
class Command:
    """A parsed command line: `key=value` as typed, the person's own files, and what else was asked for."""

    overrides: tuple[str, ...]
    own: groups.OwnConf | None = None
    help: bool = False
    version: bool = False
    check_only: bool = False
    multirun: bool = False
    quiet: bool = False
    json: bool = False
    completion: str | None = None


def parse(arguments: Sequence[str]) -> Command:
    """Tell options from settings; both may stand anywhere.

    Raises:
        UserError: An option does not exist or lacks its value; a folder cannot be used.
    """
    parser = Parser(USAGE)
    for option in OPTIONS:
        parser.add_argument(option.short, option.full, action="store" if option.value else "store_true")
    given, overrides = parser.parse_known_args(arguments)
    for at, text in enumerate(() if given.help or given.version else overrides):
        if text.startswith(tuple(_DASHES)) or not re.match(r"~\w|.+=", text, re.DOTALL):
            raise UserError(_no_setting(overrides, at))
    if given.cfg is not None:
        one_of("--cfg", given.cfg, ["job"])
    if given.config_name is not None and given.config_dir is None:
        raise UserError(f"--config-name={given.config_name}: needs the folder of that file; add --config-dir DIR")
    own = None
    if given.config_dir is not None:
        own = groups.open_conf(given.config_dir, given.config_name or groups.PRIMARY)
    asked = given.help, given.version, given.cfg is not None, given.multirun, given.quiet or given.json, given.json
    return Command(tuple(overrides), own, *asked, given.shell_completion)


def _no_setting(typed: Sequence[str], at: int) -> str:
    """Say why an argument is no setting, and what to write in its place."""
    text, remedy = typed[at], _meant(typed, at)
    if not text.startswith(tuple(_DASHES)):
        remedy = f"; {remedy}" if remedy else ", such as dataset=digits; --help lists them"
        return f"{text}: a setting is one word, key=value{remedy}"
    if remedy:
        return f"{text}: no such option; settings have no dashes; {remedy}"
    names = [option.full.lstrip("-") for option in OPTIONS]
    near = did_you_mean(text.lstrip(_DASHES).partition("=")[0], names)
    there = f"there are --{', --'.join(names)}"
    return f"{text}: no such option{near}; {there}; settings have no dashes: key=value, such as dataset=digits"


def _meant(typed: Sequence[str], at: int) -> str:
    """What to write in place of an argument, with those that belong to it; an empty string if nobody knows."""
    word, before = typed[at].lstrip(_DASHES), typed[at - 1] if at else ""
    for group in groups.GROUPS:
        if word in groups.group_choices(group):
            return f"write {group}={word}"
    words = [word, *takewhile(lambda each: not re.match(rf"[{_DASHES}]|.+=", each), typed[at + 1 :])]
    if before.endswith("=") or before.partition("=")[0] in (*groups.LISTS, *groups.PATHS):
        words.insert(0, before)
    elif word == typed[at] and (remedy := groups.for_recordings(word)):
        return remedy
    name, value = re.split(r"[=:\0]+|\Z", "\0".join(words), maxsplit=1)
    items = ",".join(re.findall(r"[^\0\s,\[\]]+", value))
    forms = {**dict.fromkeys(groups.PATHS, value.replace("\0", " ")), **dict.fromkeys(groups.LISTS, f"[{items}]")}
    first = value.partition("\0")[0]
    keys = groups.keys_like(name.replace("-", "_"))
    meant = [shlex.quote(f"{key}={forms.get(key, first) if value else '...'}") for key in keys]
    return f"write {' or '.join(meant)}" if meant else groups.remedy_for(name)
