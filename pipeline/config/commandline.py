"""The command line: options with dashes, which have Hydra's names, and `key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.config.groups import PRIMARY, OwnConf, open_conf
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
    for unknown in [argument for argument in overrides if argument.startswith("-")]:
        names = [option.full.lstrip("-") for option in OPTIONS]
        raise UserError(
            f"{unknown}: no such option{did_you_mean(unknown.lstrip('-').partition('=')[0], names)}; "
            f"there are --{', --'.join(names)}; settings have no dashes: key=value, such as dataset=digits"
        )
    if given.cfg is not None:
        one_of("--cfg", given.cfg, ["job"])
    if given.config_name is not None and given.config_dir is None:
        raise UserError(f"--config-name={given.config_name}: needs the folder of that file; add --config-dir DIR")
    own = None if given.config_dir is None else open_conf(given.config_dir, given.config_name or PRIMARY)
    asked = given.help, given.version, given.cfg is not None, given.multirun, given.shell_completion
    return Command(tuple(overrides), own, *asked)
