"""Draw the terminal of a run as an SVG: `python -m scripts.pictures.draw_terminal docs/terminal.svg`.

The script starts a real run in a pseudo-terminal, over the corpus that `scripts/data/make_voices_like.py` makes. Then
rich draws the final screen. The SVG does not download a font, as rich's own SVGs do: it uses the reader's monospace
font, with the widths of the drawing.
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
ARGUMENTS = ("-m", "pipeline.run", "dataset=voices", "model=digits", "score.by=[distractor,speaker]")
FINISHED = (0, 3)
"""Exit codes; the corpus has damaged files."""
COLUMNS, ROWS = 100, 60
# Told apart by colour-blind people, and read on this background at 7:1: black to white, then the bright ones.
BACKGROUND, FOREGROUND = "151b26", "dee3ec"
COLOURS = "151b26 f08c6e 8ccda0 f0c36e 7daff0 cda0e6 78cdd7 dee3ec"
BRIGHT = "828c9b ffa587 a5e1b9 ffd78c 9bc3fa dcb4f5 91dce6 f5f7fa"
_CONTROL = re.compile(r"(\r\n|\n|\r|\x1b\[[0-9;?]*[A-Za-z])")


def recorded() -> str:
    """Everything that the run writes to a terminal of `COLUMNS` columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    env |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": str(ROOT), "VOICES_ROOT": CORPUS}
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder, CORPUS))
        process = subprocess.Popen(
            [sys.executable, *ARGUMENTS], cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs
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
            raise SystemExit(f"the run ended with {process.returncode}:\n{written.decode()}")
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


def drawn(shown: str) -> str:
    """The SVG: no font is fetched."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for command in (f"export VOICES_ROOT={CORPUS}", f"python {' '.join(ARGUMENTS)}"):
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    console.print(Text.from_ansi(shown))
    console.print()  # rich cuts the last line off at its baseline
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
    """Write one SVG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.write_text(drawn(screen(recorded())) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
