"""A Ray cluster of several nodes on this machine, in a process of its own, so that Ray's threads are in no test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from running import environment

from pipeline.executors.cluster.connection import PRIVATE, QUIET

_SCRIPT = """
import json, sys
from ray.cluster_utils import Cluster
cluster, nodes = Cluster(), []
for line in sys.stdin:
    what, _, value = line.strip().partition(" ")
    if what == "add":
        nodes.append(cluster.add_node(
            num_cpus=int(value), include_dashboard=False, include_log_monitor=False, no_monitor=True,
        ))
    else:
        cluster.remove_node(nodes[int(value)], allow_graceful=False)
    raylets = nodes[-1].all_processes.get("raylet")
    print(json.dumps([cluster.address, raylets[0].process.pid if raylets else None]), flush=True)
cluster.shutdown()
"""

_HASTE = {
    "RAY_health_check_period_ms": "300",  # a node counts as dead after five checks that fail
    "RAY_enable_worker_prestart": "0",  # no process before it is asked for: an actor's has the code of its run
    "RAY_prestart_worker_first_driver": "0",
}


class RayCluster:
    """Nodes of a Ray cluster, which listen on the loopback address and ask for a token.

    Attributes:
        address: HOST:PORT of the cluster.
        variables: The environment of those who connect.
        raylets: Process ids of the nodes, by number.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, because sockets lie in it
        self.variables = {**QUIET, **PRIVATE, "RAY_TMPDIR": self._folder}
        env = environment(**self.variables, **_HASTE)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.raylets: list[int] = []
        self.add(cpus=1)

    def add(self, cpus: int) -> int:
        """Start a node, and return its number. The first one has the services of the cluster."""
        self.address, raylet = self._do(f"add {cpus}")
        self.raylets.append(raylet)
        return len(self.raylets) - 1

    def remove(self, node: int) -> None:
        """Kill all processes of a node."""
        self._do(f"remove {node}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _do(self, line: str) -> tuple[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        address, raylet = json.loads(self._process.stdout.readline())
        return address, raylet


def worker_processes() -> dict[int, int]:
    """Processes that compute for actors: the process of the actor, by process."""
    found = {}
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_text().split("\0")
        except (OSError, ValueError):
            continue
        if "pipeline.executors.processes.worker" in words:
            found[int(entry)] = int(words[words.index("pipeline.executors.processes.worker") + 1])
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
