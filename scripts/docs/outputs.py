"""Run the commands of README.md and the guide, and write what they print into the pages.

Example:
    python scripts/docs/outputs.py              # every page; `make outputs` does this
    python scripts/docs/outputs.py docs/compare.md
    python scripts/docs/outputs.py --check      # changes nothing; says which blocks are out of date, and ends with 1

A block with the language `text` shows what the last command before it has printed. That is a command of the block of
commands or of Python directly before it, or of a comment in the source of the page, which readers do not see:

    <!-- run:
    python -m pipeline.run dataset=digits batch.max_second=3
    -->

All lines of such a comment are executed where it stands. Other blocks of commands are not executed. A block that
cannot be made here has the reason above it: `<!-- not run: it needs a cluster -->`.

A line `...` in a block stands for lines that are left out: the block has as many lines before it and after it as the
output shows. A page has a working directory of its own, in which `python -m pipeline.run dataset=digits` has been run.
`/data` stands for a folder in it. Figures that differ between machines, as `MASKS` lists them, stay as they are if
nothing else has changed.
"""

from __future__ import annotations

import argparse
import atexit
import difflib
import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = "python -m pipeline.run dataset=digits"
LEFT_OUT = "..."
MASKS = (
    r"[\d,.]+(?= x real time)",
    r"(?<=before )[\d.]+ \([+-]\d+ %\)",
    r"[\d.]+ \w+(?= left,)",
    r"(?<= on )\w+(:\d)? in \w+(?=, \d)",
    r"(?<=waiting for the loader )\d+(?= %)",
    r"(?<=real time, in )[\d.]+ \w+",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([+-]\d\d:\d\d|Z)?",
    r"(?<=layer \d: )\d+(?= %)",
)
"""What differs from one machine or day to another: speeds, devices, times, and accuracies of a probe that is fitted."""
_PART = re.compile(
    r"^```(?P<language>\w*)\n(?P<block>.*?)^```$|^<!-- (?P<does>run|not run):\s*(?P<said>.*?)\s*-->$", re.M | re.S
)
_DATA = re.compile(r"(?<![\w.-])/data(?![\w.-])")


class UnknownOutput(Exception):
    """A block of a page that no command prints."""


@dataclass(frozen=True)
class Block:
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

    Raises:
        UnknownOutput: The block leaves lines out at more than one place.
    """
    lines, places = printed.splitlines(), shown.splitlines()
    if LEFT_OUT not in places:
        return printed
    if places.count(LEFT_OUT) > 1:
        raise UnknownOutput(f"more than one line {LEFT_OUT!r}")
    before = places.index(LEFT_OUT)
    after = len(places) - before - 1
    if before + after >= len(lines):
        return printed
    return "\n".join([*lines[:before], LEFT_OUT, *lines[len(lines) - after :]]) + "\n"


@cache
def demo() -> tuple[Path, str]:
    """A folder in which the demo has been run, and what it printed. The folder is there until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="outputs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder, _executed(DEMO, folder)


def blocks(page: Path) -> Iterator[Block]:
    """Every block of a page that shows what a command prints, with what it prints now.

    Raises:
        UnknownOutput: The page does not say what prints a block.
    """
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="outputs-") as name:
        folder = Path(name, "here")
        source = ("", "")
        for part in _PART.finditer(text):
            if part["does"]:
                source = (part["does"], part["said"])
                if part["does"] == "run":
                    source = ("printed", commands(part["said"], folder))
            elif part["language"] != "text":
                source = (part["language"] or "commands", part["block"])
            else:
                if source[0] != "not run":
                    printed = _printed(*source, folder, f"{page.name}, line {text.count(chr(10), 0, part.start()) + 1}")
                    yield Block(part["block"], shortened(printed, part["block"]), part.span("block"))
                source = ("", "")


def _printed(kind: str, content: str, folder: Path, place: str) -> str:
    """What is printed by what stands before a block."""
    match kind:
        case "printed":
            return content
        case "commands":
            return commands(content, folder)
        case "python":
            return executed(shlex.join(("python", "-c", content)), folder)
    raise UnknownOutput(f"{place}: no command stands before this block; write <!-- not run: WHY --> above it")


def commands(lines: str, folder: Path) -> str:
    """Execute lines of a page, and return what the last of them prints."""
    printed = ""
    for line in lines.replace("\\\n", " ").splitlines():
        printed = executed(line, folder)
    return printed


def executed(line: str, folder: Path) -> str:
    """What a command prints in the folder of a page, on both outputs, without blanks at the ends of lines."""
    if not folder.exists():
        shutil.copytree(demo()[0], folder)
    return demo()[1] if line == DEMO else _executed(line, folder)


def _executed(line: str, folder: Path) -> str:
    line = _DATA.sub(str(folder / "data"), line)
    with chdir(folder), redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        if line.startswith("python "):
            _python(shlex.split(line, comments=True)[1:])
        else:
            subprocess.run(["sh", "-ec", line], env=os.environ | {"ROOT": str(ROOT)}, check=True)
    text = printed.getvalue().replace(f"{folder}/data", "/data").replace(f"{folder}/", "")
    return "\n".join(each.rstrip() for each in text.splitlines()).strip("\n") + "\n"


def _python(words: list[str]) -> None:
    """Do what `python WORDS` does, in this process: the import of torch takes longer than most commands."""
    before, sys.argv = sys.argv, ["-c", *words[2:]]
    try:
        with suppress(SystemExit):
            match words:
                case ["-m", module, *arguments] if module.startswith("pipeline."):
                    _main(module)(arguments)
                case ["-m", module, *_]:
                    runpy.run_module(module, run_name="__main__", alter_sys=True)
                case ["-c", program]:
                    exec(compile(program, "-c", "exec"), {"__name__": "__main__"})
                case _:
                    raise UnknownOutput(f"python {shlex.join(words)}: neither a module nor `-c`")
    finally:
        sys.argv = before


def _main(module: str) -> Callable[[list[str]], int]:
    """The function of a command."""
    found = importlib.import_module(module)
    if not hasattr(found, "main"):
        found = importlib.import_module(f"{module}.__main__")
    main: Callable[[list[str]], int] = found.main
    return main


def pages() -> list[Path]:
    """The pages with blocks that show what a command prints."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in found if "```text" in page.read_text(encoding="utf-8")]


def difference(block: Block) -> str:
    """What a block shows and what is printed, line by line."""
    lines = difflib.unified_diff(
        masked(block.shown).splitlines(), masked(block.printed).splitlines(), "shown", "printed", lineterm="", n=1
    )
    return "\n".join(lines)


def write(page: Path, stale: list[Block]) -> None:
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
        stale = [block for block in blocks(page) if not block.current]
        number += len(stale)
        for block in stale:
            print(f"{page.relative_to(ROOT)}:\n{difference(block)}\n")
        if not options.check:
            write(page, stale)
    print(f"{number} blocks {'are out of date' if options.check else 'written anew'}")
    return int(options.check and number > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.update(CUDA_VISIBLE_DEVICES="")  # the pages show what is printed without a GPU
    os.environ.pop("VOICES_ROOT", None)
    sys.exit(main())
