"""Finds how much memory is available, shares it between threads, and limits processes that read recordings."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime import control_groups

LEAST_ALLOWANCE = 2**30
"""Bytes. A minute of audio at 768 kHz and its resampling take less than half of this."""
_MEMORY_FILES = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Names of a control group's limit, of its use, and the prefix of its statistics, in versions 2 and 1."""


def available_memory(root: Path = control_groups.ROOT) -> tuple[int, int]:
    """Return the bytes of memory that are available to this process now, and the total.

    The numbers are those of the machine, or those of the process' control groups if they are smaller. Memory that holds
    cached files counts as available, because the system frees it on demand.

    Args:
        root: Where the control groups are mounted.
    """
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(meminfo[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    for folder in control_groups.folders("memory", root):
        for limit_name, used_name, cached_prefix in _MEMORY_FILES:
            try:
                limit = int((folder / limit_name).read_text())
                used = int((folder / used_name).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                cached = sum(int(stat[f"{cached_prefix}{kind}"]) for kind in ("active_file", "inactive_file"))
            except (OSError, ValueError, KeyError):  # there is no such group, or it has no limit ("max")
                continue
            available, total = min(available, limit - used + cached), min(total, limit)
    return max(0, available), total


class SharedMemory:
    """Memory that the threads of this process share. A thread waits until enough is free, or until it is alone."""

    def __init__(self, *, limited: bool = True) -> None:
        """Reserve nothing yet. Without `limited`, there is always enough."""
        self._limited = limited
        self._changed = threading.Condition()
        self._reserved: list[float] = []

    @contextmanager
    def reserved(self, needed: float, *, try_anyway: bool) -> Iterator[bool]:
        """Reserve memory in the block, and yield whether there is enough.

        Args:
            needed: Bytes.
            try_anyway: Whether a thread that is alone takes the memory even if less seems to be free now.
        """
        with self._changed:
            enough = self._wait(needed, try_anyway) if self._limited else True
            if enough:
                self._reserved.append(needed)
        try:
            yield enough
        finally:
            with self._changed:
                if enough:
                    self._reserved.remove(needed)
                self._changed.notify_all()

    def _wait(self, needed: float, try_anyway: bool) -> bool:
        while True:
            free, total = available_memory()
            if needed > total:
                return False
            if needed <= free - sum(self._reserved):
                return True
            if not self._reserved:
                return try_anyway
            self._changed.wait()


def reading_allowance() -> int:
    """Return the bytes that a process may take to read recordings: a quarter of all memory, at least 1 GiB."""
    return max(LEAST_ALLOWANCE, available_memory()[1] // 4)


def limit_growth(allowance: int) -> None:
    """Limit this process to `allowance` bytes more than it has now; larger allocations raise `MemoryError`.

    The limit is on private writable memory (Linux's RLIMIT_DATA). It does not count memory that a forked process shares
    with its parent, memory that is reserved but unused, or the address space of CUDA. Some kernels, such as gVisor,
    ignore this limit; there the limit is on the address space.
    """
    pages = [int(number) for number in Path("/proc/self/statm").read_text().split()]
    page = os.sysconf("SC_PAGE_SIZE")
    _lower(resource.RLIMIT_DATA, pages[5] * page + allowance)
    try:
        mmap.mmap(-1, allowance + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return  # the kernel enforces the limit
    _lower(resource.RLIMIT_AS, pages[0] * page + allowance)


def _lower(which: int, wanted: int) -> None:
    before, most = resource.getrlimit(which)
    limits = [limit for limit in (wanted, before, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min(limits), most))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out.

    torch raises a `RuntimeError` that says so in its text, and a library that cannot be loaded an `ImportError` or an
    `OSError`.
    """
    said = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in said or "failed to map segment" in said


def shortage(error: BaseException) -> str:
    """Describe an error that means that memory has run out, in one line with the limits of this process."""
    reason = " ".join(str(error).split()) or type(error).__name__
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return f"memory has run out ({reason}); free some, or set a smaller batch.max_seconds= or threads="
    return f"memory has run out ({reason}); raise the limit of {limit / 2**30:.1f} GiB on address space (ulimit -v)"
