"""What a forked process that decodes may do, and how its parent sees whether it gets on."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from typing import Literal

from pipeline.runtime.memory import limit_growth

Reason = Literal["timeout", "worker_died", "out_of_memory"]
"""How such a process is lost; some of the names of `records.ErrorName`."""

_IDLE = -1
_PR_SET_PDEATHSIG = 1


class Pulse:
    """What forked children are at, in memory that they share with their parent and that needs no file system."""

    def __init__(self, children: int) -> None:
        """Made before they are forked; each writes to a slot of its own, from 0."""
        self._numbers = memoryview(mmap.mmap(-1, 16 * children)).cast("q")
        self._seen = [0] * children
        self._silent_s = [0.0] * children
        for slot in range(children):
            self._numbers[2 * slot + 1] = _IDLE

    def begin(self, slot: int, position: int) -> None:
        """The child begins with an item, the one at `position` of those it was given."""
        self._numbers[2 * slot + 1] = position
        self._numbers[2 * slot] += 1

    def alive(self, slot: int) -> None:
        """The child is still at it, and gets on."""
        self._numbers[2 * slot] += 1

    def idle(self, slot: int) -> None:
        """The child has nothing to do, or is new."""
        self.begin(slot, _IDLE)

    def position(self, slot: int) -> int:
        """Where the child is in what it was given; negative where it is idle."""
        return self._numbers[2 * slot + 1]

    def beats(self) -> int:
        """A number that grows with everything the children do."""
        return sum(self._numbers[::2])

    def silent_s(self, slot: int, looked_s: float) -> float:
        """For how long a child has been at one item without a sign.

        Args:
            slot: The child's.
            looked_s: Seconds since the last look that count: a parent that was stopped has not been looking.
        """
        beat = self._numbers[2 * slot]
        same = beat == self._seen[slot] and self.position(slot) != _IDLE
        self._seen[slot] = beat
        self._silent_s[slot] = self._silent_s[slot] + looked_s if same else 0.0
        return self._silent_s[slot]


def confine(parent: int, allowance: int) -> None:
    """Make this process, just forked, one that may read what nobody has looked at.

    A stop is its parent's to handle; it ends with its parent (with the thread of it that forked), also where a
    decoder hangs, and may take `allowance` bytes of memory.

    Args:
        parent: Process id.
        allowance: Bytes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(1)
    limit_growth(allowance)
