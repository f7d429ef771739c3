"""A worker process: takes shards from the run that started it, and executes them with a model of its own.

The worker belongs to its run. It is killed when the process of the run ends. It ignores the signals of a terminal: the
run handles them, and sends `STOP` for a clean stop. It stays in the process group of the run, so that Ctrl-Z and a
SIGKILL to the group reach it too.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NoReturn

from pipeline.runtime import failpoints
from pipeline.runtime.sandbox import end_with
from pipeline.runtime.signals import SIGNALS, Stopped, handling_signals
from pipeline.runtime.starting import importing_torch

if TYPE_CHECKING:
    from pipeline.executors.processes.link import Link

STOP = signal.SIGUSR1
"""Asks a worker for a clean stop. It kills a worker that has not begun yet."""


def command(connection: int, task: int, device: str) -> list[str]:
    """Return the command line of a worker.

    Args:
        connection: Descriptor of the connection to the run, which the worker inherits.
        task: Descriptor of the file with the pickled `Task`, which the worker inherits.
        device: Device that the model runs on.
    """
    return [sys.executable, "-P", "-m", __name__, str(os.getpid()), str(connection), str(task), device]


def exit_said(code: int) -> str:
    """Say how a worker ended, by its return code as `subprocess` gives it."""
    if code >= 0:
        return f"ended with code {code}"
    hint = ", as the system does if memory runs out" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


def main(parent: int, connection: int, task: int, device: str) -> NoReturn:
    """Be a worker, and exit. The parameters are those of the command line."""
    end_with(parent)
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    faulthandler.enable()  # a crash leaves a traceback in the log of the run
    # Imported here: this takes seconds, and the process is prepared for the end of its run before that.
    from pipeline.executors.processes.link import Link
    from pipeline.executors.processes.messages import Failed

    end = Connection(connection)
    os.register_at_fork(after_in_child=end.close)  # loading processes have no use for it
    link = Link(end)
    log = logging.getLogger("pipeline")
    log.addHandler(link)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        with handling_signals([STOP], aloud=False):
            _execute(task, device, link)
    except Stopped:
        pass  # the run has asked for it
    except BaseException as error:  # noqa: BLE001 - the run raises it
        link.tell(Failed.of(error))
    link.finish()
    # Nothing is left to be done, and libraries that tidy up may hang or crash.
    os._exit(0)


def _execute(descriptor: int, device: str, link: Link) -> None:
    from pipeline.executors.processes.messages import Finished, Task

    with importing_torch():
        import torch

        from pipeline.inference.execute import execute

        task = Task.load(descriptor)

    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    task.enter(link)
    link.tell(Finished(execute(task.job, link.shards(), torch.device(device), link)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
