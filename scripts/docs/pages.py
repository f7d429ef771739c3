"""The blocks of README.md and the guide, and what the source of a page says about them.

A block that cannot run has a comment in the line before it, which readers do not see: `<!-- not run: REASON -->`.
Commands that readers do not see stand in a comment `<!-- run: ... -->`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
READ = [*PAGES, *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
OUTPUT = "text"
"""The language of a block that shows what the block before it prints."""
HIDDEN = "hidden commands"
"""The language of what stands in a comment `<!-- run: ... -->`."""
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$"
    r"|^<!-- run:\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"^<!-- not run\b.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block, or a comment with commands.

    Attributes:
        page: Name of the page's file.
        line: Line in which the code begins, from 1.
        language: As the fence names it; a block without a language holds commands.
        code: The lines between the fences.
        not_run: Why the block does not run, or `None`.
        span: Place of `code` in the text of the page.
    """

    page: str
    line: int
    language: str
    code: str
    not_run: str | None
    span: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        group = "code" if match["hidden"] is None else "hidden"
        language = match["language"] if group == "code" else HIDDEN
        line = text.count("\n", 0, match.start(group)) + 1
        found.append(Block(page.name, line, language, match[group], match["reason"], match.span(group)))
    return found


def marks_of(page: Path) -> list[str]:
    """Every comment that looks like a mark, also one that no block follows."""
    return _MARK.findall(page.read_text(encoding="utf-8"))


def lines_of(block: Block) -> list[str]:
    """The commands of a block, each in one line."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def bare(line: str) -> str:
    """A command without a comment, in one way of writing its words."""
    return shlex.join(shlex.split(line, comments=True))
