"""The command line: options with dashes, which have Hydra's names, and `key=value`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from pipeline.config.groups import PRIMARY, OwnConf, open_conf
from pipeline.runtime.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """For commands that take no settings: their own page is their help, and a mistake is one line."""

    def __init__(self, usage: str) -> None:
        """`usage` ends the line that says what is wrong."""
        super().__init__(usage=usage, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Refuse what was typed.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{message}; usage: {self.usage}")


@dataclass(frozen=True)
class Option:
    """An option.

    Attributes:
        short: The short name.
        full: The full name.
        value: The name of the value on the help page; empty where the option takes none.
        does: What the option does, for the help page.
    """

    short: str
    full: str
    value: str
    does: str


OPTIONS = (
    Option("-h", "--help", "", "this page; with dataset=NAME or model=NAME, what can be set there"),
    Option("-V", "--version", "", "the version"),
    Option(
        "-cd",
        "--config-dir",
        "DIR",
        "a folder of your own choices: DIR/dataset/mycalls.yaml is dataset=mycalls; "
        "in it `defaults: [folder]`, then `root: ...`",
    ),
    Option(
        "-cn",
        "--config-name",
        "NAME",
        f"the settings of a run from DIR/NAME.yaml, which begins with `defaults: [{PRIMARY}, _self_]`",
    ),
    Option("-c", "--cfg", "job", "check the settings, print every one as YAML, do nothing"),
    Option("-m", "--multirun", "", "one run after the other for every combination of key=a,b"),
    Option("-sc", "--shell-completion", "install=SHELL", 'Tab completion: eval "$(... -sc install=bash)"; zsh, fish'),
)
_BY_NAME = {name: option for option in OPTIONS for name in (option.short, option.full)}
_SHOWS = ("--help", "--version", "--shell-completion", "--cfg")
_NOT_HERE = {
    **dict.fromkeys(("-cp", "--config-path"), "name a folder of your own with --config-dir"),
    **dict.fromkeys(("-i", "--info"), "--cfg job prints every setting"),
    "--hydra-help": "--help says what can be set; nothing of Hydra's own can",
    **dict.fromkeys(("-p", "--package"), "--cfg job prints every setting; pick what you need from it"),
    "--resolve": "leave it out; --cfg job prints resolved values",
    **dict.fromkeys(("-r", "--run"), "leave it out"),
    "--experimental-rerun": "give the same command again",
}
"""The options of Hydra that this project leaves out, and what to do instead."""


@dataclass(frozen=True)
class Command:
    """A parsed command line.

    Attributes:
        overrides: The `key=value`, as typed.
        own: The person's own configuration files.
        shows: The option that asks for something to be printed instead of a run; `None` for a run.
        multirun: Whether the values are a sweep.
        completion: The value of `--shell-completion`.
    """

    overrides: tuple[str, ...]
    own: OwnConf | None = None
    shows: str | None = None
    multirun: bool = False
    completion: str = ""


def parse(arguments: Sequence[str]) -> Command:
    """Tell options from settings; both may stand anywhere.

    Raises:
        UserError: An option that does not exist, is given twice, or lacks its value; a folder that cannot be used.
    """
    overrides: list[str] = []
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        name, equals, value = argument.partition("=")
        option = _BY_NAME.get(name)
        if option is None:
            raise _unknown(argument)
        if option.value and not equals and rest:
            value = rest.pop(0)
        if option.value and not value:
            raise UserError(f"{argument}: lacks its value; write {option.full}={option.value}")
        if equals and not option.value:
            raise UserError(f"{argument}: takes no value; write {name}")
        if given.setdefault(option.full, value) != value:
            raise UserError(f"{name}={value}: given twice, before as {given[option.full]}; give it once")
    if given.get("--cfg", "job") != "job":
        raise UserError(f"--cfg={given['--cfg']}: not allowed; there is job")
    shows = next((name for name in _SHOWS if name in given), None)
    folder, main = given.get("--config-dir"), given.get("--config-name", PRIMARY)
    if folder is None and main != PRIMARY:
        raise UserError(f"--config-name={main}: needs the folder of {main}.yaml; add --config-dir DIR")
    own = None if folder is None else open_conf(folder, main)
    return Command(tuple(overrides), own, shows, "--multirun" in given, given.get("--shell-completion", ""))


def _unknown(argument: str) -> UserError:
    name = argument.partition("=")[0]
    if name in _NOT_HERE:
        return UserError(f"{argument}: not supported; {_NOT_HERE[name]}")
    there = ", ".join(option.full for option in OPTIONS)
    close = did_you_mean(name.strip("-"), [option.full.strip("-") for option in OPTIONS])
    if close:
        return UserError(f"{argument}: no such option{close.replace('mean ', 'mean --')}; there are {there}")
    example = argument.lstrip("-") if "=" in argument else "dataset=digits"
    return UserError(
        f"{argument}: no such option; there are {there}; settings have no dashes: key=value, such as {example}"
    )
