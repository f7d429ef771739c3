"""Decides how many actors a run has and what each of them asks for, by the nodes of the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.executors import MOST_WORKERS
from pipeline.models.device import Devices

if TYPE_CHECKING:
    from pipeline.executors.cluster.connection import Connection
    from pipeline.executors.ray import Options

_KIND = "accelerator_type:"
"""Ray's resource with the kind of the GPUs of a node, such as `accelerator_type:H100`."""
_CPUS_FOR_A_GPU = 4
"""Cores of an actor with a GPU if no node has a GPU yet."""
Resources = Mapping[str, float]


@dataclass(frozen=True)
class Size:
    """What the actors of a run ask for.

    Attributes:
        workers: Number of actors. Some may wait for room.
        cpus: Cores of each.
        gpus: Share of a GPU of each; 0 on CPUs.
    """

    workers: int
    cpus: int
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def devices_of(nodes: Sequence[Mapping[str, Any]], name: str) -> Devices:
    """Turn the setting `device` into devices of a cluster: `auto` stands for its GPUs if it has any.

    Args:
        nodes: What Ray says of the nodes.
        name: auto, cpu or cuda.
    """
    every = [node["Resources"] for node in nodes]
    with_gpus = [resources for resources in every if resources.get("GPU")]
    if name == "cpu" or (name == "auto" and not with_gpus):
        return Devices(("cpu",))
    kinds = {key.removeprefix(_KIND) for resources in with_gpus for key in resources if key.startswith(_KIND)}
    return Devices(("cuda",), tuple(sorted(kinds)))


def size_of(connection: Connection, options: Options, *, on_gpus: bool, shards: int) -> Size:
    """Decide how many actors a run has and what each of them asks for.

    Args:
        connection: The cluster.
        options: The options of the executor.
        on_gpus: Whether the actors compute on GPUs.
        shards: Number of shards that are pending. More actors have no use.
    """
    nodes = [node["Resources"] for node in connection.nodes()]
    gpus = options.gpus_per_worker if on_gpus else 0.0
    cpus = options.cpus_per_worker or _share(nodes, gpus, options.workers)
    wanted = options.workers or max(_room(nodes, cpus, gpus), _room_after_growth(cpus, gpus), 1)
    return Size(min(wanted, shards, MOST_WORKERS), cpus, gpus)


def _share(nodes: Sequence[Resources], gpus: float, workers: int | None) -> int:
    """Return the share of an actor of the cores of the smallest node, so that it fits on every node that suits it."""
    suitable = [node for node in nodes if node.get("CPU", 0) >= 1 and (not gpus or node.get("GPU", 0) >= gpus)]
    if not suitable:
        return _CPUS_FOR_A_GPU if gpus else 1
    if gpus:
        return max(1, int(min(node["CPU"] / _actors_on_gpus(node, gpus) for node in suitable)))
    on_a_node = -(-workers // len(suitable)) if workers else 1
    return max(1, int(min(node["CPU"] for node in suitable)) // on_a_node)


def _room(nodes: Sequence[Resources], cpus: int, gpus: float) -> int:
    """Return the number of actors that nodes hold."""
    by_cpus = [int(node.get("CPU", 0)) // cpus for node in nodes]
    by_gpus = [_actors_on_gpus(node, gpus) if gpus else MOST_WORKERS for node in nodes]
    return sum(map(min, by_cpus, by_gpus))


def _actors_on_gpus(node: Resources, gpus: float) -> int:
    return int(node.get("GPU", 0)) * int(1 / gpus + 1e-9)


def _room_after_growth(cpus: int, gpus: float) -> int:
    """Return the number of actors that the cluster holds at its largest, as its autoscaler says; 0 if it does not."""
    try:
        from ray._private.state import state

        most = state.get_max_resources_from_cluster_config()
    except Exception:  # noqa: BLE001 - not part of Ray's documented interface; without it the present nodes count
        return 0
    return _room([{name: float(amount) for name, amount in (most or {}).items()}], cpus, gpus)
