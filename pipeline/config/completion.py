"""Tab completion for `python -m pipeline.run` in bash, zsh and fish.

Hydra's own scripts complete `python FILE.py` only, so these scripts ask this module for the same choices and keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.config.commandline import OPTIONS, parse
from pipeline.config.compose import compose_typed, keys_of
from pipeline.config.groups import GROUPS, group_choices
from pipeline.config.schema import ALLOWED, CHOICES, Settings
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
"""
_INSTALL = """\
_OVERNIGHT_SPEECH_BEFORE=$(complete -p python 2>/dev/null | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')
[ "$_OVERNIGHT_SPEECH_BEFORE" != _overnight_speech ] || _OVERNIGHT_SPEECH_BEFORE=
complete -o nospace -o default -F _overnight_speech python python3
"""
_FISH = """\
function _overnight_speech
    set -l line (commandline --cut-at-cursor)
    set -l words (string split ' ' -- $line)
    $words[1] -m pipeline.run --shell-completion query="$line" 2>/dev/null
end
for name in python python3
    complete --command $name --condition 'string match -qr -- "-m +pipeline.run " (commandline --cut-at-cursor)' \
        --arguments '(_overnight_speech)'
end
"""
_SCRIPTS = {
    "bash": _BASH + _INSTALL,
    "zsh": "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + _BASH + _INSTALL,
    "fish": _FISH,
}


def answer(asked: str) -> str:
    """What `--shell-completion` prints.

    Args:
        asked: `install=SHELL` for a script, or `query=LINE` for what may stand at the end of a line.

    Raises:
        UserError: Something else was asked for.
    """
    verb, equals, value = asked.partition("=")
    if verb == "query" and equals:
        return "\n".join(candidates(value))
    if verb != "install" or not equals:
        raise UserError(f"--shell-completion={asked}: not allowed; there are install={', install='.join(_SCRIPTS)}")
    one_of("--shell-completion=install", value, list(_SCRIPTS))
    return _SCRIPTS[value]


def candidates(line: str) -> list[str]:
    """What the last word of a line may become: options, `group=choice`, `key=` and `key=value`, sorted.

    Args:
        line: The command line up to the cursor.
    """
    *before, word = re.sub(r"^.*?pipeline\.run ", "", line).split(" ")
    try:
        command = parse([given for given in before if given])
    except UserError:
        return []
    if word.startswith("-"):
        return _beginning(word, [option.full for option in OPTIONS])
    key, equals, _ = word.partition("=")
    if equals and key in GROUPS:
        return _beginning(word, [f"{key}={choice}" for choice in group_choices(key, command.own)])
    if equals:
        return _beginning(word, [f"{key}={value}" for value in _values(key)])
    chosen = [given for given in command.overrides if given.partition("=")[0] in GROUPS]
    try:
        keys = keys_of(compose_typed(chosen, Settings, ALLOWED, command.own).config)
    except UserError:
        keys = []
    return _beginning(word, [f"{name}=" for name in (*GROUPS, *keys)])


def _values(key: str) -> Iterable[str]:
    return () if key in ("stages", "outputs") else CHOICES.get(key, ())


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(word))
