"""Commands and Python of pages, executed in this process: importing torch takes longer than most commands.

`/data` stands for a folder in the working directory.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from scripts.docs.pages import ROOT

_DATA = re.compile(r"(?<![\w.-])/data(?![\w.-])")


def placed(code: str, folder: Path) -> str:
    """What a page shows, with `/data` in a folder."""
    return _DATA.sub(str(folder / "data"), code)


def command(line: str, folder: Path) -> tuple[int, str]:
    """Execute a command in a folder, and return its exit code and what it prints."""
    line = placed(line, folder)
    with _printing(folder) as printed:
        if line.startswith("python "):
            code = _python(shlex.split(line, comments=True)[1:])
        else:
            code = subprocess.run(["sh", "-ec", line], env=os.environ | {"ROOT": str(ROOT)}).returncode
    return code, as_shown(printed.getvalue(), folder)


def python(code: str, name: str, folder: Path, namespace: dict[str, Any]) -> str:
    """Execute a block of Python in a folder, and return what it prints."""
    with _printing(folder) as printed:
        exec(compile(placed(code, folder), name, "exec"), namespace)
    return as_shown(printed.getvalue(), folder)


@contextmanager
def _printing(folder: Path) -> Iterator[io.StringIO]:
    with chdir(folder), redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        yield printed


def as_shown(printed: str, folder: Path) -> str:
    """What is printed, without the folders of this machine and without blanks at the ends of lines."""
    for there, shown in (
        (f"{folder}/data", "/data"),
        (f"{folder}/", ""),
        (torch.hub.get_dir(), "/home/me/.cache/torch/hub"),
    ):
        printed = printed.replace(there, shown)
    return "\n".join(each.rstrip() for each in printed.splitlines()).strip("\n") + "\n"


def _python(words: list[str]) -> int:
    """Do what `python WORDS` does, and return its exit code."""
    before, sys.argv = sys.argv, ["-c", *words[2:]]
    try:
        match words:
            case ["-m", module, *arguments] if module.startswith("pipeline."):
                return _main(module)(arguments)
            case ["-m", module, *_]:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case ["-c", program]:
                exec(compile(program, "-c", "exec"), {"__name__": "__main__"})
            case _:
                raise ValueError(f"python {shlex.join(words)}: neither a module nor `-c`")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
    return 0


def _main(module: str) -> Callable[[list[str]], int]:
    """The function of a command."""
    found = importlib.import_module(module)
    if not hasattr(found, "main"):
        found = importlib.import_module(f"{module}.__main__")
    main: Callable[[list[str]], int] = found.main
    return main
