"""The actor: starts a worker process on its node, and passes on what the worker and the run say to each other.

The worker is the same process as that of `executor=local`, with the model. It is not the process of the actor, because
that one has threads of Ray, and the loading processes are forked. The worker ends with the actor.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

import pipeline
from pipeline.executors.cluster.metrics import Metrics
from pipeline.executors.cluster.task import require_versions
from pipeline.executors.processes import worker
from pipeline.executors.processes.messages import Failed, Logged, Message, Task

PATIENCE_S = 2.0
"""Seconds after which a call that waits for messages returns without one."""
_MOST_CHARACTERS = 4000
"""The end of what a worker wrote to stderr goes to the log of the run."""


@dataclass(frozen=True)
class Ended:
    """The worker process has ended, as `exit_said` says in words. This is its last message."""

    exit_said: str


@dataclass(frozen=True)
class Order:
    """What every actor of a run gets beside the task.

    Attributes:
        device: Device of the model, as torch names it on the node of the actor.
        folder: Working directory of the run.
        versions: Versions that the node must have; see `require_versions`.
        environment: Variables of the environment for the worker.
        run: Name of the run, for metrics.
    """

    device: str
    folder: str
    versions: Mapping[str, str]
    environment: Mapping[str, str]
    run: str


class Actor:
    """Holds a worker process and the resources that it computes with."""

    def __init__(self, order: Order, task: bytes) -> None:
        """Start the worker. An error becomes a message.

        Args:
            order: How to start it.
            task: The task, encoded.
        """
        self._messages: queue.SimpleQueue[Message | Ended] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._metrics = Metrics(order.run)
        place = f"on {socket.gethostname()}"
        if order.device != "cpu":
            place += f", GPU {os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
        self._messages.put(Logged(logging.INFO, place))
        try:
            require_versions(order.versions)
            self._start(order, task)
        except Exception as error:  # noqa: BLE001 - the run raises it
            self._messages.put(Failed.of(error))
            self._messages.put(Ended("was not started"))

    def hear(self) -> list[Message | Ended]:
        """Wait for messages of the worker, and return them. The list is empty if there is none for a while."""
        heard: list[Message | Ended] = []
        with suppress(queue.Empty):
            heard.append(self._messages.get(timeout=PATIENCE_S))
            while True:
                heard.append(self._messages.get_nowait())
        return heard

    def answer(self, answer: int | str | None) -> None:
        """Send the worker the answer to a message."""
        with self._sending, suppress(OSError):  # it has died, which the thread below finds
            self._connection.send(answer)

    def stop(self) -> None:
        """Ask the worker for a clean stop."""
        self._process.send_signal(worker.STOP)

    def _start(self, order: Order, task: bytes) -> None:
        with suppress(OSError):  # where there is no such folder, relative paths do not lead to the files of the run
            os.chdir(order.folder)
        package = str(Path(pipeline.__file__).resolve().parent)
        # Ray adds the folder of the script that was started. Its modules would hide those of other packages.
        paths = [os.path.abspath(folder) for folder in sys.path if os.path.realpath(folder) != package]
        self._connection, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker lives
        descriptor = Task.store(task)
        with theirs:
            self._process = subprocess.Popen(
                worker.command(theirs.fileno(), descriptor, order.device),
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno(), descriptor],
                env={**os.environ, **order.environment, "PYTHONPATH": os.pathsep.join(paths)},
            )
        os.close(descriptor)
        threading.Thread(target=self._pass_on, name="messages", daemon=True).start()

    def _pass_on(self) -> None:
        try:
            while True:
                message: Message = self._connection.recv()
                self._messages.put(message)
                self._metrics.count(message)
        except (EOFError, OSError):
            pass  # the worker has ended
        except Exception as error:  # noqa: BLE001 - the run raises it
            self._messages.put(Failed.of(error))
        exit_said = worker.exit_said(self._process.wait())
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _MOST_CHARACTERS))
        for line in self._stderr.read().decode("utf-8", "replace").splitlines():
            self._messages.put(Logged(logging.WARNING, line))
        self._messages.put(Ended(exit_said))
