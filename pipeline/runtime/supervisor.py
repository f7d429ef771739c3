"""A function applied to untrusted items in child processes: one that hangs, crashes or eats memory costs its item.

Decoders are written in C and meet whatever lies in a folder. Here they run where they can do no harm: in processes
that are forked, limited in time and memory, and end with their parent. What a child works on stands in memory that
its parent sees, so the culprit is known when a child is lost, and the rest goes to another one.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from pipeline.runtime.memory import reading_allowance
from pipeline.runtime.sandbox import Pulse, Reason, confine
from pipeline.runtime.signals import SIGNALS, unbroken

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOK_S = 0.5
"""How often a silent child is looked at."""
GROW_S = 0.02
"""How long items wait for the children that there are before as many again are forked: forks cost more than headers."""
TASK_ITEMS = 64
"""Items handed to a child at a time: a message for each would take longer than a header does."""
_TELL_S = 0.05
_GONE_S = 1.0
# Exit code of a child that ran out of memory: another one starts with none of what this one may have leaked.
_OUT_OF_MEMORY = 77


@dataclass(frozen=True, slots=True)
class Lost:
    """Why an item has no result."""

    reason: Reason


class _Raised:
    """What the function raised: a mistake of ours, for the parent to raise."""

    def __init__(self, error: Exception) -> None:
        error.add_note("".join(traceback.format_exception(error)))
        self.error = error


class _Child:
    """A forked process, and what it was given."""

    def __init__(self, slot: int, pid: int, connection: Connection) -> None:
        self.slot = slot
        self.pid = pid
        self.connection = connection
        self.task: list[int] = []
        self.told = 0

    def ended(self) -> int | None:
        """The exit code, negative for a signal; `None` where not even SIGKILL ends it: it waits in the kernel."""
        self.connection.close()
        until = time.monotonic() + _GONE_S
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        return None


class Supervisor(Generic[Item, Result]):
    """Child processes that apply a function to items.

    The children are forked when they are needed, so what the function needs should have been imported.
    """

    def __init__(
        self, function: Callable[[Item, Callable[[], None]], Result], *, processes: int, timeout_s: float
    ) -> None:
        """Say what to do, and within what limits.

        Args:
            function: Takes an item, and something to call while it takes long but gets on.
            processes: Children at most. There are fewer where fewer get all done within moments.
            timeout_s: An item at which a child is silent for longer is `Lost`.
        """
        self._function = function
        self._timeout_s = timeout_s
        self._allowance = reading_allowance()
        self._processes = processes
        self._pulse = Pulse(processes)
        self._free = list(range(processes))
        self._children: list[_Child] = []
        self._grew = -GROW_S

    def __enter__(self) -> Supervisor[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def map(self, items: Sequence[Item]) -> Iterator[Result | Lost]:
        """Results in the order of the items.

        One whose process died or took too much memory is tried again once, alone: it may have been another's
        doing. One that hung is not, because that takes long.

        Raises:
            Exception: What the function raised.
            OSError: Not even one child could be started.
        """
        size = min(TASK_ITEMS, 1 + len(items) // (4 * self._processes))
        tasks = deque(list(range(len(items)))[first : first + size] for first in range(0, len(items), size))
        done: dict[int, Any] = {}
        suspects: set[int] = set()
        given = 0
        while given < len(items):
            self._hand_out(tasks, items)
            look_s = min(LOOK_S, self._timeout_s / 4)
            if tasks and self._free:
                look_s = min(look_s, GROW_S)
            for child, hung in self._heard_of(done, look_s):
                culprit, reason = self._lose(child, hung, tasks)
                if culprit is None:
                    continue
                if reason == "timeout" or culprit in suspects:
                    done[culprit] = Lost(reason)
                else:
                    suspects.add(culprit)
                    tasks.appendleft([culprit])
            while given in done:
                result = done.pop(given)
                if isinstance(result, _Raised):
                    raise result.error
                yield result
                given += 1

    def close(self) -> None:
        """End the children, whatever they are at."""
        for child in self._children:
            os.kill(child.pid, signal.SIGKILL)
        while self._children:
            self._children.pop().ended()

    def _hand_out(self, tasks: deque[list[int]], items: Sequence[Item]) -> None:
        """Give every idle child a task; fork more children only for tasks that have waited for those there are."""
        idle = [child for child in self._children if not child.task]
        waited = not self._children or time.monotonic() - self._grew >= GROW_S
        room = min(len(self._free), max(1, len(self._children))) if waited else 0
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
            child.task, child.told = tasks.popleft(), 0
            self._pulse.silent_s(child.slot, 0.0)
            with suppress(OSError):  # it has died meanwhile, which is seen to
                child.connection.send([items[index] for index in child.task])

    def _fork(self) -> _Child:
        parent = os.getpid()
        mine, its = Pipe()
        slot = self._free[-1]
        self._pulse.idle(slot)
        # A stop that comes just now must find a child that heeds it no longer, and a parent that knows of it. It may
        # reach another thread, which has not blocked it, and would be lost in what Python runs after a fork.
        with unbroken():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                with warnings.catch_warnings():  # of threads, beside which DataLoader's processes are forked as well
                    warnings.simplefilter("ignore", DeprecationWarning)
                    pid = os.fork()
                if pid == 0:
                    self._be_child(parent, slot, its, before)
                self._free.pop()
                self._children.append(_Child(slot, pid, mine))
                self._grew = time.monotonic()
            finally:
                its.close()
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._children[-1]

    def _be_child(self, parent: int, slot: int, connection: Connection, mask: set[Any]) -> NoReturn:
        """Never return to what the parent was at, nor run what it left for its own end."""
        code = 1
        try:
            confine(parent, self._allowance)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._serve(slot, connection)
            code = 0
        except MemoryError:
            code = _OUT_OF_MEMORY
        except BaseException:  # noqa: BLE001 - a child has nobody to raise it to; its parent sees that it ended
            os.write(2, traceback.format_exc().encode())  # `sys.stderr` may be locked by a thread that is not here
        finally:
            os._exit(code)

    def _serve(self, slot: int, connection: Connection) -> None:
        def alive() -> None:
            self._pulse.alive(slot)

        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            results: list[Any] = []
            told = time.monotonic()
            for position, item in enumerate(task):
                self._pulse.begin(slot, position)
                try:
                    results.append(self._function(item, alive))
                except MemoryError:
                    raise
                except Exception as error:  # noqa: BLE001 - the parent raises it
                    results.append(_Raised(error))
                if time.monotonic() - told > _TELL_S:  # what took long need not be done again if the child is lost
                    connection.send(results)
                    results, told = [], time.monotonic()
            self._pulse.idle(slot)
            connection.send(results)

    def _heard_of(self, done: dict[int, Any], look_s: float) -> list[tuple[_Child, bool]]:
        """Wait for results and take them; return the children that are lost, and whether they hung."""
        before = time.monotonic()
        ready = wait([child.connection for child in self._children], look_s)
        looked_s = min(time.monotonic() - before, LOOK_S)
        lost: list[tuple[_Child, bool]] = []
        for child in self._children:
            if child.connection in ready:
                if not self._take(child, done):
                    lost.append((child, False))
            elif self._pulse.silent_s(child.slot, looked_s) >= self._timeout_s:
                os.kill(child.pid, signal.SIGKILL)
                lost.append((child, True))
        return lost

    def _take(self, child: _Child, done: dict[int, Any]) -> bool:
        """Take what a child has said; whether it is still there."""
        try:
            results = child.connection.recv()
        except (EOFError, OSError):
            return False
        done.update(zip(child.task[child.told :], results, strict=False))
        child.told += len(results)
        if child.told == len(child.task):
            child.task = []
        return True

    def _lose(self, child: _Child, hung: bool, tasks: deque[list[int]]) -> tuple[int | None, Reason]:
        """Give what a lost child was to do to others; return what it was at, if anything, and how it was lost."""
        self._children.remove(child)
        self._free.append(child.slot)
        code = child.ended()
        reason: Reason = "timeout" if hung else "out_of_memory" if code == _OUT_OF_MEMORY else "worker_died"
        if not child.task:
            return None, reason
        culprit = child.task[max(child.told, self._pulse.position(child.slot))]
        rest = [index for index in child.task[child.told :] if index != culprit]
        if rest:
            tasks.appendleft(rest)
        return culprit, reason
