"""Does pieces of work, such as shards, in several processes, which are forked from this one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, TypeVar

from pipeline.runtime.errors import RunError
from pipeline.runtime.sandbox import end_with

Result = TypeVar("Result")

_work: Callable[[int], Any]
"""What a forked process does with an item. A fork inherits it, with everything that it has loaded."""


def in_processes(
    work: Callable[[int], Result], items: Sequence[int], processes: int, what: str = "shard"
) -> Iterator[tuple[int, Result]]:
    """Yield each item with the result of `work`, in the order in which they are done.

    The processes are forked, so they share the memory of what this process has loaded. Only results are sent between
    processes.

    Args:
        work: What to do with an item.
        items: Numbers, such as those of shards.
        processes: Number of processes; with 1, this process does the work.
        what: What an item is, for messages.

    Raises:
        RunError: A process died.
    """
    if min(processes, len(items)) < 2:
        yield from ((each, work(each)) for each in items)
        return
    global _work
    _work = work
    processes = min(processes, len(items))
    pool = ProcessPoolExecutor(processes, get_context("fork"), initializer=_begin, initargs=(os.getpid(),))
    left = iter(items)
    running: dict[Future[Any], int] = {}
    try:
        while True:
            # Few are submitted ahead, so that a stop leaves little that has begun.
            while len(running) < processes and (item := next(left, None)) is not None:
                running[pool.submit(_do, item)] = item
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()
    except BrokenProcessPool:
        begun = ", ".join(map(str, sorted(running.values())))
        raise RunError(
            f"a process died while it worked on one of the {what}s {begun}, perhaps for lack of memory; what was "
            "committed stays, and the same command continues, with threads=1 if memory is short"
        ) from None
    finally:
        for process in (pool._processes or {}).values() if running else ():
            with suppress(OSError):
                process.kill()  # a file that is not complete stays in staging, where the next run removes it
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """Prepare a process that was just forked: the parent handles a stop, and ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent)


def _do(item: int) -> Any:
    return _work(item)
