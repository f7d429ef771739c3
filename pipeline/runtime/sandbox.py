"""Lets a process end with its parent, limits one that decodes recordings, and shows the parent its progress."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from typing import Literal

from pipeline.runtime.memory import limit_growth

Reason = Literal["timeout", "worker_died", "out_of_memory"]
"""Reasons why such a process is lost. They are names of `records.ErrorName`."""

_IDLE = -1
_PR_SET_PDEATHSIG = 1


class Heartbeat:
    """Shared memory in which forked children say which item they are working on and that they are alive.

    The memory is anonymous, so it needs no file system.
    """

    def __init__(self, children: int) -> None:
        """Allocate the memory before the children are forked. Each child writes to its own slot, from 0."""
        self._numbers = memoryview(mmap.mmap(-1, 16 * children)).cast("q")
        self._seen = [0] * children
        self._silent_s = [0.0] * children
        for slot in range(children):
            self._numbers[2 * slot + 1] = _IDLE

    def begin(self, slot: int, position: int) -> None:
        """Called by a child when it begins with the item at `position` of its task."""
        self._numbers[2 * slot + 1] = position
        self._numbers[2 * slot] += 1

    def alive(self, slot: int) -> None:
        """Called by a child to say that it is still working on its item and makes progress."""
        self._numbers[2 * slot] += 1

    def idle(self, slot: int) -> None:
        """Called for a child that has no task, or is about to be forked."""
        self.begin(slot, _IDLE)

    def position(self, slot: int) -> int:
        """Return the position of the child's item in its task; negative if the child is idle."""
        return self._numbers[2 * slot + 1]

    def beats(self) -> int:
        """Return a number that grows with every sign of life of any child."""
        return sum(self._numbers[::2])

    def silent_s(self, slot: int, looked_s: float) -> float:
        """Return the seconds for which a child has worked on one item without a sign of life.

        Args:
            slot: The slot of the child.
            looked_s: Seconds to count since the last call. Time in which the parent itself was stopped must not count.
        """
        beat = self._numbers[2 * slot]
        same = beat == self._seen[slot] and self.position(slot) != _IDLE
        self._seen[slot] = beat
        self._silent_s[slot] = self._silent_s[slot] + looked_s if same else 0.0
        return self._silent_s[slot]


def confine(parent: int, allowance: int) -> None:
    """Prepare this process, which was just forked, to read untrusted files.

    The process ignores SIGINT and SIGHUP, because the parent handles a stop. It ends with its parent, even if a decoder
    hangs. Its memory is limited.

    Args:
        parent: Process id of the parent.
        allowance: Bytes of memory that the process may take.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent)
    limit_growth(allowance)


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends, or the thread of the parent that started it.

    Args:
        parent: Process id of the parent.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before this process asked to be killed with it
        os._exit(1)
