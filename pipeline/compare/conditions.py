"""Conditions of `--fail-if`, such as `wer>+1.0`: a figure of the new utterances has changed by more than allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.runtime.errors import UserError

UNITS = {"wer": "points", "cer": "points", "avg_logprob": "nats a frame", "failures": "points", "speed": "%"}
"""The figures of a condition, with the unit of their change. `failures` is the share of the utterances that failed."""
_GRAMMAR = re.compile(rf"({'|'.join(UNITS)})\s*([<>])\s*([+-]\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Condition:
    """A condition.

    Attributes:
        figure: One of `UNITS`.
        above: Whether the change must be above the limit, not below it.
        limit: The limit.
    """

    figure: str
    above: bool
    limit: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse a figure, `>` or `<`, and a number with its sign.

        Raises:
            UserError: It is something else.
        """
        found = _GRAMMAR.fullmatch(text.strip())
        if found is None:
            raise UserError(
                f"--fail-if={text}: must be {', '.join(UNITS)}, then > or <, then the change with its sign, such as "
                "'wer>+1.0' or 'speed<-20', in quotation marks"
            )
        return cls(found[1], found[2] == ">", float(found[3]))

    def __str__(self) -> str:
        """Return the condition as it is written."""
        return f"{self.figure}{'>' if self.above else '<'}{self.limit:+g}"

    def judge(self, changes: Mapping[str, float | None]) -> tuple[bool, str]:
        """Return whether the condition holds, and what to say about it. A change that is unknown holds no condition.

        Args:
            changes: Change of each figure in its unit; `None` if it is unknown.
        """
        change = changes[self.figure]
        if change is None:
            return False, f"{self}: cannot be told, because {self.figure} is not known both before and now"
        holds = change > self.limit if self.above else change < self.limit
        return holds, f"{self}: {'yes' if holds else 'no'}, {self.figure} changed by {change:+.4g} {UNITS[self.figure]}"
