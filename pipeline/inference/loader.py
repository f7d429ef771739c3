"""Loads planned batches in worker processes, with torch's `DataLoader`: decode, resample and pad.

A bad file becomes a `Rejected`; it never raises an exception, and no chunk is dropped. If a recording makes a worker
die, hang or run out of memory, only that recording fails: the batches in flight are loaded again, each recording alone
in a worker. So the loader waits `timeout_s` twice for a recording that hangs, once with the others and once alone, and
once for each further recording of the same batches that hangs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

from pipeline.inference.batches import Batch, BatchFiles, StoredBatch, Waveform, collate
from pipeline.inference.recordings import Recordings
from pipeline.models.samples import in_float32
from pipeline.records import PlannedBatch, Rejected
from pipeline.runtime.errors import RunError
from pipeline.runtime.memory import is_out_of_memory, reading_allowance
from pipeline.runtime.sandbox import Heartbeat, Reason, confine

__all__ = ["Batch", "Loader", "Recordings", "Waveform"]

POLL_S = 2.0
"""Seconds between two looks at silent workers. A signal or a worker's death may go unnoticed for this long."""


@dataclass(frozen=True)
class _LostWorker:
    """A worker was lost, so the batches in flight have to be loaded again.

    Attributes:
        reason: Why the worker was lost.
        message: The message of the failure, if one recording turns out to be the cause.
    """

    reason: Reason
    message: str


class Loader:
    """Loads a `Batch` for every planned batch, in the order of the plan."""

    def __init__(
        self,
        recordings: Recordings,
        *,
        workers: int,
        timeout_s: float,
        pin_memory: bool = False,
        stderr: Path | None = None,
        before_fork: Callable[[], None] = lambda: None,
    ) -> None:
        """Start no process yet.

        Args:
            recordings: The recordings to load.
            workers: Number of worker processes. 0 loads in this process, which then hangs or crashes with a decoder.
            timeout_s: Seconds after which a recording, or a chunk of a long one, is a failure.
            pin_memory: Whether to put batches into page-locked memory for an asynchronous copy to a CUDA device.
            stderr: File that takes the stderr of the workers. Decoders print messages there that name no file and
                would disturb the live view.
            before_fork: Called before processes are started. A forked process copies the locks of torch, and one that
                a thread holds at that moment would never be released in the copy.
        """
        self.stderr = stderr
        self.before_fork = before_fork
        self.recordings = recordings
        self.workers = workers
        self.timeout_s = timeout_s
        self.pin_memory = pin_memory
        self._failed: set[int] = set()

    def batches(self, plan: Iterable[PlannedBatch]) -> Generator[Batch, None, None]:
        """Load the planned batches, without later chunks of utterances that have failed.

        Raises:
            RunError: The worker processes cannot be started.
        """
        in_flight: deque[PlannedBatch] = deque()
        planned = self._track(iter(plan), in_flight)
        while True:
            lost = yield from self._load_until_lost(planned, in_flight, self.workers)
            if lost is None:
                return
            for batch in list(in_flight):
                yield self._load_in_isolation(batch)
            in_flight.clear()

    def _track(self, plan: Iterator[PlannedBatch], in_flight: deque[PlannedBatch]) -> Iterator[PlannedBatch]:
        """Yield the batches of a plan without failed utterances, and add each batch to `in_flight`."""
        for batch in plan:
            in_flight.append(batch)
            yield self._without_failed(batch)

    def _without_failed(self, batch: PlannedBatch) -> PlannedBatch:
        return replace(batch, chunks=tuple(chunk for chunk in batch.chunks if chunk.row not in self._failed))

    def _note_failed(self, batch: Batch) -> None:
        # Utterances without further chunks are left out, so that the set stays small.
        self._failed.update(item.chunk.row for item in batch.rejected if not item.chunk.last)

    def _load_until_lost(
        self, plan: Iterator[PlannedBatch], in_flight: deque[PlannedBatch], workers: int, prefetch: int = 2
    ) -> Generator[Batch, None, _LostWorker | None]:
        """Yield batches until the plan is done (returns `None`) or a worker is lost (returns the reason)."""
        if workers == 0:
            for batch in map(self.recordings.load_batch, plan):
                self._note_failed(batch)
                yield replace(batch, plan=in_flight.popleft())
            return None
        with closing(_WorkerPool(self, plan, workers, prefetch)) as pool:
            while True:
                found = pool.next_batch()
                if found is None or isinstance(found, _LostWorker):
                    return found
                if any(item.error == "out_of_memory" for item in found.rejected):
                    # The cause may be this recording, or memory that the decoder kept from earlier recordings. Loading
                    # the recording alone tells.
                    return _LostWorker("out_of_memory", pool.memory_message)
                self._note_failed(found)
                yield replace(found, plan=in_flight.popleft())

    def _load_in_isolation(self, plan: PlannedBatch) -> Batch:
        """Load a batch one chunk at a time. If the worker is lost, the chunk that it was loading fails."""
        items: list[Waveform | Rejected] = []
        chunks = deque(self._without_failed(plan).chunks)
        while chunks:
            singles = (replace(plan, chunks=(chunk,)) for chunk in list(chunks))
            # Only one chunk is in flight, so a lost worker must have been loading that one.
            attempt = self._load_until_lost(singles, deque(plan for _ in chunks), workers=1, prefetch=1)
            while True:
                try:
                    single = next(attempt)
                except StopIteration as stop:
                    lost: _LostWorker | None = stop.value
                    break
                chunks.popleft()
                items += single.rejected or [Waveform(single.chunks[0], in_float32(single.waveforms[0]))]
            if lost is not None:
                chunk = chunks.popleft()
                items.append(Rejected(chunk, "load", lost.reason, lost.message, attempts=2))
                chunks = deque(other for other in chunks if other.row != chunk.row)
        batch = collate(plan, items)
        self._note_failed(batch)
        return batch


class _WatchedRecordings(Dataset[StoredBatch]):
    """Loads batches in a worker, notes each chunk in the heartbeat, and stores the batch where the parent reads it."""

    def __init__(self, recordings: Recordings, heartbeat: Heartbeat, files: BatchFiles) -> None:
        self._recordings = recordings
        self._heartbeat = heartbeat
        self._files = files

    def __getitem__(self, plan: PlannedBatch) -> StoredBatch:
        worker = get_worker_info()
        assert worker is not None
        items = self._recordings.load_each(plan, partial(self._heartbeat.begin, worker.id))
        stored = self._files.write(worker.id, plan, items)
        self._heartbeat.idle(worker.id)
        return stored


class _WorkerPool:
    """The worker processes of one `DataLoader`. Notices when a worker is lost."""

    def __init__(self, loader: Loader, plan: Iterator[PlannedBatch], workers: int, prefetch: int) -> None:
        self._timeout_s = loader.timeout_s
        self._poll_s = min(POLL_S, loader.timeout_s / 2)
        self._allowance = reading_allowance()
        self._heartbeat = Heartbeat(workers)
        self._beats = 0
        self._files = BatchFiles()
        others = set(multiprocessing.active_children())
        loader.before_fork()
        try:
            self._files.open(workers, prefetch)
            # DataLoader is about to make this many locks. If there is no room for them, the error is raised here,
            # because DataLoader would print a message of its own.
            del [multiprocessing.Lock() for _ in range(3 * workers + 8)][:]
            # Workers are forked, so that they need not import modules again and share the manifest's columns. They
            # never use CUDA. `timeout` is not the limit for a recording, but the time of one look at the queue.
            self._batches: Any = iter(
                DataLoader(
                    _WatchedRecordings(loader.recordings, self._heartbeat, self._files),
                    batch_size=None,
                    sampler=plan,
                    num_workers=workers,
                    multiprocessing_context="fork",
                    timeout=self._poll_s,
                    prefetch_factor=prefetch,
                    worker_init_fn=partial(_prepare_worker, os.getpid(), self._allowance, loader.stderr),
                    pin_memory=loader.pin_memory,
                )
            )
        except OSError as error:
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
            self._files.close()
            raise RunError(
                f"loader.workers={workers}: the loading processes could not be started ({error.strerror or error}); "
                f"they need open files (ulimit -n), processes (ulimit -u) and up to 1 MB of /dev/shm"
            ) from None
        self._workers: list[BaseProcess] = [child for child in multiprocessing.active_children() if child not in others]
        _remove_sigchld_handler()

    @property
    def memory_message(self) -> str:
        """The message for a recording that takes too much memory."""
        return f"reading the recording takes more than the {self._allowance / 2**30:.1f} GiB that a process may take"

    def next_batch(self) -> Batch | _LostWorker | None:
        """Return the next batch, why a worker was lost, or `None` at the end of the plan."""
        silent_s = 0.0
        while True:
            try:
                found: StoredBatch | Batch = next(self._batches)
            except StopIteration:
                return None
            except MemoryError:
                return _LostWorker("out_of_memory", self.memory_message)
            except RuntimeError as error:
                if str(error).startswith("DataLoader timed out"):
                    beats, self._beats = self._beats, self._heartbeat.beats()
                    silent_s = silent_s + self._poll_s if beats == self._beats else 0.0
                    # Either one worker is stuck in a recording, or all workers are silent.
                    if max(silent_s, *map(self._worker_silent_s, range(len(self._workers)))) < self._timeout_s:
                        continue
                    message = f"reading the recording took longer than loader.timeout_s={self._timeout_s:g}"
                    return _LostWorker("timeout", message)
                if str(error).startswith("DataLoader worker") and "exited unexpectedly" in str(error):
                    return _LostWorker("worker_died", self._death_message())
                if is_out_of_memory(error):
                    return _LostWorker("out_of_memory", self.memory_message)
                raise
            return found.read() if isinstance(found, StoredBatch) else found

    def close(self) -> None:
        """Kill the workers, even if they hang."""
        for worker in self._workers:
            worker.kill()
        del self._batches
        self._files.close()

    def _worker_silent_s(self, slot: int) -> float:
        return self._heartbeat.silent_s(slot, self._poll_s)

    def _death_message(self) -> str:
        codes = [worker.exitcode for worker in self._workers if worker.exitcode]
        how = "ended"
        if codes:
            how = f"was ended by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f"ended with code {codes[0]}"
        killed = -signal.SIGKILL in codes
        why = "the system does that if memory runs out" if killed else "the file may crash its decoder"
        return f"the process that read the recording {how}, twice; {why}"


def _prepare_worker(parent: int, allowance: int, stderr: Path | None, _: int) -> None:
    """Run first in each worker: redirects stderr, and limit what the process may do."""
    if stderr is not None:
        with open(stderr, "ab") as log:
            os.dup2(log.fileno(), 2)
    confine(parent, allowance)


def _remove_sigchld_handler() -> None:
    """Remove torch's SIGCHLD handler, which raises an error in whatever line runs when a worker dies.

    The loader still notices a death within `POLL_S`, because DataLoader checks its workers whenever the queue stays
    empty (torch/utils/data/dataloader.py, `_try_get_data`).
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
