"""Parse docstrings in Google's style."""

from __future__ import annotations

import inspect
import re
from textwrap import dedent

_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples):\n((?:(?: .*)?\n?)+)", re.MULTILINE)
_ITEM = re.compile(r"^(\S[^:]*): (.*(?:\n +.*)*)", re.MULTILINE)


def attributes(of: type) -> dict[str, str]:
    """What the section `Attributes` of a class says of each; one line may tell of several, `start_s, end_s: ...`."""
    body = sections(of).get("Attributes", "")
    return {name.strip(): " ".join(said.split()) for names, said in _ITEM.findall(body) for name in names.split(",")}


def sections(of: object) -> dict[str, str]:
    """The sections by their headings, what stands before them under an empty one."""
    text = inspect.getdoc(of) or ""
    first = _SECTION.search(text)
    found = {"": text[: first.start()] if first else text}
    return found | {match[1]: dedent(match[2]).strip() for match in _SECTION.finditer(text)}


def items(body: str) -> list[tuple[str, str]]:
    """`name: what is said` lines of a section."""
    return [(name, " ".join(said.split())) for name, said in _ITEM.findall(body)]
