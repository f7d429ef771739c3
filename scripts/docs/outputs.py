"""Run README.md and the guide, and write what commands print into the pages.

Example:
    python -m scripts.docs.outputs              # every page; `make outputs` does this
    python -m scripts.docs.outputs docs/compare.md
    python -m scripts.docs.outputs --check      # changes nothing; says which blocks are out of date, and ends with 1

The blocks of a page run from top to bottom, in a working directory that `world.py` makes. A block with the language
`text` shows what the block before it has printed; of a block of commands this is what its last command has printed.
Commands that readers do not see stand in a comment, and the block of `text` after it shows what they print:

    <!-- run:
    python -m pipeline.run dataset=digits batch.max_second=3
    -->

The comments of a page have a working directory of their own, in which only the demo has been run. `/data` stands for a
folder in the working directory. A block that cannot run, or cannot be made here, has the reason in the line before it:
`<!-- not run: it needs a cluster -->`. What a block prints that does not run is not checked.

A line `...` in a block stands for lines that are left out. The output has as many lines before the first `...` and
after the last one as the block; a part between two of them is found by its first line. Figures that differ between
machines, as `MASKS` lists them, stay as they are if nothing else has changed.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.docs import executing, world
from scripts.docs.pages import DOCS, HIDDEN, OUTPUT, READ, ROOT, Block, bare, blocks_of, lines_of

LEFT_OUT = "..."
MASKS = (
    r"[\d,.]+(?= x real time)",
    r"(?<=before )[\d.]+ \([+-]\d+ %\)",
    r"[\d.]+ \w+(?= left,)",
    r"(?<= on )\w+(:\d)? in \w+(?=, \d)",
    r"(?<=waiting for the loader )\d+(?= %)",
    r"(?<=real time, in )[\d.]+ \w+",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([+-]\d\d:\d\d|Z)?",
    r"(?<=  download       ).+",
    r"(?<=layer \d: )\d+(?= %)",
)
"""What differs from one machine or day to another: speeds, devices, times, and accuracies of a probe that is fitted."""


Handler = Callable[[Block, Path], None]
"""What happens to a block of another language, in a working directory."""
ALTERNATIVES = {"corpus.md", "lists.md"}
"""Pages whose blocks are alternatives: each of them is the first run of a corpus."""


class UnknownOutput(Exception):
    """A block of a page that no command prints."""


class Unexpected(Exception):
    """A command of a page ends with an exit code that the page does not expect."""


@dataclass(frozen=True)
class Shown:
    """A block of a page that shows what a command prints.

    Attributes:
        shown: What the page shows.
        printed: What the page should show.
        span: Place in the text of the page.
    """

    shown: str
    printed: str
    span: tuple[int, int]

    @property
    def current(self) -> bool:
        return masked(self.shown) == masked(self.printed)


def masked(text: str) -> str:
    """The text with `#` for what differs between machines."""
    for mask in MASKS:
        text = re.sub(mask, "#", text)
    return text


def shortened(printed: str, shown: str) -> str:
    """The lines of an output that a block shows, which may leave some out.

    A part between two lines `...` is found by its first line. If it is not found, nothing is left out.
    """
    lines = printed.splitlines()
    if LEFT_OUT not in shown.splitlines():
        return printed
    first, *middle, last = _parts(shown)
    if len(first) + len(last) >= len(lines):
        return printed
    kept = lines[: len(first)]
    for part in middle:
        starts = [at for at, line in enumerate(lines) if part and masked(line) == masked(part[0])]
        if not starts:
            return printed
        kept += [LEFT_OUT, *lines[starts[0] : starts[0] + len(part)]]
    return "\n".join([*kept, LEFT_OUT, *lines[len(lines) - len(last) :]]) + "\n"


def _parts(shown: str) -> list[list[str]]:
    """The lines of a block, in parts between the lines `...`."""
    parts: list[list[str]] = [[]]
    for line in shown.splitlines():
        if line == LEFT_OUT:
            parts.append([])
        else:
            parts[-1].append(line)
    return parts


class Page:
    """A page that runs, from top to bottom.

    Args:
        page: The page.
        place: Its working directory.
        handlers: What happens to blocks of languages other than Python. Without a handler, nothing does.
        hidden: Whether commands in comments are executed. Otherwise the outputs after them are unknown.
        elsewhere: Commands that run on another page, as `bare` writes them. They are left out where the page does not
            show what they print.
    """

    def __init__(
        self,
        page: Path,
        place: Path,
        handlers: Mapping[str, Handler],
        hidden: bool = True,
        elsewhere: frozenset[str] = frozenset(),
    ) -> None:
        self.blocks, self.place, self.handlers = blocks_of(page), place, handlers
        self.hidden, self.elsewhere = hidden, elsewhere
        self.namespace: dict[str, Any] = {}
        self.own = place.with_name("own")

    def outputs(self) -> Iterator[Shown]:
        """Run the page, and give every block that shows what is printed.

        Raises:
            UnknownOutput: The page does not say what prints a block.
            Unexpected: A command fails.
        """
        printed: str | None = ""
        for block, after in zip(self.blocks, [*self.blocks[1:], None], strict=True):
            if block.language != OUTPUT:
                shows = after.code if after and after.language == OUTPUT and not after.not_run else None
                printed = None if block.not_run else self._run(block, shows)
            elif not block.not_run and printed is not None:
                if not printed:
                    raise UnknownOutput(f"{block}: no command stands before it; write <!-- not run: WHY --> above it")
                yield Shown(block.code, shortened(printed, block.code), block.span)
                printed = ""

    def _run(self, block: Block, shows: str | None) -> str | None:
        """What a block prints; `None` if it is not executed."""
        match block.language:
            case "":
                return self._commands(block, shows)
            case "python":
                return executing.python(world.with_layers(block.code), str(block), self.place, self.namespace)
            case language if language == HIDDEN:
                return self._hidden(block) if self.hidden else None
            case "csv":
                (self.place / "data" / "calls.csv").write_text(block.code)
        if block.language in self.handlers:
            self.handlers[block.language](block, self.place)
        return ""

    def _commands(self, block: Block, shows: str | None) -> str:
        if block.page in ALTERNATIVES:
            for folder in (self.place / "runs").iterdir():
                if folder.name not in ("digits", "voices"):
                    shutil.rmtree(folder)
        printed = ""
        for line in lines_of(block):
            if shows is None and bare(line) in self.elsewhere:
                continue
            if line == world.DEMO and shows is not None:
                printed = world.demo()[1]
                continue
            with world.real_bundles() if "pipeline.models" in line else nullcontext():
                code, printed = executing.command(world.quick(line, shows is not None), self.place)
            if code not in _expected(line, shows):
                raise Unexpected(f"{block}: {line}: ends with {code}:\n{printed}")
        return printed

    def _hidden(self, block: Block) -> str:
        if not self.own.exists():
            shutil.copytree(world.demo()[0], self.own)
        printed = ""
        for line in lines_of(block):
            _, printed = executing.command(line, self.own)
        return printed


def _expected(line: str, shows: str | None) -> set[int]:
    """The exit codes that a command may have."""
    if shows is not None and shows.startswith("error: "):
        return {2}
    return {0, 3} if "pipeline.run " in line else {0, 4} if "--fail-if" in line else {0}


def outputs(
    page: Path,
    handlers: Mapping[str, Handler] | None = None,
    hidden: bool = True,
    elsewhere: frozenset[str] = frozenset(),
) -> Iterator[Shown]:
    """Run a page in a fresh working directory, as `Page` says, and give every block that shows what is printed."""
    with world.fresh_world() as place:
        running = Page(page, place, handlers or {}, hidden, elsewhere)
        _before(page.name, running)
        try:
            yield from running.outputs()
        finally:
            shutil.rmtree(running.own, ignore_errors=True)


def _before(page: str, running: Page) -> None:
    """What a page needs before it."""
    match page:
        case "voice-activity.md":  # begins a run
            shutil.rmtree(running.place / "data" / "out")
        case "tutorial-two-models.md":  # goes on with the folder of another tutorial
            first = blocks_of(DOCS / "tutorial-corpus.md")[0]
            executing.python(first.code, str(first), running.place, {})


def pages() -> list[Path]:
    """The pages with blocks that show what a command prints."""
    return [page for page in READ if any(block.language == OUTPUT for block in blocks_of(page))]


def difference(block: Shown) -> str:
    """What a block shows and what is printed, line by line."""
    lines = difflib.unified_diff(
        masked(block.shown).splitlines(), masked(block.printed).splitlines(), "shown", "printed", lineterm="", n=1
    )
    return "\n".join(lines)


def write(page: Path, stale: list[Shown]) -> None:
    """Write what is printed into a page, the last block first, so that the places of the others stay."""
    text = page.read_text(encoding="utf-8")
    for block in reversed(stale):
        text = text[: block.span[0]] + block.printed + text[block.span[1] :]
    page.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Bring pages up to date, or say which are not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, help="all by default")
    parser.add_argument("--check", action="store_true", help="change nothing, and end with 1 if a block is out of date")
    options = parser.parse_args(arguments)
    number = 0
    for page in [each.resolve() for each in options.pages] or pages():
        stale = [block for block in outputs(page) if not block.current]
        number += len(stale)
        for block in stale:
            print(f"{page.relative_to(ROOT)}:\n{difference(block)}\n")
        if not options.check:
            write(page, stale)
    print(f"{number} blocks {'are out of date' if options.check else 'written anew'}")
    return int(options.check and number > 0)


if __name__ == "__main__":
    os.environ.update(CUDA_VISIBLE_DEVICES="")  # the pages show what is printed without a GPU
    sys.exit(main())
