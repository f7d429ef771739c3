"""`DataLoader` over planned batches: decode, resample, collate with padding, across shard boundaries.

One bad file is `Rejected`; nothing is dropped and nothing raises for a file. A worker process that dies, hangs or
takes too much memory costs the recording that made it, not the run: the batches that were under way are loaded
again, each recording in a process of its own. So a recording that hangs is waited for twice `timeout_s`, with the
others and alone, and each further one of the same batches once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from pipeline.inference.batches import Batch, Parcel, Slots, Waveform, collate
from pipeline.inference.recordings import Recordings
from pipeline.records import PlannedBatch, Rejected
from pipeline.runtime.errors import RunError
from pipeline.runtime.memory import is_out_of_memory, reading_allowance
from pipeline.runtime.sandbox import Heartbeat, Reason, confine

__all__ = ["Batch", "Loader", "Recordings", "Waveform"]

POLL_S = 2.0
"""How often a silent worker is looked at: what a signal or a death may wait."""


@dataclass(frozen=True)
class _Lost:
    """Why batches have to be loaded again, and what to say of the recording that made it so."""

    reason: Reason
    message: str


class Loader:
    """Yields a `Batch` for every planned batch, in the order of the plan."""

    def __init__(
        self,
        recordings: Recordings,
        *,
        workers: int,
        timeout_s: float,
        pin_memory: bool = False,
        stderr: Path | None = None,
    ) -> None:
        """Say how to load.

        Args:
            recordings: What to load.
            workers: Processes; 0 loads in this one, which a decoder that hangs or crashes then takes along.
            timeout_s: A recording (a chunk of it, where it is long) that takes longer is a failure.
            pin_memory: Ready batches for an asynchronous copy to a CUDA device.
            stderr: Where decoders may complain; they know no file names and would tear the live view.
        """
        self.stderr = stderr
        self.recordings = recordings
        self.workers = workers
        self.timeout_s = timeout_s
        self.pin_memory = pin_memory
        self._failed: set[int] = set()

    def batches(self, plan: Iterable[PlannedBatch]) -> Generator[Batch, None, None]:
        """Load the planned batches, but for later chunks of an utterance that has failed.

        Raises:
            RunError: The processes cannot be started.
        """
        under_way: deque[PlannedBatch] = deque()
        planned = self._noting(iter(plan), under_way)
        while True:
            lost = yield from self._until_lost(planned, under_way, self.workers)
            if lost is None:
                return
            for batch in list(under_way):
                yield self._in_isolation(batch)
            under_way.clear()

    def _noting(self, plan: Iterator[PlannedBatch], under_way: deque[PlannedBatch]) -> Iterator[PlannedBatch]:
        """Pass on what is left to load of a plan, and note what has been handed to the workers."""
        for batch in plan:
            under_way.append(batch)
            yield self._left(batch)

    def _left(self, batch: PlannedBatch) -> PlannedBatch:
        return replace(batch, chunks=tuple(chunk for chunk in batch.chunks if chunk.row not in self._failed))

    def _note_failed(self, batch: Batch) -> None:
        # Only what more chunks may follow, so that this stays small.
        self._failed.update(item.chunk.row for item in batch.rejected if not item.chunk.last)

    def _until_lost(
        self, plan: Iterator[PlannedBatch], under_way: deque[PlannedBatch], workers: int, prefetch: int = 2
    ) -> Generator[Batch, None, _Lost | None]:
        """Yield batches until the plan is done (returns `None`) or a worker is lost (returns why)."""
        if workers == 0:
            for batch in map(self.recordings.__getitem__, plan):
                self._note_failed(batch)
                yield replace(batch, plan=under_way.popleft())
            return None
        with closing(_Crew(self, plan, workers, prefetch)) as crew:
            while True:
                found = crew.next_batch()
                if found is None or isinstance(found, _Lost):
                    return found
                if any(item.error == "out_of_memory" for item in found.rejected):
                    # Of this one, or of a decoder that has kept what it took for others: alone it will be seen.
                    return _Lost("out_of_memory", crew.memory_message)
                self._note_failed(found)
                yield replace(found, plan=under_way.popleft())

    def _in_isolation(self, plan: PlannedBatch) -> Batch:
        """Load a batch one recording at a time, each lost worker a failure of the recording it was reading."""
        items: list[Waveform | Rejected] = []
        chunks = deque(self._left(plan).chunks)
        while chunks:
            singles = (replace(plan, chunks=(chunk,)) for chunk in list(chunks))
            # One at a time on its way, so that a lost worker can only have been reading that one.
            attempt = self._until_lost(singles, deque(plan for _ in chunks), workers=1, prefetch=1)
            while True:
                try:
                    single = next(attempt)
                except StopIteration as stop:
                    lost: _Lost | None = stop.value
                    break
                chunk = chunks.popleft()
                items += single.rejected or [Waveform(chunk, single.waveforms[0])]
            if lost is not None:
                chunk = chunks.popleft()
                items.append(Rejected(chunk, "load", lost.reason, lost.message, attempts=2))
                chunks = deque(other for other in chunks if other.row != chunk.row)
        batch = collate(plan, items)
        self._note_failed(batch)
        return batch


class _Crew:
    """The processes of one `DataLoader`, and a watch over them."""

    def __init__(self, loader: Loader, plan: Iterator[PlannedBatch], workers: int, prefetch: int) -> None:
        self._timeout_s = loader.timeout_s
        self._poll_s = min(POLL_S, loader.timeout_s / 2)
        self._allowance = reading_allowance()
        self._pulse = loader.recordings.pulse = Heartbeat(workers)
        self._beats, self._silent_s = 0, 0.0
        self._slots = Slots()
        others = set(multiprocessing.active_children())
        try:
            self._slots.open(workers, prefetch)
            # As many as DataLoader is about to make; without room for them it would add a complaint of its own.
            del [multiprocessing.Lock() for _ in range(3 * workers + 8)][:]
            # Forked, so that nothing is imported again and the manifest's columns are shared; a worker never
            # touches CUDA. `timeout` only bounds one look at the queue, see below.
            self._batches: Any = iter(
                DataLoader(
                    loader.recordings,
                    batch_size=None,
                    sampler=plan,
                    num_workers=workers,
                    multiprocessing_context="fork",
                    timeout=self._poll_s,
                    prefetch_factor=prefetch,
                    worker_init_fn=partial(_in_worker, os.getpid(), self._allowance, loader.stderr),
                    pin_memory=loader.pin_memory,
                    collate_fn=partial(_pack, self._slots),
                )
            )
        except OSError as error:
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
            self._slots.close()
            raise RunError(
                f"loader.workers={workers}: the processes that load could not be started ({error.strerror or error}); "
                f"they take open files (ulimit -n), processes (ulimit -u) and up to 1 MB of /dev/shm"
            ) from None
        self._workers: list[BaseProcess] = [child for child in multiprocessing.active_children() if child not in others]
        _let_workers_die_quietly()

    @property
    def memory_message(self) -> str:
        """What is said of a recording that takes too much."""
        return f"reading it takes more than {self._allowance / 2**30:.1f} GiB, what a process may take here"

    def next_batch(self) -> Batch | _Lost | None:
        """The next batch, why there is none, or `None` at the end of the plan."""
        silent_s = 0.0
        while True:
            try:
                found: Parcel | Batch = next(self._batches)
            except StopIteration:
                return None
            except MemoryError:
                return _Lost("out_of_memory", self.memory_message)
            except RuntimeError as error:
                if str(error).startswith("DataLoader timed out"):
                    beats, self._beats = self._beats, self._pulse.beats()
                    silent_s = silent_s + self._poll_s if beats == self._beats else 0.0
                    # A worker at one recording, or all of them waiting for each other.
                    if max(silent_s, *map(self._silent, range(len(self._workers)))) < self._timeout_s:
                        continue
                    return _Lost("timeout", f"reading it took longer than loader.timeout_s={self._timeout_s:g}")
                if str(error).startswith("DataLoader worker") and "exited unexpectedly" in str(error):
                    return _Lost("worker_died", self._last_words())
                if is_out_of_memory(error):
                    return _Lost("out_of_memory", self.memory_message)
                raise
            return found.open() if isinstance(found, Parcel) else found

    def close(self) -> None:
        """End the processes, also those that hang."""
        for worker in self._workers:
            worker.kill()
        del self._batches
        self._slots.close()

    def _silent(self, slot: int) -> float:
        return self._pulse.silent_s(slot, self._poll_s)

    def _last_words(self) -> str:
        codes = [worker.exitcode for worker in self._workers if worker.exitcode]
        how = "ended"
        if codes:
            how = f"was ended by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f"ended with code {codes[0]}"
        killed = -signal.SIGKILL in codes
        why = "the system does that where memory runs out" if killed else "the file may break its decoder"
        return f"the process that read it {how}, twice; {why}"


def _pack(slots: Slots, batch: Batch) -> Parcel:
    """In a worker: put a batch where the parent finds it."""
    info = get_worker_info()
    assert info is not None
    return slots.pack(info.id, batch)


def _in_worker(parent: int, allowance: int, stderr: Path | None, _: int) -> None:
    """A stop is the parent's to handle; a worker ends when the parent tells it or is gone."""
    if stderr is not None:
        with open(stderr, "ab") as log:
            os.dup2(log.fileno(), 2)
    confine(parent, allowance)


def _let_workers_die_quietly() -> None:
    """Undo torch's SIGCHLD handler, which raises in whatever line runs when a worker dies.

    A death is found within `POLL_S` all the same, because the loader looks after its workers whenever the
    queue stays empty (torch/utils/data/dataloader.py, `_try_get_data`).
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
