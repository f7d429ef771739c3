"""Handles SIGINT (Ctrl-C), SIGTERM and SIGHUP: the first signal stops a run cleanly, a second one ends it at once.

The first signal raises `Stopped` in the main thread. Code that must finish runs inside `deferring_stop`, which raises
`Stopped` at its end instead. Inside such code, `allowing_stop` marks parts that may be interrupted, such as waiting.

The second signal ends the process as a kill would. Unfinished files stay in staging, and the next run removes them. The
processes that load recordings or compute shards end with the process that started them (`pipeline.runtime.sandbox`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from pipeline.runtime import starting

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_S = 0.3
"""Seconds in which a further signal counts as the first: `timeout` and a closing terminal send a signal twice."""


class Stopped(BaseException):
    """Raised in the main thread when a signal asks for a clean stop.

    Attributes:
        signum: The signal.
        kept: What is kept, and what the same command does next. The stage that was stopped may say it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.kept = ""


class _StopRequest:
    """Whether a signal has asked this process to stop, and whether `Stopped` may be raised now.

    Attributes:
        owner: Id of the process that handles the signals.
        signum: The first signal; `None` before it arrives.
        asked: Time of the first signal (`time.monotonic`).
        raised: Whether `Stopped` has been raised.
        aloud: Whether the process says on stderr what it does about a signal.
        deferrals: Number of `deferring_stop` blocks that the main thread is in.
        allowed: Whether the main thread is in an `allowing_stop` block.
    """

    def __init__(self, aloud: bool = True) -> None:
        self.owner = os.getpid()
        self.aloud = aloud
        self.signum: int | None = None
        self.asked = 0.0
        self.raised = False
        self.deferrals = 0
        self.allowed = False


_stop = _StopRequest()


@contextmanager
def handling_signals(signums: Sequence[int] = SIGNALS, *, aloud: bool = True) -> Iterator[None]:
    """Handle the signals while the main thread is in the block.

    A signal that was ignored from the start stays ignored, as under nohup or in a background job of a script.

    Args:
        signums: The signals that ask for a stop.
        aloud: Say on stderr what is done about a signal.

    Raises:
        Stopped: A signal has arrived.
    """
    global _stop
    _stop = _StopRequest(aloud)
    starting.started()
    handled = [signum for signum in signums if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, _on_signal) for signum in handled}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def deferring_stop() -> Iterator[None]:
    """Let the main thread finish the block before a stop. Nothing in the block may wait for long.

    Raises:
        Stopped: At the end of the block, if a signal has arrived in it and no other exception was raised.
    """
    _stop.deferrals += 1
    try:
        yield
    finally:
        _stop.deferrals -= 1
    if _stop.signum is not None and not _stop.deferrals and not _stop.raised:
        _raise(_stop.signum)


@contextmanager
def allowing_stop() -> Iterator[None]:
    """Let a stop interrupt this part of a `deferring_stop` block, because it only waits.

    Raises:
        Stopped: A signal arrives in the block, or has arrived before.
    """
    _stop.allowed = True
    try:
        # Raised again if it was raised before: an exception in a finalizer is lost.
        if _stop.signum is not None:
            _raise(_stop.signum)
        yield
    finally:
        _stop.allowed = False


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _stop.owner:  # a loading process that was just forked; its parent handles a stop
        if signum == signal.SIGTERM:
            os._exit(128 + signum)
        return
    if signum == signal.SIGHUP:
        _leave_lost_terminal()
    if _stop.signum is None:
        _stop.signum, _stop.asked = signum, time.monotonic()
        if _stop.deferrals:
            _say("stopping after the current batch and the commits that have begun; once more ends it at once")
        if _stop.allowed or not _stop.deferrals:
            _raise(signum)
    elif time.monotonic() - _stop.asked > SAME_S:
        _say("ended at once; what was committed stays, the same command continues")
        os._exit(128 + signum)


def _raise(signum: int) -> NoReturn:
    _stop.raised = True
    raise Stopped(signum)


def _say(text: str) -> None:
    """Write a line to stderr and show the cursor, which the live view hides.

    `print` is not used, because the signal may have arrived in the middle of another `print`.
    """
    if not _stop.aloud:
        return
    shown = "\x1b[?25h\n" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(2, f"{shown}{text}\n".encode())


def _leave_lost_terminal() -> None:
    """Redirect a standard stream to /dev/null if its terminal has closed, so that later writes do not fail."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            descriptor = stream.fileno()
            if os.major(os.fstat(descriptor).st_rdev) and not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, descriptor)
                os.close(null)
