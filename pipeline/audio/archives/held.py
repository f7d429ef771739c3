"""Keeps what is costly to read again, up to a limit: row groups of Parquet files, and a member that was inflated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

LIMIT_BYTES = 2**27
"""128 MB in each process: the hour of recordings of one shard, whose batches are not in the order of the archive."""
IN_ORDER_BYTES = 2**25
"""Enough for a process that reads recordings in the order of the archive."""


class Held:
    """Values by key. The ones that were not used for longest go first.

    Attributes:
        limit_bytes: Bytes that may be held.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Hold nothing yet; later at most so many bytes, or one value if it is larger."""
        self.limit_bytes = limit_bytes
        self._bytes = 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], tuple[Any, int]]) -> Any:
        """Return the value of a key.

        Args:
            key: The key.
            make: Makes the value where it is not held, and returns it with its size in bytes.
        """
        if key not in self._values:
            value, size = make()
            self._values[key] = (value, size)
            self._bytes += size
            while self._bytes > self.limit_bytes and len(self._values) > 1:
                self._bytes -= self._values.popitem(last=False)[1][1]
        self._values.move_to_end(key)
        return self._values[key][0]


HELD = Held(LIMIT_BYTES)
"""The row groups that this process holds."""
