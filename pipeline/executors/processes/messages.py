"""What a run and its worker processes say to each other.

A worker has a connection of its own, so a worker that is killed in the middle of a message disturbs no other. It sends
the messages below. The only answer is to `Wants`: the number of a shard, or `None` if no shard is left.
"""

from __future__ import annotations

import mmap
import os
import pickle
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.inference.job import Job
from pipeline.records import Failure
from pipeline.runtime.errors import UserError
from pipeline.runtime.metrics import BatchMetrics
from pipeline.storage.commits import CommitRecord
from pipeline.storage.lock import Lock


@dataclass(frozen=True)
class Task:
    """What every worker of a run gets when it starts.

    Attributes:
        job: The job.
        locks: The locks that the run holds. Their descriptors are inherited.
    """

    job: Job
    locks: tuple[Lock, ...]

    def store(self) -> int:
        """Write the task into a file in memory, once for all workers, and return its descriptor.

        Raises:
            UserError: The task holds an object that cannot be sent.
        """
        try:
            content = pickle.dumps(self)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UserError(
                f"executor.workers: the decoder or the model cannot be sent to other processes ({error}); give "
                "executor.workers=1, or use a decoder that can be pickled"
            ) from None
        descriptor = os.memfd_create("task")
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        return descriptor

    @staticmethod
    def load(descriptor: int) -> Task:
        """Read the task in a worker, and close the file."""
        # Mapped, because all workers share one position in the open file.
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            task: Task = pickle.loads(content)
        os.close(descriptor)
        return task


@dataclass(frozen=True)
class Begun:
    """The model is loaded; see `Listener.begin`."""


@dataclass(frozen=True)
class Wants:
    """The worker asks for a shard, and waits for the answer."""


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


Message = Begun | Wants | BatchDone | Committed | Written | Logged | Finished | Failed
