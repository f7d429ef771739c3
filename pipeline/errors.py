"""The errors a person meets. Each message is one line: what, its value, the reason, the remedy."""

from __future__ import annotations


class UserError(Exception):
    """The configuration, the input or a refused resume: exit code 2, no traceback."""


class RunError(Exception):
    """Something outside the code stopped a run that had begun: exit code 1, no traceback."""
