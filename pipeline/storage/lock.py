"""The lock on a run directory, which allows one writer at a time.

The lock is a POSIX record lock (`fcntl`). The system releases the lock when the process ends, even after a crash. A
process that is only paused (SIGSTOP) keeps the lock, because the process may continue. Forked workers do not inherit a
record lock as they would inherit a lock of `flock`; workers may live a moment longer than a killed run. Other processes
can query a record lock without taking it. The text in the lock file is for people. The file itself may exist without
being locked.

On a network file system, the lock depends on the server. NFS version 4 releases the lock of a crashed machine only
after about 90 s. Some FUSE and cluster file systems keep locks local to each machine, so two machines can write at
once. The order of a commit makes that harmless as long as both machines compute the same run.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipeline.runtime.errors import UserError

_FLOCK = "hhqqi4x"
"""Layout of C's `struct flock` on 64-bit Linux: type, whence, start, length, process."""


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold a lock while the context lasts. A process must not take the same lock twice.

    Args:
        path: The lock file; created if it is missing.
        what: What the lock protects, for messages: `run_dir=...`.

    Raises:
        UserError: Another process holds the lock, or the file cannot be written or locked.
    """
    descriptor = _locked(path, what)
    try:
        said = (
            f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}"
        )
        # The text is written before the file is cut, so that a reader never finds the file empty.
        os.truncate(descriptor, os.pwrite(descriptor, said.encode(), 0))
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """Return who holds the lock: process, machine and start time in UTC, as far as known. `None` if nobody does."""
    try:
        with open(path) as handle:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
            kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
            said = handle.read().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if kind == fcntl.F_UNLCK:
        return None
    # The system reports no id for a process on another machine or in another container. The text in the file may
    # still be that of the previous holder.
    if process <= 0 or said.startswith(f"process {process} "):
        return said or "another process"
    return f"process {process}"


def _locked(path: Path, what: str) -> int:
    """Lock the file and return its descriptor."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise UserError(f"{what}: cannot be written ({error.strerror}); choose another run_dir=") from None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # the last holder has just removed the file
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{what}: cannot be locked ({error.strerror}); "
                    f"choose a run_dir= on a file system that supports locks"
                ) from None
            raise UserError(
                f"{what}: locked by {holder(path) or 'another process'}; "
                f"wait for it, stop it, or choose another run_dir="
            ) from None
        os.close(descriptor)
