"""Finds how many cores this process may use, and what they can do."""

from __future__ import annotations

import math
import os
from pathlib import Path

from pipeline.runtime import control_groups


def available_cores(root: Path = control_groups.ROOT) -> int:
    """Return the number of cores that this process may use, at least 1.

    The number is limited by the affinity of the process (`taskset`, Slurm) and by the CPU quota of its control groups
    (`docker run --cpus`, Kubernetes). A quota of one and a half cores counts as two cores.

    Args:
        root: Where the control groups are mounted.
    """
    quotas = [quota for folder in control_groups.folders("cpu", root) if (quota := _quota(folder)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, quotas)]))


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the cores multiply bfloat16 numbers in hardware, by AVX-512 BF16 or AMX, as `cpuinfo` says."""
    try:
        flags = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _quota(folder: Path) -> float | None:
    """The cores that a control group may use on average; `None` without a limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # there is no such group, or it has no limit ("max")
        return None
    return cores if cores > 0 else None
