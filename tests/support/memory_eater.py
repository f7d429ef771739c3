"""A decoder that eats memory."""

from __future__ import annotations

import mmap

BLOCK = 2**26


def eat() -> None:
    """Take more than is allowed, and no more than a machine has where nobody stops it.

    Straight from the system: a process that tests has freed much before, which malloc would give out again, and that
    is no growth.

    Raises:
        MemoryError: There is a limit, which has been reached.
    """
    hoard = []
    for _ in range(26):
        try:
            hoard.append(mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except OSError:
            raise MemoryError from None
