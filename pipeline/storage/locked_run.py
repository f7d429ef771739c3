"""A run directory and its locks: who may write there, and for which shards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol

from pipeline.runtime.errors import RunError, StoreError, UserError
from pipeline.runtime.places import Place
from pipeline.storage.commits import CommitRecord
from pipeline.storage.lock import Lock, Locked
from pipeline.storage.names import LOCK, LOG, METRICS, RUN_JSON, Part
from pipeline.storage.stored_run import StoredRun

PLANNED_S = 1.0
"""Seconds between two looks whether another part has planned the run, on a file system without locks."""
LOGS_S = 30.0
"""Seconds after which the logs are stored again, if they lie elsewhere while they are written."""
_LOGS_SHARE = 0.05
"""Share of the time in which logs may be stored. They grow, and are stored whole."""


class Guard(Protocol):
    """Knows whether this process may write for the process that holds the lock."""

    def check_in_place(self) -> None:
        """Return when the holder of the lock has agreed. Does not return if the holder has ended."""
        ...


class LockedRun(StoredRun):
    """The files of one run, and the locks that this process holds.

    Attributes:
        part: The part of the shards that this process computes; `None` for all of them.
        alone: Whether no other part of the run may be at work, so that this process may change what all parts share.
    """

    def __init__(self, root: Place, part: Part | None = None) -> None:
        """Create nothing yet; the folder need not exist."""
        super().__init__(root)
        self.part = part
        self.alone = True
        self._locks: tuple[Lock, ...] = ()
        self._guard: Guard | None = None
        self._files.check = self.check_in_place

    def shards_of(self, num_shards: int) -> range:
        """Return the shards that this process has to see to: those of its part."""
        return range(num_shards) if self.part is None else self.part.shards(num_shards)

    @contextmanager
    def lock(self, *, required: bool = True, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Create the run directory if it is missing, and lock it for this process while the context lasts.

        Args:
            required: Refuse a file system that has no locks.
            waiting: As for `Files.hold`.

        Raises:
            Locked: Another process holds the lock.
            UserError: The folder cannot be written.
            RunError: The folder or its lock file was renamed, removed or replaced during the context.
        """
        with ExitStack() as stack:
            try:
                part = "" if required else str(Part(1, 1))
                lock = stack.enter_context(self._files.hold(LOCK, self._what, part, waiting))
            except Locked:
                # The file of the lock names the part that has shared the lock last, which may have ended.
                if not (parts := self.parts_at_work()):
                    raise
                it = "them" if parts[1:] else "it"
                raise Locked(
                    f"{self._what}: locked by {', and by '.join(parts)}; wait for {it}, stop {it}, or choose another "
                    "run_dir="
                ) from None
            with self._holding(lock):
                yield

    @contextmanager
    def lock_to_close(self) -> Iterator[None]:
        """Lock the run as the last of its parts that ends, while the context lasts.

        Raises:
            Locked: Other parts are at work; or nobody can know, because the file system has no locks.
            RunError: As `lock`.
        """
        assert self.part is not None, "a run that has parts"
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(self._files.hold(LOCK, self._what, str(self.part)))
            except Locked:
                raise Locked("other parts of the run are at work, and the last one to end closes the run") from None
            if not lock.works and self.part.of > 1:
                raise Locked(
                    "the file system has no locks, so other parts may be at work; once all have ended, the same "
                    "command with executor.part=1/1 closes the run"
                )
            with self._holding(lock):
                yield

    @contextmanager
    def lock_part(self, waiting: Callable[[str], None]) -> Iterator[None]:
        """Lock the part for this process, and share the lock of the run with other parts, while the context lasts.

        Without other parts, this process is `alone` until it calls `let_others_in`. On a file system without locks,
        nobody knows whether there are other parts. There, part 1 plans a new run, and the others wait for it.

        Args:
            waiting: Called if this process waits for another process, with who it is, and how long or why.

        Raises:
            Locked: Another process computes the same part or the whole run.
            UserError, RunError: As `lock`.
        """
        assert self.part is not None, "a run that has parts"
        own, part = self.part.file(LOCK), str(self.part)
        with (
            self._files.hold(own, f"{self._what} executor.part={part}", part, waiting) as mine,
            self._files.hold_as_part(LOCK, self._what, part, waiting) as (lock, self.alone),
            self._holding(mine, lock),
        ):
            if not lock.works:
                self.alone = self.part.of == 1 or (self.part.number == 1 and not self.has(RUN_JSON))
                if not self.alone and not self.has(RUN_JSON):
                    waiting(f"part {Part(1, self.part.of)}, which plans or closes the run")
                while not self.alone and not self.has(RUN_JSON):
                    time.sleep(PLANNED_S)
            try:
                yield
            finally:
                self.alone = True

    def let_others_in(self) -> None:
        """Let other parts of the run work from now on. Does nothing if this process computes the whole run."""
        if self.part is not None:
            self._locks[-1].let_others_in()
            self.alone = False

    @contextmanager
    def _holding(self, *locks: Lock) -> Iterator[None]:
        self._locks = locks
        ended = threading.Event()
        storing = threading.Thread(target=self._store_logs, args=(ended,), name="logs", daemon=True)
        if not self.on_disk:
            storing.start()
        try:
            yield
            self.check_in_place()
        except StoreError:
            raise  # the lease is in the store that does not answer
        except Exception:
            self.check_in_place()  # says more than that some file is missing
            raise
        finally:
            ended.set()
            with suppress(RunError, UserError):
                if storing.is_alive():
                    storing.join()
                self._keep_logs(end=True)
            self._locks = ()

    def _store_logs(self, ended: threading.Event) -> None:
        """Store the logs now and then until the event, so that others can see how far the run is."""
        pause_s = LOGS_S
        while not ended.wait(pause_s):
            began = time.monotonic()
            with suppress(OSError, RunError, StoreError, UserError):  # the next time may do
                self._keep_logs()
            pause_s = max(LOGS_S, (time.monotonic() - began) / _LOGS_SHARE)

    def _keep_logs(self, *, end: bool = False) -> None:
        self.check_in_place()  # a process that has lost its lease may not write here any more
        for name in (LOG, METRICS):
            self._files.keep_log(name if self.part is None else self.part.file(name), end=end)

    def note_commit(self) -> None:
        """Note that this process has committed a shard, for the index of the commit records."""
        self._commits.committed()

    def _records(self) -> Iterator[CommitRecord | None]:
        found = super()._records()
        if self._locks:
            self._commits.write_index()
        return found

    @property
    def _what(self) -> str:
        return f"run_dir={self.root}"

    @property
    def held_locks(self) -> tuple[Lock, ...]:
        """The locks that this process holds."""
        return self._locks

    def share_locks(self, locks: tuple[Lock, ...]) -> None:
        """Hold the locks of the process that started this one and that writes to the same directory."""
        for lock in locks:
            lock.share()
        self._locks = locks

    def write_under(self, guard: Guard) -> None:
        """Write for a process on another machine, which holds the lock.

        Args:
            guard: Asked before each file is published.
        """
        self._guard = guard

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets of this object. It gets no lock: `share_locks` takes them there."""
        return {**self.__dict__, "_locks": (), "_guard": None}

    def check_in_place(self) -> None:
        """Check that the folder and its lock files are still those that this process locked, if it has locked them.

        Raises:
            RunError: One of them was renamed, removed or replaced.
        """
        for each in (*self._locks, self._guard):
            if each is not None:
                each.check_in_place()
