"""Leases: locks in an object store, for one writer at a time or for the parts of one run.

A lease is an object that is created on the condition that there is none. Its holder writes it again every few seconds.
If it does not change for a while, its holder has ended, and another process takes the lease over; if the holder was a
process of this machine that has ended, at once. A holder that was only paused finds out before it publishes anything
more (`Lease.check_in_place`), and a commit record is created only once, so nothing is mixed.

Parts hold a lease each. The lease of the run is held by the part that plans or closes the run, until it lets the others
in.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pipeline.runtime.errors import RunError, StoreError, UserError
from pipeline.storage.lock import PART, Lock, Locked, has_ended, locked, this_process
from pipeline.storage.names import LOCK, STAGING, Part

if TYPE_CHECKING:
    from pipeline.storage.object_files import ObjectFiles

BEAT_S = 10.0
"""Seconds between two times at which a holder writes its lease again."""
EXPIRES_S = 60.0
"""Seconds without a change after which the holder of a lease has ended."""
_LOOK_S = 1.0
"""Seconds between two looks at the lease of another process."""


class Lease:
    """A lease that this process, or the process that started this one, holds.

    Attributes:
        said: Who holds it.
        token: What tells it from every other lease.
        works: Leases work everywhere.
        descriptors: No file is inherited.
    """

    works = True
    descriptors: tuple[int, ...] = ()

    def __init__(self, files: ObjectFiles, name: str, what: str, said: str) -> None:
        """Create no object yet.

        Args:
            files: The files of the run.
            name: Name of the lease.
            what: What it protects, for messages.
            said: Who holds it.
        """
        self.said = said
        self._files = files
        self._name = name
        self._what = what
        self.token = uuid.uuid4().hex
        self._released = False
        self._end: threading.Event | None = None

    def content(self) -> bytes:
        """Return the content of the object, which differs each time."""
        return json.dumps({"said": self.said, "token": self.token, "beat": uuid.uuid4().hex}).encode()

    def begin(self) -> None:
        """Write the object again and again in a thread, until `release`."""
        self._end = threading.Event()
        threading.Thread(target=self._beat, args=(self._end,), name="lease", daemon=True).start()

    def _beat(self, end: threading.Event) -> None:
        while not end.wait(BEAT_S):
            with suppress(OSError, StoreError, UserError):  # the next time may do; if none does, the lease expires
                if _token(_read(self._files, self._name)) != self.token:
                    return  # another process has it; `check_in_place` says so
                if not end.is_set():
                    self._files.write(self._name, self.content())

    def check_in_place(self) -> None:
        """Check that this process still holds the lease.

        Raises:
            RunError: Another process has taken it over, or somebody has removed it.
        """
        if not self._released and _token(_read(self._files, self._name)) != self.token:
            raise RunError(
                f"{self._what}: its lease {self._files.locate(self._name)} was removed, or taken over while this "
                "process was paused or did not reach the store; what was committed stays, and the same command "
                "continues"
            )

    def share(self) -> None:
        """Do nothing: the process that started this one keeps the lease."""

    def let_others_in(self) -> None:
        """Give the lease of the run back, so that other parts work. Each part holds its own."""
        self.release()

    def release(self) -> None:
        """Remove the object, unless another process has taken the lease over."""
        if self._released:
            return
        self._released = True
        if self._end is not None:
            self._end.set()
        with suppress(OSError, StoreError, UserError):  # it expires
            if _token(_read(self._files, self._name)) == self.token:
                self._files.remove(self._name)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets of this object: it checks the lease, and does not prolong it."""
        return {**self.__dict__, "_end": None}


@contextmanager
def hold(
    files: ObjectFiles, name: str, what: str, part: str = "", waiting: Callable[[str], None] | None = None
) -> Iterator[Lock]:
    """Hold a lease alone; see `Files.hold`."""

    def say(by: str) -> None:
        if waiting is not None:
            waiting(f"{by}, at most {EXPIRES_S:.0f} s: it holds the run, or ended without giving it back")

    with _holding(_taken(files, name, what, part, say)) as lease:
        if part and name == lease_of(files, part):
            _check_creates_once(files, what)
        elif by := _others(files, name, lease_of(files, part) if part else None):
            raise locked(what, by)
        yield lease


@contextmanager
def hold_as_part(
    files: ObjectFiles, name: str, what: str, part: str, waiting: Callable[[str], None]
) -> Iterator[tuple[Lock, bool]]:
    """Hold the lease of the run as one of its parts; see `Files.hold_as_part`."""
    waits = False

    def say(by: str) -> None:
        nonlocal waits
        if by.startswith(PART) and not waits:
            waiting(f"{by}, which plans or closes the run")
            waits = True

    while True:
        try:
            lease = _taken(files, name, what, part, say)
            break
        except Locked:
            if not _said(_read(files, name)).startswith(PART):
                raise
            time.sleep(_LOOK_S)
    with _holding(lease):
        alone = _others(files, name, lease_of(files, part)) is None
        if not alone:
            lease.release()
        yield lease, alone


def holder(files: ObjectFiles, name: str) -> str | None:
    """Return who holds a lease, as the clocks of this machine and of the store say; `None` if nobody does."""
    said = _said(_read(files, name))
    if not said or has_ended(said):
        return None
    age_s = files.age_s(name)
    return said if age_s is None or age_s < EXPIRES_S else None


def lease_of(files: ObjectFiles, part: str) -> str:
    """Return the name of the lease of a part such as `3/8`."""
    return Part.parse(part).file(LOCK)


def _check_creates_once(files: ObjectFiles, what: str) -> None:
    """Check that the store refuses to create an object twice, on which processes that share a run rely.

    Raises:
        UserError: It does not.
    """
    name = f"{STAGING}/create-once-{uuid.uuid4().hex}"
    try:
        files.create(name, b"1")
        with suppress(FileExistsError):
            files.create(name, b"2")
            raise UserError(
                f"{what}: this store creates an object twice (it ignores If-None-Match), so processes cannot share "
                "a run there; leave executor.part out, or choose another run_dir="
            )
    finally:
        files.remove(name)


def _others(files: ObjectFiles, name: str, own: str | None) -> str | None:
    """Return who holds the lease of another part of the run; `None` if nobody does."""
    folder, _, file = name.rpartition("/")
    for each in files.names(folder):
        other = f"{folder}/{each}"
        if each.startswith(f"{file}-") and other != own and (by := holder(files, other)) is not None:
            return by
    return None


@contextmanager
def _holding(lease: Lease) -> Iterator[Lease]:
    lease.begin()
    try:
        yield lease
    finally:
        lease.release()


def _taken(files: ObjectFiles, name: str, what: str, part: str, say: Callable[[str], None]) -> Lease:
    """Create the lease, or take it over from a holder that has ended.

    Args:
        files: The files of the run.
        name: Name of the lease.
        what: What it protects, for messages.
        part: The part of the run that this process computes.
        say: Called once if the holder may be alive, with who it is, before this function waits for a sign of life.

    Raises:
        Locked: Its holder is alive.
        UserError: There is no such bucket, or the store refuses this user.
        StoreError: The store does not answer.
    """
    lease = Lease(files, name, what, this_process(part))
    seen, since = b"", time.monotonic()
    try:
        files.prepare()
        while True:
            # Read first, and once more afterwards: some stores create an object twice.
            if not (now := _read(files, name)):
                with suppress(FileExistsError):
                    files.create(name, lease.content())
                now = _read(files, name)
                if _token(now) == lease.token:
                    return lease
            if now != seen and seen:
                raise locked(what, _said(now))
            if has_ended(_said(now)) or (now and time.monotonic() - since > EXPIRES_S):
                if _read(files, name) == now:
                    files.remove(name)
                continue
            if not seen:
                say(_said(now) or "another process")
            seen = now
            time.sleep(_LOOK_S)
    except FileNotFoundError:
        raise UserError(f"{what}: there is no such bucket; check its name and the endpoint, or create it") from None


def _read(files: ObjectFiles, name: str) -> bytes:
    try:
        return files.read(name)
    except FileNotFoundError:
        return b""


def _said(content: bytes) -> str:
    return str(_fields(content).get("said", ""))


def _token(content: bytes) -> str:
    return str(_fields(content).get("token", ""))


def _fields(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(found := json.loads(content or b"{}"), dict):
            return found
    return {}
