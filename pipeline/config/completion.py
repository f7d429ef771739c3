"""Tab completion for `python -m pipeline.run` in bash and zsh.

Hydra's own scripts complete `python FILE.py` only, so these scripts ask this module for the same choices and keys.
"""

from __future__ import annotations

import re

from pipeline.config.commandline import OPTIONS, parse
from pipeline.config.compose import compose, keys_of
from pipeline.config.groups import GROUPS, group_choices
from pipeline.config.schema import RULES
from pipeline.runtime.errors import UserError, one_of

_BASH = """\
_overnight_speech() {
    local ours='^[^ ]*python[0-9.]* +-m +pipeline[.]run '
    if ! [[ "$COMP_LINE" =~ $ours ]]; then
        [ -z "$_OVERNIGHT_SPEECH_BEFORE" ] || "$_OVERNIGHT_SPEECH_BEFORE" "$@"
        return
    fi
    local line="${COMP_LINE:0:$COMP_POINT}"
    local word="${line##* }" found
    # Where `=` parts words, bash replaces only what stands behind it.
    local kept=""
    [[ "$COMP_WORDBREAKS" == *"="* && "$word" == *=* ]] && kept="${word%%=*}="
    COMPREPLY=()
    while IFS= read -r found; do
        [ -z "$found" ] || COMPREPLY+=("${found#"$kept"}")
    done < <("${COMP_LINE%% *}" -m pipeline.run --shell-completion query="$line" 2>/dev/null)
}
_OVERNIGHT_SPEECH_BEFORE=$(complete -p python 2>/dev/null | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')
[ "$_OVERNIGHT_SPEECH_BEFORE" != _overnight_speech ] || _OVERNIGHT_SPEECH_BEFORE=
complete -o nospace -o default -F _overnight_speech python python3
"""
_SCRIPTS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{_BASH}",
}


def answer(asked: str) -> str:
    """What `--shell-completion` prints.

    Args:
        asked: `install=SHELL` for a script, or `query=LINE` for what may stand at the end of a line.

    Raises:
        UserError: Something else was asked for.
    """
    value = asked.partition("=")[2]
    if asked.startswith("query="):
        return "\n".join(candidates(value))
    one_of("--shell-completion", asked, [f"install={shell}" for shell in _SCRIPTS])
    return _SCRIPTS[value]


def candidates(line: str) -> list[str]:
    """What the last word of a line may become: options, `group=choice`, `key=` and `key=value`, sorted.

    Args:
        line: The command line up to the cursor.
    """
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
            chosen = [given for given in command.overrides if given.partition("=")[0] in GROUPS]
            names = [f"{name}=" for name in (*GROUPS, *keys_of(compose(chosen, command.own)[0]))]
    except UserError:
        return []
    return sorted(name for name in names if name.startswith(word))
