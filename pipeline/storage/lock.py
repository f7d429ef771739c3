"""The lock on a run directory, which allows one writer at a time, or several parts of one run.

The lock is an open file description lock (`fcntl`, Linux 3.15). It belongs to the open file, so nothing else that this
process does with the lock file releases the lock. A POSIX record lock would end as soon as any part of the process
closed the file. The system releases the lock when the process ends, even after a crash. A process that is only paused
(SIGSTOP) keeps the lock, because the process may continue. Forked loading processes inherit the open file, so they
close it at once: they may live a moment longer than a killed run. Processes that write shards keep it (`share`).
Kernels without such locks (gVisor) get a record lock, and this process then remembers that it holds the lock instead of
opening the file. Other processes can query both kinds without taking them. The text in the lock file is for people. The
file itself may exist without being locked.

The parts of a run share the lock. A part that gets the lock alone plans the run, and then lets other parts in. The
others wait for that. When a part has ended, the lock that a part gets alone tells it that it is the last one.

On a network file system, the lock depends on the server. NFS version 4 releases the lock of a crashed machine only
after about 90 s. Some FUSE and cluster file systems keep locks local to each machine, so two machines can write at
once, and some have no locks. The order of a commit makes that harmless as long as both machines compute the same run.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pipeline.runtime.errors import RunError, UserError

_FLOCK = "hhqqi4x"
"""Layout of C's `struct flock` on 64-bit Linux: type, whence, start, length, process."""
_DEAD_S = 2.0
"""Seconds to wait for the lock of a process that has ended: a process that it just forked may not have run yet."""
PART = "part "
"""How the text in the lock file begins if a part of a run holds the lock."""
_LOOK_S = 0.1
"""Seconds between two attempts to share the lock with a part that plans or closes the run."""
_SET = (fcntl.F_OFD_SETLK, fcntl.F_SETLK)
_GET = (fcntl.F_OFD_GETLK, fcntl.F_GETLK)
"""Requests for a lock of the open file, and for a record lock."""


class Locked(UserError):
    """Another process holds the lock."""


class Lock(Protocol):
    """A lock that this process holds."""

    @property
    def said(self) -> str:
        """Who holds the lock."""
        ...

    @property
    def works(self) -> bool:
        """Whether there are locks where the run is. If not, nobody is kept out."""
        ...

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The open files that a process of this machine inherits, so that the lock lasts as long as the process."""
        ...

    def check_in_place(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            RunError: It does not.
        """
        ...

    def share(self) -> None:
        """Hold the lock together with the process that started this one, until this process ends."""
        ...

    def let_others_in(self) -> None:
        """Share the lock, which this process has held alone, with other parts of the run."""
        ...


@dataclass(frozen=True)
class FileLock:
    """A lock on a file.

    Attributes:
        path: The absolute path of the lock file.
        descriptor: The open lock file.
        said: The text in the lock file.
        what: What the lock protects, for messages: `run_dir=...`.
        works: Whether the file system has locks. If not, nobody is kept out.
    """

    path: str
    descriptor: int
    said: str
    what: str
    works: bool = True

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The open lock file. The lock lasts as long as any process has the file open."""
        return (self.descriptor,)

    def share(self) -> None:
        """Hold the lock together with the process that started this one. This process has inherited the open file."""
        os.set_inheritable(self.descriptor, False)
        _held[_identity(os.fstat(self.descriptor))] = self

    def let_others_in(self) -> None:
        """Share the lock, which this process has held alone, with other parts of the run."""
        if self.works:
            _request(self.descriptor, _SET, fcntl.F_RDLCK)

    def check_in_place(self) -> None:
        """Check that the path still leads to the locked file. If not, another process may lock another file there.

        Raises:
            RunError: The file or its folder was renamed, removed or replaced.
        """
        with suppress(OSError):
            if os.path.samestat(os.fstat(self.descriptor), os.lstat(self.path)):
                return
        root, folder, name = self.path.rsplit("/", 2)
        moved = f"its lock file {folder}/{name}" if os.path.isdir(root) else "the folder"
        raise RunError(
            f"{self.what}: {moved} was renamed, removed or replaced during the run, so another run could write there; "
            f"put it back if you can, then the same command continues with the shards that are still there"
        )


_held: dict[tuple[int, int], FileLock] = {}
"""Locks that this process holds, by device and inode of the file."""


@contextmanager
def hold(path: Path, what: str, part: str = "") -> Iterator[Lock]:
    """Hold a lock alone while the context lasts. A process must not take the same lock twice.

    Args:
        path: The lock file; created with its folders if it is missing.
        what: What the lock protects, for messages: `run_dir=...`.
        part: The part of a run that this process computes; an empty string for a whole run. A part is content with a
            file system that has no locks.

    Raises:
        Locked: Another process holds the lock.
        UserError: The file cannot be written or locked.
    """
    with _holding(_locked(path, what, fcntl.F_WRLCK, part)) as lock:
        yield lock


@contextmanager
def hold_as_part(path: Path, what: str, part: str, waiting: Callable[[str], None]) -> Iterator[tuple[Lock, bool]]:
    """Hold a lock together with other parts of a run while the context lasts; alone if there are no other parts.

    Args:
        path: The lock file; see `hold`.
        what: What the lock protects.
        part: The part of the run that this process computes.
        waiting: Called once if another part plans or closes the run, with who it is and why this function waits for it.

    Yields:
        The lock, and whether this process holds it alone. `let_others_in` ends that.

    Raises:
        Locked: A whole run holds the lock.
        UserError: As `hold`.
    """
    patience, waits = time.monotonic() + _DEAD_S, False
    while True:
        try:
            lock, alone = _locked_alone_or_shared(path, what, part)
            break
        except Locked:
            by = holder(path) or ""
            if by.startswith(PART):
                patience = time.monotonic() + _DEAD_S  # the text is written a moment after the lock is taken
                if not waits:
                    waiting(f"{by}, which plans or closes the run")
                waits = True
            elif time.monotonic() > patience:
                raise
            time.sleep(_LOOK_S)
    with _holding(lock):
        yield lock, alone


def _locked_alone_or_shared(path: Path, what: str, part: str) -> tuple[FileLock, bool]:
    """Lock the file alone, or else together with other parts. Return the lock, and whether it is held alone."""
    try:
        return _locked(path, what, fcntl.F_WRLCK, part, 0), True
    except Locked:
        return _locked(path, what, fcntl.F_RDLCK, part, 0), False


@contextmanager
def _holding(lock: FileLock) -> Iterator[FileLock]:
    """Remember a lock and write its text while the context lasts, then release it."""
    key = _identity(os.fstat(lock.descriptor))
    _held[key] = lock
    try:
        # The text is written before the file is cut, so that a reader never finds the file empty.
        os.truncate(lock.descriptor, os.pwrite(lock.descriptor, lock.said.encode(), 0))
        yield lock
    finally:
        if _held.pop(key, None) is not None:  # a forked child has closed the file already
            os.close(lock.descriptor)


def holder(path: Path) -> str | None:
    """Return who holds the lock: process, machine and start time in UTC, as far as known. `None` if nobody does."""
    try:
        mine = _held.get(_identity(os.lstat(path)))
        if mine is not None:
            return mine.said
        descriptor = _open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        kind, process = _request(descriptor, _GET)
        said = os.pread(descriptor, 1000, 0).decode("utf-8", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if kind == fcntl.F_UNLCK:
        return None
    # The system reports the process of a record lock only, and only on the same machine. The text may be that of the
    # previous holder.
    if process <= 0 or f"process {process} " in said:
        return said or "another process"
    return f"process {process}"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _open(path: Path, flags: int) -> int:
    """Open the lock file, but no link, FIFO or device in its place."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a link", str(path))
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"{path.name} is not a regular file", str(path))


def _request(descriptor: int, commands: tuple[int, int], kind: int = fcntl.F_WRLCK) -> tuple[int, int]:
    """Set or query a lock of the whole file. Return the type of lock and the process that are in the way."""
    asked = struct.pack(_FLOCK, kind, 0, 0, 0, 0)
    try:
        answer = fcntl.fcntl(descriptor, commands[0], asked)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        answer = fcntl.fcntl(descriptor, commands[1], asked)
    kind, _, _, _, process = struct.unpack(_FLOCK, answer)
    return kind, process


def _locked(path: Path, what: str, kind: int, part: str, patience_s: float = _DEAD_S) -> FileLock:
    """Lock the file, and return the lock.

    Args:
        path: The lock file; see `hold`.
        what: What the lock protects.
        part: The part of the run that this process computes; an empty string for a whole run.
        kind: `F_WRLCK` to hold it alone, `F_RDLCK` to share it.
        patience_s: Seconds to wait for the lock of a process that has ended.
    """
    said = this_process(part)
    patience = time.monotonic() + patience_s
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.is_symlink():
                raise NotADirectoryError(errno.ENOTDIR, f"{path.parent.name} is a link")
            descriptor = _open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise UserError(f"{what}: cannot be written ({error.strerror}); choose another run_dir=") from None
        try:
            _request(descriptor, _SET, kind)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return FileLock(os.path.abspath(path), descriptor, said, what)
        except FileNotFoundError:
            pass  # the last holder has just removed the file
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN) and part:
                return FileLock(os.path.abspath(path), descriptor, said, what, works=False)
            os.close(descriptor)
            if time.monotonic() < patience and has_ended(holder(path) or ""):  # a child has yet to close the file
                time.sleep(0.01)
                continue
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{what}: cannot be locked ({error.strerror}); choose a run_dir= on a file system that supports "
                    "locks, or add executor.part=1/1 and start no other run there meanwhile"
                ) from None
            raise locked(what, holder(path)) from None
        os.close(descriptor)


def this_process(part: str = "") -> str:
    """Return the text by which this process says that it holds a lock."""
    by = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}"
    return f"{PART}{part}, {by}" if part else by


def locked(what: str, by: str | None) -> Locked:
    """Return the error that another process holds the lock.

    Args:
        what: What the lock protects.
        by: Who holds it, if that is known.
    """
    return Locked(f"{what}: locked by {by or 'another process'}; wait for it, stop it, or choose another run_dir=")


def has_ended(said: str) -> bool:
    """Whether a lock was taken by a process of this machine that has ended."""
    match = re.search(rf"\bprocess (\d+) on {re.escape(socket.gethostname())} ", said)
    return match is not None and not os.path.exists(f"/proc/{match[1]}")


def _close_in_child() -> None:
    """Close the lock files of the parent in a process that was just forked. The parent keeps its locks."""
    while _held:
        os.close(_held.popitem()[1].descriptor)


os.register_at_fork(after_in_child=_close_in_child)
