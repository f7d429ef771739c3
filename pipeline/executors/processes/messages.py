"""What a run and its worker processes say to each other.

A worker has a connection of its own, so a worker that is killed in the middle of a message disturbs no other. It sends
the messages below. Two of them have an answer. To `Wants` it is the number of a shard, or `None` if no shard is left.
To `MayWrite` it is `GO`. Only a worker on another machine than its run sends `MayWrite`.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import socket
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.executors.processes.scheduler import Scheduler
from pipeline.inference.job import Job
from pipeline.records import Failure
from pipeline.runtime.errors import UserError
from pipeline.runtime.metrics import BatchMetrics
from pipeline.storage.commits import CommitRecord
from pipeline.storage.lock import Lock

if TYPE_CHECKING:
    from pipeline.executors.processes.link import Link

LOG = logging.getLogger("pipeline")
GO = "go"
"""The answer to `MayWrite`."""


@dataclass(frozen=True)
class Task:
    """What every worker of a run gets when it starts.

    Attributes:
        job: The job.
        locks: The locks that the run holds. A worker on the same machine inherits their descriptors.
    """

    job: Job
    locks: tuple[Lock, ...]

    def enter(self, link: Link) -> None:
        """Prepare this process, the worker, for writing to the run directory.

        Args:
            link: The connection to the run.
        """
        self.job.directory.share_locks(self.locks)

    def encode(self) -> bytes:
        """Return the task as bytes. This process drops the model, if it has loaded it: the workers load it themselves.

        Raises:
            UserError: The task holds an object that cannot be sent.
        """
        self.job.loaded.clear()
        try:
            return pickle.dumps(self)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UserError(
                f"executor.workers: the decoder or the model cannot be sent to other processes ({error}); give "
                "executor.workers=1, or use a decoder that can be pickled"
            ) from None

    @staticmethod
    def store(content: bytes) -> int:
        """Write a task as bytes into a file in memory, once for all workers, and return its descriptor."""
        descriptor = os.memfd_create("task")
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        return descriptor

    @staticmethod
    def load(descriptor: int) -> Task:
        """Read the task in a worker, and close the file.

        Raises:
            UserError: This machine does not have a module of the decoder or the model.
        """
        # Mapped, because all workers share one position in the open file.
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            try:
                task: Task = pickle.loads(content)
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"executor: {socket.gethostname()} does not have what the decoder or the model needs ({error}); "
                    "install the same packages on every machine"
                ) from None
        os.close(descriptor)
        return task


@dataclass(frozen=True)
class Begun:
    """The model is loaded; see `Listener.begin`."""


@dataclass(frozen=True)
class Wants:
    """The worker asks for a shard, and waits for the answer."""


@dataclass(frozen=True)
class MayWrite:
    """The worker asks whether it still may write to the run directory, and waits for the answer."""


@dataclass(frozen=True)
class BatchDone:
    """A batch is computed; see `Listener.batch`."""

    metrics: BatchMetrics
    covered_s: float
    failures: Sequence[Failure]


@dataclass(frozen=True)
class Committed:
    """A shard is committed."""

    record: CommitRecord


@dataclass(frozen=True)
class Written:
    """Writing took these seconds after the last batch."""

    seconds: float


@dataclass(frozen=True)
class Logged:
    """A line for the log of the run, with a level of `logging`."""

    level: int
    text: str


@dataclass(frozen=True)
class Finished:
    """All shards that the worker took are done. It kept the earlier results of the shards `kept`."""

    kept: Sequence[int]


@dataclass(frozen=True)
class Failed:
    """An exception has ended the worker. The run raises it again."""

    error: BaseException

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """Note the traceback on an exception, and replace an exception that cannot be sent."""
        error.add_note("".join(traceback.format_exception(error)))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - the class is not ours; it may raise anything
            sent = RuntimeError(f"{type(error).__name__}: {error}")
            sent.add_note(error.__notes__[-1])
            return cls(sent)
        return cls(error)


Message = Begun | Wants | MayWrite | BatchDone | Committed | Written | Logged | Finished | Failed


def note(message: Message, scheduler: Scheduler, place: int, name: str) -> None:
    """Note what a worker says of its work.

    Args:
        message: The message. One that asks something, or that says how the worker ends, is none of these.
        scheduler: Follows all workers.
        place: Place of the worker.
        name: Name of the place, for people.
    """
    match message:
        case Begun():
            scheduler.begin(place)
        case BatchDone(metrics, covered_s, failures):
            scheduler.batch(place, metrics, covered_s, failures)
        case Committed(record):
            scheduler.committed(place, record)
        case Written(seconds):
            scheduler.written(seconds)
        case Logged(level, text):
            LOG.log(level, "%s: %s", name, text)
