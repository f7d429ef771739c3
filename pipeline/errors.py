"""The errors a person meets. Each message is one line: what, its value, the reason, the remedy."""

from __future__ import annotations

import re


class OneLineError(Exception):
    """An error whose message stays one line, whatever values it quotes."""

    def __init__(self, message: str) -> None:
        """Line breaks and other control characters of quoted values are shown as escapes."""
        super().__init__(re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda match: repr(match[0])[1:-1], message))


class UserError(OneLineError):
    """The configuration, the input or a refused resume: exit code 2, no traceback."""


class RunError(OneLineError):
    """Something outside the code stopped a run that had begun: exit code 1, no traceback."""
