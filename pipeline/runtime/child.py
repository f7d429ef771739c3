"""The child processes of `pipeline.runtime.supervisor`: what the parent knows of a child, and what a child runs."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from pipeline.runtime.sandbox import Heartbeat, confine

OUT_OF_MEMORY = 77
"""Exit code of a child that ran out of memory. A new child starts without memory that this one may have leaked."""
# A child sends its results at least this often, in seconds.
_SEND_S = 0.05
# Seconds to wait for a killed child to end.
_END_S = 1.0


class Raised:
    """An exception that the function raised, with its traceback. It is a bug, so the parent raises it again."""

    def __init__(self, error: Exception) -> None:
        error.add_note("".join(traceback.format_exception(error)))
        self.error = error


class Child:
    """A forked process and its task.

    Attributes:
        slot: Its slot in the heartbeat.
        pid: Process id.
        connection: The connection to the process.
        task: Indices of the items that the process was given; empty if it is idle.
        received: Number of results of this task that the parent has received.
    """

    def __init__(self, slot: int, pid: int, connection: Connection) -> None:
        self.slot = slot
        self.pid = pid
        self.connection = connection
        self.task: list[int] = []
        self.received = 0

    def wait_for_exit(self) -> int | None:
        """Close the connection and wait for the process to end.

        Returns:
            The exit code, negative for a signal; `None` if the process hangs in the kernel, where not even SIGKILL
            ends it.
        """
        self.connection.close()
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        return None


def run_child(
    function: Callable[[Any, Callable[[], None]], Any],
    heartbeat: Heartbeat,
    slot: int,
    connection: Connection,
    *,
    parent: int,
    allowance: int,
    log: Path | None,
    mask: set[Any],
) -> NoReturn:
    """Run a child that was just forked, and exit.

    The function never returns into the parent's code, and skips the parent's exit handlers.

    Args:
        function: The function to apply to items.
        heartbeat: Takes signs of life.
        slot: The child's slot in the heartbeat.
        connection: The connection to the parent.
        parent: Process id of the parent.
        allowance: Bytes of memory that the child may take.
        log: File to which stderr is appended; `None` drops it.
        mask: Signals to block from now on.
    """
    code, stderr = 1, 2
    try:
        stderr = _redirect_stderr(log)
        confine(parent, allowance)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _work(function, heartbeat, slot, connection)
        code = 0
    except MemoryError:
        code = OUT_OF_MEMORY
    except BaseException:  # noqa: BLE001 - nobody in this process can handle it; the parent sees the exit
        # `sys.stderr` is not used, because a thread of the parent may have held its lock during the fork.
        os.write(stderr, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _work(
    function: Callable[[Any, Callable[[], None]], Any], heartbeat: Heartbeat, slot: int, connection: Connection
) -> None:
    """Apply the function to the items of each task until the parent closes the connection."""

    def alive() -> None:
        heartbeat.alive(slot)

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        results: list[Any] = []
        sent = time.monotonic()
        for position, item in enumerate(task):
            heartbeat.begin(slot, position)
            try:
                results.append(function(item, alive))
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - the parent raises it
                results.append(Raised(error))
            # Results are sent now and then, so that they are not computed again if the child is lost.
            if time.monotonic() - sent > _SEND_S:
                connection.send(results)
                results, sent = [], time.monotonic()
        heartbeat.idle(slot)
        connection.send(results)


def _redirect_stderr(log: Path | None) -> int:
    """Redirect this process's stderr to a file or to /dev/null, and return a descriptor of the old stderr.

    Decoders print warnings that name no file and would disturb the live view of the terminal. Their errors reach the
    parent as results.
    """
    with suppress(OSError):  # stderr is closed, or no descriptor is left; a missing redirection must not cost an item
        stderr = os.dup(2)
        try:
            taker = os.open(log or os.devnull, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:  # the folder of the log was renamed
            taker = os.open(os.devnull, os.O_WRONLY)
        os.dup2(taker, 2)
        os.close(taker)
        return stderr
    return 2
