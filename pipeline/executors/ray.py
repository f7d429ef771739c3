"""`executor=ray`: run the shards in actors of a Ray cluster."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.executors import check_workers
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from pipeline.executors.cluster.connection import Connection
    from pipeline.inference.job import Job
    from pipeline.models.device import Devices

_ADDRESS = re.compile(r"auto|local|(ray://)?[^\s/:]+:\d{1,5}|ray://[^\s/:]+|(ray://)?\[[0-9a-f:]+\]:\d{1,5}")


@dataclass
class Options:
    """`executor.*` of `executor=ray`.

    Attributes:
        address: The cluster: `auto`, `local`, `HOST:6379` or `ray://HOST:10001`.
        workers: Number of actors that compute; `None` for as many as the cluster holds or may grow to.
        gpus_per_worker: Share of a GPU of each actor.
        cpus_per_worker: Cores of each actor; `None` for its share of the smallest machine.
    """

    address: str = "auto"
    workers: int | None = None
    gpus_per_worker: float = 1.0
    cpus_per_worker: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be.

        Raises:
            UserError: With the key, the value and what is allowed.
        """
        check_workers(self.workers)
        if not _ADDRESS.fullmatch(self.address):
            raise UserError(f"executor.address={self.address}: must be auto, local, HOST:6379 or ray://HOST:10001")
        if not 0 < self.gpus_per_worker <= 1:
            raise UserError(f"executor.gpus_per_worker={self.gpus_per_worker}: must be above 0, and 1 at most")
        if self.cpus_per_worker is not None and not 1 <= self.cpus_per_worker <= 1024:
            raise UserError(
                f"executor.cpus_per_worker={self.cpus_per_worker}: must be a whole number from 1 to 1024, or null"
            )


class Executor:
    """Runs the shards in actors of a Ray cluster. They take the shards from one queue."""

    def __init__(self, options: Options) -> None:
        """Create the executor; nothing is connected yet.

        Raises:
            UserError: The extra `ray` is not installed.
        """
        if importlib.util.find_spec("ray") is None:
            raise UserError(
                "executor=ray: needs the package ray, which the extra ray has; run pip install 'ray>=2.52', or choose "
                "executor=local"
            )
        self._options = options
        self._connection: Connection | None = None

    def devices(self, name: str) -> Devices:
        """Return the devices of the cluster; see `pipeline.executors.Executor.devices`."""
        from pipeline.executors.cluster.sizes import devices_of
        from pipeline.models.device import local_devices

        if name.startswith("cuda:"):
            raise UserError(
                f"device={name}: executor=ray chooses the GPUs; write device=cuda for the GPUs of the cluster"
            )
        if self._options.address == "local":  # these are known before the cluster is there
            return local_devices(name)
        return devices_of(self._connected().nodes(), name)

    def run(self, job: Job, console: Console, say: Callable[[str], None]) -> str:
        """Run each pending shard; see `pipeline.executors.Executor.run`."""
        connection = self._connected()
        # Imported after that, because Ray reads its environment when it is imported.
        from pipeline.executors.cluster.pool import Pool
        from pipeline.executors.cluster.sizes import size_of
        from pipeline.inference.monitor import follow

        size = size_of(connection, self._options, on_gpus=job.devices[0].startswith("cuda"), shards=len(job.pending))
        names = [f"worker {place}" for place in range(size.workers)]
        return follow(job, names, console, say, lambda monitor: Pool(job, size, names, monitor, say).run())

    def close(self) -> None:
        """Leave the cluster; a private one ends."""
        if self._connection is not None:
            self._connection.close()

    def _connected(self) -> Connection:
        from pipeline.executors.cluster.connection import Connection

        if self._connection is None:
            self._connection = Connection(self._options.address)
        return self._connection
