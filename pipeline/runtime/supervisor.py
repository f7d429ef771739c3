"""Applies a function to untrusted items in child processes. If an item hangs or crashes a child, only it is lost.

Decoders are written in C and read whatever is in a folder. They run here in forked processes that are limited in time
and memory and end with their parent. Each child notes in shared memory which item it works on. If a child is lost, the
parent knows which item was the cause, and gives the child's other items to another child.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from pipeline.runtime.child import OUT_OF_MEMORY, Child, Raised, run_child
from pipeline.runtime.memory import reading_allowance
from pipeline.runtime.sandbox import Heartbeat, Reason
from pipeline.runtime.signals import SIGNALS, deferring_stop

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOK_S = 0.5
"""Seconds between two looks at a silent child."""
GROW_S = 0.02
"""Seconds that tasks wait for the present children before as many children again are forked. Forking a child costs
more than reading some headers."""
TASK_ITEMS = 64
"""Items in the task of a child. A message per item would take longer than reading a header."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Takes the place of an item's result if the item was lost.

    Attributes:
        reason: Why the item was lost.
    """

    reason: Reason


class Supervisor(Generic[Item, Result]):
    """Applies a function to items in child processes.

    Children are forked when they are needed. Modules that the function needs should be imported before that.
    """

    def __init__(
        self,
        function: Callable[[Item, Callable[[], None]], Result],
        *,
        processes: int,
        timeout_s: float,
        stderr: Path | None = None,
    ) -> None:
        """Start no process yet.

        Args:
            function: Takes an item and a callback. A slow function calls the callback to show that it makes progress.
            processes: Maximal number of children. A few items that take moments need fewer.
            timeout_s: Seconds without progress after which an item is `Lost`.
            stderr: File to which the stderr of the children is appended; `None` drops it.
        """
        self._function = function
        self._timeout_s = timeout_s
        self._stderr = stderr
        self._allowance = reading_allowance()
        self._processes = processes
        self._heartbeat = Heartbeat(processes)
        self._free_slots = list(range(processes))
        self._children: list[Child] = []
        self._grew = -GROW_S

    def __enter__(self) -> Supervisor[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def map(self, items: Sequence[Item]) -> Iterator[Result | Lost]:
        """Yield the results in the order of the items.

        An item whose child died or ran out of memory is tried once more, alone, because an earlier item may have been
        the cause. An item that hung is not tried again, because that takes long.

        Raises:
            Exception: The exception that the function raised.
            OSError: Not even one child could be started.
        """
        size = min(TASK_ITEMS, 1 + len(items) // (4 * self._processes))
        tasks = deque(list(range(len(items)))[first : first + size] for first in range(0, len(items), size))
        done: dict[int, Any] = {}
        suspects: set[int] = set()
        num_yielded = 0
        while num_yielded < len(items):
            self._assign_tasks(tasks, items)
            look_s = min(LOOK_S, self._timeout_s / 4)
            if tasks and self._free_slots:
                look_s = min(look_s, GROW_S)
            for child, hung in self._receive_results(done, look_s):
                culprit, reason = self._remove_lost(child, hung, tasks)
                if culprit is None:
                    continue
                if reason == "timeout" or culprit in suspects:
                    done[culprit] = Lost(reason)
                else:
                    suspects.add(culprit)
                    tasks.appendleft([culprit])
            while num_yielded in done:
                result = done.pop(num_yielded)
                if isinstance(result, Raised):
                    raise result.error
                yield result
                num_yielded += 1

    def close(self) -> None:
        """Kill the children."""
        for child in self._children:
            os.kill(child.pid, signal.SIGKILL)
        while self._children:
            self._children.pop().wait_for_exit()

    def _assign_tasks(self, tasks: deque[list[int]], items: Sequence[Item]) -> None:
        """Give tasks to idle children, and fork more children where tasks have waited for the present ones."""
        idle = [child for child in self._children if not child.task]
        waited = not self._children or time.monotonic() - self._grew >= GROW_S
        room = min(len(self._free_slots), max(1, len(self._children))) if waited else 0
        while tasks:
            if not idle:
                if not room:
                    return
                room -= 1
                try:
                    idle.append(self._fork())
                except OSError:  # too many processes or open files
                    if not self._children:
                        raise
                    return
            child = idle.pop()
            child.task, child.received = tasks.popleft(), 0
            self._heartbeat.silent_s(child.slot, 0.0)
            with suppress(OSError):  # the child has died; `_receive_results` notices
                child.connection.send([items[index] for index in child.task])

    def _fork(self) -> Child:
        """Fork a child and return it in the parent."""
        parent = os.getpid()
        parent_end, child_end = Pipe()
        slot = self._free_slots[-1]
        self._heartbeat.idle(slot)
        # Signals are blocked during the fork: the child must not run the parent's handler, and the parent must know
        # the child before it stops. Blocking is not enough, because a signal may reach another thread, and an exception
        # raised in Python's own code after a fork is lost. So the stop is deferred too.
        with deferring_stop():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                with warnings.catch_warnings():  # Python warns of a fork beside threads
                    warnings.simplefilter("ignore", DeprecationWarning)
                    pid = os.fork()
                if pid == 0:
                    run_child(
                        self._function,
                        self._heartbeat,
                        slot,
                        child_end,
                        parent=parent,
                        allowance=self._allowance,
                        log=self._stderr,
                        mask=before,
                    )
                self._free_slots.pop()
                self._children.append(Child(slot, pid, parent_end))
                self._grew = time.monotonic()
            finally:
                child_end.close()
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._children[-1]

    def _receive_results(self, done: dict[int, Any], look_s: float) -> list[tuple[Child, bool]]:
        """Put the results that come within `look_s` seconds into `done`. Return lost children, and if they hung."""
        before = time.monotonic()
        ready = wait([child.connection for child in self._children], look_s)
        looked_s = min(time.monotonic() - before, LOOK_S)
        lost: list[tuple[Child, bool]] = []
        for child in self._children:
            if child.connection in ready:
                if not self._receive_from(child, done):
                    lost.append((child, False))
            elif self._heartbeat.silent_s(child.slot, looked_s) >= self._timeout_s:
                os.kill(child.pid, signal.SIGKILL)
                lost.append((child, True))
        return lost

    @staticmethod
    def _receive_from(child: Child, done: dict[int, Any]) -> bool:
        """Put the results that a child has sent into `done`. Return false if the child has died."""
        try:
            results = child.connection.recv()
        except (EOFError, OSError):
            return False
        done.update(zip(child.task[child.received :], results, strict=False))
        child.received += len(results)
        if child.received == len(child.task):
            child.task = []
        return True

    def _remove_lost(self, child: Child, hung: bool, tasks: deque[list[int]]) -> tuple[int | None, Reason]:
        """Remove a lost child, and put the rest of its task back into `tasks`.

        Returns:
            The index of the item that the child was working on, `None` if it was idle; and why the child was lost.
        """
        self._children.remove(child)
        self._free_slots.append(child.slot)
        code = child.wait_for_exit()
        reason: Reason = "timeout" if hung else "out_of_memory" if code == OUT_OF_MEMORY else "worker_died"
        if not child.task:
            return None, reason
        culprit = child.task[max(child.received, self._heartbeat.position(child.slot))]
        rest = [index for index in child.task[child.received :] if index != culprit]
        if rest:
            tasks.appendleft(rest)
        return culprit, reason
