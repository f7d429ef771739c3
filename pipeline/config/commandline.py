"""The command line: options with dashes, which have Hydra's names, and `key=value`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from pipeline.config.groups import (
    GROUPS,
    LISTS,
    PRIMARY,
    OwnConf,
    for_recordings,
    group_choices,
    keys_with,
    open_conf,
    remedy_for,
)
from pipeline.runtime.command import Parser
from pipeline.runtime.errors import UserError, did_you_mean, one_of

USAGE = "python -m pipeline.run [option ...] [key=value ...]"


class Option(NamedTuple):
    """An option: its two names, the name of its value (empty where it takes none), and its line on the help page."""

    short: str
    full: str
    value: str
    does: str


_CHOICES = "a folder of your own choices: DIR/dataset/mycalls.yaml is dataset=mycalls"
_RUN = f"the settings of a run from DIR/NAME.yaml, which begins with `defaults: [{PRIMARY}, _self_]`"
OPTIONS = (
    Option("-h", "--help", "", "this page; with dataset=NAME or model=NAME, what can be set there"),
    Option("-V", "--version", "", "the version"),
    Option("-cd", "--config-dir", "DIR", _CHOICES),
    Option("-cn", "--config-name", "NAME", _RUN),
    Option("-c", "--cfg", "job", "check the settings, print every one as YAML, do nothing"),
    Option("-m", "--multirun", "", "one run after the other for every combination of key=a,b"),
    Option("-sc", "--shell-completion", "install=SHELL", 'Tab completion: eval "$(... -sc install=bash)"; or zsh'),
)
_DASHES = "-\u2013\u2014"
"""Word processors write the longer two."""


@dataclass(frozen=True)
class Command:
    """A parsed command line: `key=value` as typed, the person's own files, and what else was asked for."""

    overrides: tuple[str, ...]
    own: OwnConf | None = None
    help: bool = False
    version: bool = False
    check_only: bool = False
    multirun: bool = False
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
    for at, unknown in enumerate(overrides):
        if unknown.startswith(tuple(_DASHES)):
            raise UserError(_no_option(unknown, overrides[at + 1 : at + 2]))
    for at, text in enumerate(() if given.help or given.version else overrides):
        if "=" not in text.lstrip("=") and not re.match(r"~\w", text):
            raise UserError(_no_value(overrides, at))
    if given.cfg is not None:
        one_of("--cfg", given.cfg, ["job"])
    if given.config_name is not None and given.config_dir is None:
        raise UserError(f"--config-name={given.config_name}: needs the folder of that file; add --config-dir DIR")
    own = None if given.config_dir is None else open_conf(given.config_dir, given.config_name or PRIMARY)
    asked = given.help, given.version, given.cfg is not None, given.multirun, given.shell_completion
    return Command(tuple(overrides), own, *asked)


def _no_option(unknown: str, after: Sequence[str]) -> str:
    """Say what to write in place of an option that does not exist, such as `--model digits`."""
    key, _, value = unknown.lstrip(_DASHES).partition("=")
    key = key.replace("-", "_")
    names = [option.full.lstrip("-") for option in OPTIONS]
    if keys := keys_with(key):
        value = value or (after[0] if after and "=" not in after[0] else "...")
        said = " or ".join(shlex.quote(f"{each}={value}") for each in keys)
        return f"{unknown}: no such option; settings have no dashes; write {said}"
    if remedy := remedy_for(key):
        return f"{unknown}: no such option; settings have no dashes; {remedy}"
    return (
        f"{unknown}: no such option{did_you_mean(key.replace('_', '-'), names)}; there are --{', --'.join(names)}; "
        "settings have no dashes: key=value, such as dataset=digits"
    )


def _no_value(typed: Sequence[str], at: int) -> str:
    """Say what to write in place of an argument that is no `key=value`, from the arguments beside it."""
    text, before, after = typed[at], typed[at - 1] if at else "", [*typed[at + 1 : at + 3], "", ""]
    if before.endswith("="):
        return f"{before} {text}: a blank after =; write {shlex.quote(before + text)}"
    if after[0].startswith("="):
        value = after[0] if after[0] != "=" else f"={after[1]}"
        return f"{text} {value}: a blank before =; write {shlex.quote(text + value)}"
    key, _, first = before.partition("=")
    if key in LISTS:
        more = list(takewhile(lambda each: "=" not in each, typed[at:]))
        items = ",".join(re.findall(r"[^\s,\[\]]+", " ".join([first, *more])))
        return f"{before} {' '.join(more)}: a list is one word; write {shlex.quote(f'{key}=[{items}]')}"
    key, colon, value = text.partition(":")
    if colon and keys_with(key):
        meant = " or ".join(shlex.quote(f"{each}={value or after[0] or '...'}") for each in keys_with(key))
        return f"{text}: a colon in place of =; write {meant}"
    for group in GROUPS:
        if text in group_choices(group):
            return f"{text}: no key; write {group}={text}"
    if remedy := for_recordings(text):
        missing = "" if os.path.exists(os.path.expanduser(text)) else ", and no such file or folder"
        return f"{text}: no key{missing}; {remedy}"
    if remedy := remedy_for(text):
        return f"{text}: no such key; {remedy}"
    if re.fullmatch(r"[a-z_.]+", text) and after[0] and "=" not in after[0]:
        meant = " or ".join(shlex.quote(f"{key}={after[0]}") for key in keys_with(text) or [text])
        return f"{text} {after[0]}: no = between them; write {meant}"
    if text in keys_with(text):
        return f"{text}: no value; write {text}=..."
    return f"{text}: no value; settings are key=value, such as dataset=digits; --help lists them"
