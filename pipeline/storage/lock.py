"""The lock on a run directory: one writer, and nothing that a dead one could leave behind.

A record lock of the system, which drops it when the process ends, however it ends; a process that is only stopped
(SIGSTOP) keeps it, because it may go on. Unlike one of `flock` it is not inherited by forked workers, which may
outlive a killed run by a moment, and it can be asked about without being taken. The text in the file is for people;
that the file lies there means nothing.

On a network file system the lock is as good as the server's: NFS gives a lock back only some time after its machine
has died (90 s for version 4), and file systems that keep locks to each machine (some FUSE and cluster file systems)
let two machines write at once, which the order of a commit makes harmless only as long as both do the same work.
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
"""C's `struct flock` on 64-bit Linux: type, whence, start, length, process."""


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made where it is missing; not twice in one process.

    Args:
        path: The file.
        what: What it locks, for messages: `run_dir=...`.

    Raises:
        UserError: Another process holds it, or the file cannot be written or locked.
    """
    descriptor = _locked(path, what)
    try:
        said = (
            f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}"
        )
        # Never empty in between: somebody may be reading it.
        os.truncate(descriptor, os.pwrite(descriptor, said.encode(), 0))
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """Who holds the lock: process, machine and since when (UTC), as far as can be known; `None` where nobody does."""
    try:
        with open(path) as handle:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
            kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
            said = handle.read().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if kind == fcntl.F_UNLCK:
        return None
    # The system does not know processes of other machines and containers; the file may be its last holder's still.
    if process <= 0 or said.startswith(f"process {process} "):
        return said or "another process"
    return f"process {process}"


def _locked(path: Path, what: str) -> int:
    """A descriptor of the locked file."""
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
            pass  # its last holder took it away in between, as where it is another file by now
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{what}: cannot be locked ({error.strerror}); choose a run_dir= on a file system that has locks"
                ) from None
            raise UserError(
                f"{what}: locked by {holder(path) or 'another process'}; "
                f"wait for it, stop it, or choose another run_dir="
            ) from None
        os.close(descriptor)
