"""Finds how much memory is available, and limits the memory of processes that read recordings."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path

LEAST_ALLOWANCE = 2**30
"""Bytes. A minute of audio at 768 kHz and its resampling take less than half of this."""


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Return the bytes of memory that are available to this process now, and the total.

    The numbers are those of the machine, or those of the control group (version 2) if they are smaller. Memory that
    holds cached files counts as available, because the system frees it on demand.
    """
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(meminfo[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat["active_file"]) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):  # there is no control group, or it has no limit ("max")
        return available, total
    return min(available, limit - used + cached), min(total, limit)


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
    """Whether an error means that memory has run out. torch raises a `RuntimeError` that says so in its text."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error)
