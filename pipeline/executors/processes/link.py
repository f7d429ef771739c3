"""The worker's end of the connection to its run."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from pipeline.executors.processes.messages import (
    GO,
    BatchDone,
    Begun,
    Committed,
    Logged,
    MayWrite,
    Message,
    Wants,
    Written,
)
from pipeline.records import Failure
from pipeline.runtime.metrics import BatchMetrics
from pipeline.storage.commits import CommitRecord


class Link(logging.Handler):
    """A `Listener` and a handler of log records that pass everything on to the run, and the source of shards.

    Threads of its own send the messages and receive the answers. So neither a stop that interrupts the main thread nor
    two threads that send at the same time can break a message, and the model does not wait for the run.
    """

    def __init__(self, connection: Connection) -> None:
        """Start the threads."""
        super().__init__()
        self._connection = connection
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, name="sender", daemon=True)
        self._sender.start()
        self._shards: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._permits: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._receive, name="receiver", daemon=True).start()

    def shards(self) -> Iterator[int]:
        """Yield the shards that the run gives to this worker. Each is asked for when it is needed."""
        while True:
            self.tell(Wants())
            shard = self._shards.get()
            if shard is None:
                return
            yield shard

    def check_in_place(self) -> None:
        """Wait until the run has said that this process still may write to the run directory; see `Guard`."""
        self.tell(MayWrite())
        self._permits.get()

    def tell(self, message: Message) -> None:
        """Send a message."""
        self._messages.put(pickle.dumps(message))

    def finish(self) -> None:
        """Wait until all messages are sent."""
        self._messages.put(None)
        self._sender.join()

    def begin(self) -> None:
        """See `Listener.begin`."""
        self.tell(Begun())

    def batch(self, metrics: BatchMetrics, covered_s: float, failures: Sequence[Failure]) -> None:
        """See `Listener.batch`. The run counts the failures of all workers, and stops them if there are too many."""
        self.tell(BatchDone(metrics, covered_s, failures))

    def committed(self, record: CommitRecord) -> None:
        """See `Listener.committed`."""
        self.tell(Committed(record))

    def written(self, seconds: float) -> None:
        """See `Listener.written`."""
        self.tell(Written(seconds))

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a log record on."""
        self.tell(Logged(record.levelno, self.format(record)))

    def _send(self) -> None:
        while (message := self._messages.get()) is not None:
            try:
                self._connection.send_bytes(message)
            except OSError:  # the run has ended, and this process is about to be killed
                os._exit(1)

    def _receive(self) -> None:
        while True:
            try:
                answer: int | str | None = self._connection.recv()
            except (EOFError, OSError):  # as in `_send`
                os._exit(1)
            if answer == GO:
                self._permits.put(GO)
            else:
                assert not isinstance(answer, str)
                self._shards.put(answer)
