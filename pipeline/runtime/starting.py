"""The time while a command still imports: what Ctrl-C does, and no search for garbage while torch is imported.

`pipeline/__init__.py` calls `handle_interrupts`, which is the first that a command executes. Ctrl-C then gives one line
and the exit code 130, in place of Python's traceback. As soon as the command itself can answer Ctrl-C, it calls
`started`. This module imports as little as possible.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def handle_interrupts() -> None:
    """Answer Ctrl-C, if this process is a command such as `python -m pipeline.status` that is about to be imported."""
    # Python puts `-m` in the place of the name of a program until it has found the program.
    if sys.argv[:1] != ["-m"] or "-m" not in sys.orig_argv:
        return
    program = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    if program.count(".") == 1 and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def started() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` from now on, as Python does."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def importing_torch() -> Iterator[None]:
    """Let a command import torch, and what needs it, without a search for garbage, now or later.

    Modules stay. Each search looks at all of them: while torch is imported, that takes a fifth of the time.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _end(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"stopped by SIGINT before anything was begun\n")
    os._exit(128 + signum)
