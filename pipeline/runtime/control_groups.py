"""Finds the control groups of this process, which limit its CPU time and memory. A container is a control group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def folders(controller: str, root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, the innermost first. Every one of them limits it.

    Both versions of control groups are looked up. In a container the innermost group may be shown as the root.

    Args:
        controller: `cpu` or `memory`.
        root: Where the groups are mounted.
        membership: The file that lists the groups of the process, as `number:controllers:path`.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root  # version 2 has one tree for all controllers
        elif controller in controllers.split(","):
            top = root / controller
        else:
            continue
        inner = path.strip("/").split("/") if path.strip("/") else []
        for depth in range(len(inner), -1, -1):
            yield top.joinpath(*inner[:depth])
