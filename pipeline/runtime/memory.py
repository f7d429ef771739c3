"""What memory there is, and how much of it a process that reads recordings may take."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path

LEAST_ALLOWANCE = 2**30
"""Bytes: a minute at 768 kHz and its resampling take less than half of it."""


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes of memory that are free for this process now, and all there are.

    Of the machine, or of the control group (version 2) where that has less. Cached files count as free: the
    system gives them up when memory is asked for.
    """
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(meminfo[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat["active_file"]) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):  # no group, or no limit ("max")
        return available, total
    return min(available, limit - used + cached), min(total, limit)


def reading_allowance() -> int:
    """Bytes that a process may take to read recordings: a quarter of all memory, but 1 GiB at least."""
    return max(LEAST_ALLOWANCE, available_memory()[1] // 4)


def limit_growth(allowance: int) -> None:
    """Let this process take `allowance` bytes more than it has; beyond that it meets `MemoryError`.

    What counts is private memory that can be written to (Linux's RLIMIT_DATA), so not what a forked process shares
    with its parent, what is reserved and not used, or the address space that CUDA takes. Kernels that keep only
    the limit on the address space, gVisor's among them, are given that.
    """
    pages = [int(number) for number in Path("/proc/self/statm").read_text().split()]
    page = os.sysconf("SC_PAGE_SIZE")
    _lower(resource.RLIMIT_DATA, pages[5] * page + allowance)
    try:
        mmap.mmap(-1, allowance + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return  # as it should be
    _lower(resource.RLIMIT_AS, pages[0] * page + allowance)


def _lower(which: int, wanted: int) -> None:
    before, most = resource.getrlimit(which)
    limits = [limit for limit in (wanted, before, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min(limits), most))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out; torch says so in the text of a `RuntimeError`."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error)
