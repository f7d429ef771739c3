"""`executor=local`: run the shards on this machine, in this process or in several worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.executors import check_workers
from pipeline.runtime.errors import UserError
from pipeline.storage.names import Part

if TYPE_CHECKING:
    from pipeline.inference.job import Job
    from pipeline.models.device import Devices


@dataclass
class Options:
    """`executor.*` of `executor=local`.

    Attributes:
        workers: Number of processes that compute; `None` for one on each device.
        part: The part of the shards to compute, such as `3/8`; `None` for all of them.
    """

    workers: int | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        """Refuse a number or a part that cannot be.

        Raises:
            UserError: The number is not from 1 to 1024, or `part` is no part.
        """
        if self.part is not None:
            try:
                Part.parse(self.part)
            except ValueError:
                raise UserError(
                    f"executor.part={self.part}: must be the number of a part and the number of parts, from 1/8 to 8/8 "
                    "for eight parts, or null"
                ) from None
        check_workers(self.workers)


class Executor:
    """Runs the shards in this process; with several workers, in processes that take the shards from one queue."""

    def __init__(self, options: Options) -> None:
        """Create the executor."""
        self._workers = options.workers

    def devices(self, name: str) -> Devices:
        """Return the devices of this machine; see `pipeline.executors.Executor.devices`."""
        from pipeline.models.device import local_devices

        return local_devices(name)

    def run(self, job: Job, console: Console, say: Callable[[str], None]) -> str:
        """Run each pending shard; see `pipeline.executors.Executor.run`."""
        # Imported here, because the configuration reads `Options` without waiting for torch.
        import torch

        from pipeline.executors.processes.pool import Pool
        from pipeline.inference.execute import execute
        from pipeline.inference.monitor import Monitor, follow

        devices = self._devices(job)
        names = _names(devices)

        def work(monitor: Monitor) -> Sequence[int]:
            if len(devices) == 1:
                return execute(job, job.pending, torch.device(devices[0]), monitor)
            return Pool(job, devices, names, monitor, say).run()

        return follow(job, names, console, say, work)

    def close(self) -> None:
        """Do nothing: `run` leaves nothing open."""

    def _devices(self, job: Job) -> list[str]:
        """Return the device of each worker. Workers take the devices in turn; more workers than shards have no use."""
        wanted = len(job.devices) if self._workers is None else self._workers
        return [job.devices[place % len(job.devices)] for place in range(min(wanted, len(job.pending)))]


def _names(devices: Sequence[str]) -> list[str]:
    """Return the name of each worker, for people: that of its device if no other worker has the device."""
    if len(set(devices)) == len(devices):
        return list(devices)
    return [f"worker {place} on {device}" for place, device in enumerate(devices)]
