"""Tab completion for `python -m pipeline.run` in bash and zsh.

Hydra's own scripts complete `python FILE.py` only, so these scripts ask this module for the same choices and keys.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.config.commandline import OPTIONS, parse
from pipeline.config.compose import compose, keys_of, read
from pipeline.config.groups import GROUPS, group_choices
from pipeline.config.schema import RULES
from pipeline.runtime.errors import UserError, one_of

_BASH = Path(__file__).with_suffix(".bash")
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
_BEFORE = {"bash": "", "zsh": _ZSH}
"""What a shell needs before the script."""


def answer(asked: str) -> str:
    """What `--shell-completion` prints: a script for `install=SHELL`; for `query=LINE` what may stand at its end.

    Raises:
        UserError: Something else was asked for.
    """
    value = asked.partition("=")[2]
    if asked.startswith("query="):
        return "\n".join(candidates(value))
    one_of("--shell-completion", asked, [f"install={shell}" for shell in _BEFORE])
    return _BEFORE[value] + _BASH.read_text()


def candidates(line: str) -> list[str]:
    """What the last word of a line may become: options, `group=choice`, `key=` and `key=value`, sorted."""
    *before, word = re.sub(r"^.*?pipeline\.run ", "", line).split(" ")
    key, equals, _ = word.partition("=")
    try:
        command = parse([given for given in before if given])
        if word.startswith("-"):
            names = [option.full for option in OPTIONS]
        elif equals:
            values = group_choices(key, command.own) if key in GROUPS else RULES[key].names if key in RULES else ()
            names = [f"{key}={value}" for value in values if key not in ("stages", "outputs")]  # which take lists
        else:
            chosen = [read(given, sweep=True)[0] for given in command.overrides if given.partition("=")[0] in GROUPS]
            names = [f"{name}=" for name in (*GROUPS, *keys_of(compose(chosen, command.own)[0]))]
    except UserError:
        return []
    return sorted(name for name in names if name.startswith(word))
