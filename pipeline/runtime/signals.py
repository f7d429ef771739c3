"""What SIGINT (Ctrl-C), SIGTERM and SIGHUP do: the first ends a run cleanly, a second ends it at once.

The first raises `Stopped` in the main thread where that is waiting or busy with what need not be finished, and at the
end of an `unbroken` stretch where it is not. The second leaves what is staged behind, as a kill would, which the next
run clears away; the processes that load recordings end with the one that started them (`pipeline.runtime.sandbox`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_S = 0.3
"""Seconds in which another signal is the same stop: `timeout` and a closing terminal send theirs twice."""


class Stopped(BaseException):
    """A signal asked for a clean stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class _Stop:
    """The stop that this process has been asked for."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.signum: int | None = None
        self.asked = 0.0
        self.raised = False
        self.unbroken = 0
        self.waiting = False


_stop = _Stop()


@contextmanager
def heeded() -> Iterator[None]:
    """Heed the signals in this stretch of the main thread; what was ignored from the start stays ignored.

    That is nohup, or a job in the background of a script.

    Raises:
        Stopped: One has come.
    """
    global _stop
    _stop = _Stop()
    heed = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, _on_signal) for signum in heed}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def unbroken() -> Iterator[None]:
    """Finish this stretch of the main thread before a stop; nothing in it may wait for long.

    Raises:
        Stopped: At the end, if a signal has come meanwhile and nothing else has been raised.
    """
    _stop.unbroken += 1
    try:
        yield
    finally:
        _stop.unbroken -= 1
    if _stop.signum is not None and not _stop.unbroken and not _stop.raised:
        _raise(_stop.signum)


@contextmanager
def waiting() -> Iterator[None]:
    """Let a stop end this part of an `unbroken` stretch: it waits, and what it waits for need not be finished.

    Raises:
        Stopped: A signal comes, or has come in the unbroken stretch.
    """
    _stop.waiting = True
    try:
        if _stop.signum is not None:  # also where it was raised and got lost, as in a finalizer
            _raise(_stop.signum)
        yield
    finally:
        _stop.waiting = False


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _stop.owner:  # a process that loads, just forked: its parent decides
        if signum == signal.SIGTERM:
            os._exit(128 + signum)
        return
    if signum == signal.SIGHUP:
        _leave_lost_terminal()
    if _stop.signum is None:
        _stop.signum, _stop.asked = signum, time.monotonic()
        if _stop.unbroken:
            _say("stopping after the batch in flight and the commits under way; once more ends it at once")
        if _stop.waiting or not _stop.unbroken:
            _raise(signum)
    elif time.monotonic() - _stop.asked > SAME_S:
        _say("ended at once; what was committed stays, the same command continues")
        os._exit(128 + signum)


def _raise(signum: int) -> NoReturn:
    _stop.raised = True
    raise Stopped(signum)


def _say(text: str) -> None:
    """Not through `print`, in the middle of which a signal may come; the live view hides the cursor."""
    shown = "\x1b[?25h\n" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(2, f"{shown}{text}\n".encode())


def _leave_lost_terminal() -> None:
    """Write to nothing where the terminal is gone, which is what SIGHUP says: the last words must not fail."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            descriptor = stream.fileno()
            if os.major(os.fstat(descriptor).st_rdev) and not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, descriptor)
                os.close(null)
