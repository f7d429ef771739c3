"""Draw terminals as SVGs: `python -m scripts.pictures.draw_terminal docs`.

The script starts real commands in a pseudo-terminal: a run over the corpus of `scripts/data/make_voices_like.py`, and
the commands that look at a finished run. Then rich draws the final screen. The SVG does not download a font, as rich's
own SVGs do: it uses the reader's monospace font, with the widths of the drawing.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from scripts.data.make_voices_like import make_corpus

ROOT = Path(__file__).resolve().parents[2]
CORPUS = "VOiCES_devkit"
RUN = "python -m pipeline.run dataset=voices model=digits score.by=[distractor,speaker]"
RUN_DIR = "runs/voices/digits"
LOOKS = (f"python -m pipeline.status {RUN_DIR}", f"python -m pipeline.verify {RUN_DIR} --exactness 3")
FINISHED = (0, 3)
"""Exit codes; the corpus has damaged files."""
COLUMNS, ROWS = 100, 60
# Told apart by colour-blind people, and read on this background at 7:1: black to white, then the bright ones.
BACKGROUND, FOREGROUND = "151b26", "dee3ec"
COLOURS = "151b26 f08c6e 8ccda0 f0c36e 7daff0 cda0e6 78cdd7 dee3ec"
BRIGHT = "828c9b ffa587 a5e1b9 ffd78c 9bc3fa dcb4f5 91dce6 f5f7fa"
_CONTROL = re.compile(r"(\r\n|\n|\r|\x1b\[[0-9;?]*[A-Za-z])")


def recorded(command: str, folder: Path) -> str:
    """Everything that a command writes to a terminal of `COLUMNS` columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    env |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": str(ROOT), "VOICES_ROOT": CORPUS}
    process = subprocess.Popen(
        [sys.executable, *command.split()[1:]], cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            written += os.read(ours, 2**16)
        except OSError:  # its end: the terminal has no writer any more
            break
    os.close(ours)
    if process.wait() not in FINISHED:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{written.decode()}")
    return written.decode()


def screen(written: str) -> str:
    """The lines that are left: rich moves up and clears whole lines, and nothing else."""
    lines, row = [""], 0
    for part in _CONTROL.split(written):
        if part in ("\n", "\r\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b["):
            row = max(0, row - int(part[2:-1] or 1))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part != "\r" and (part.endswith("m") or not part.startswith("\x1b[")):
            lines[row] += part
    return "\n".join(lines).rstrip()


def drawn(screens: dict[str, str]) -> str:
    """The SVG of commands with their screens: no font is fetched."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for command, shown in screens.items():
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        if shown:
            console.print(Text.from_ansi(shown))
            console.print()  # also at the end, where rich cuts the last line off at its baseline
    without_font = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    own_font = without_font.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono").replace(
        '<svg class="rich-terminal"', '<svg class="rich-terminal" role="img"'
    )
    theme = TerminalTheme(
        _rgb(BACKGROUND), _rgb(FOREGROUND), *([_rgb(c) for c in s.split()] for s in (COLOURS, BRIGHT))
    )
    svg = console.export_svg(title="", theme=theme, code_format=own_font, unique_id="terminal")
    return re.sub(r"^\s*<!--.*?-->\n", "", svg, flags=re.MULTILINE)


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour)
    return red, green, blue


def main() -> None:
    """Write two SVGs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_corpus(work / CORPUS)
        run = {f"export VOICES_ROOT={CORPUS}": "", RUN: screen(recorded(RUN, work))}
        looks = {command: screen(recorded(command, work)) for command in LOOKS}
    for path, screens in ((folder / "terminal.svg", run), (folder / "terminal-checks.svg", looks)):
        path.write_text(drawn(screens) + "\n", encoding="utf-8")
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
