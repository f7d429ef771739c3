"""`DataLoader` over planned batches: decode, resample, collate with padding, across shard boundaries.

One bad file is one `Failure`; nothing is dropped and nothing raises for a file. A worker process that dies
or hangs costs the recording that made it, not the run: the batches that were under way are loaded again,
each recording in a process of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.audio import AudioError, read_header, read_waveform
from pipeline.manifest import Manifest
from pipeline.records import Chunk, Failure, PlannedBatch, Stage
from pipeline.resampling import resample

Lost = Literal["timeout", "worker_died"]

POLL_S = 2.0
"""How often a silent worker is looked at: what a signal or a death may wait."""


@dataclass(frozen=True)
class Waveform:
    """One utterance: `(samples,)` float32 at the model's rate."""

    chunk: Chunk
    samples: Tensor


@dataclass(frozen=True)
class Batch:
    """A padded batch and where it came from.

    Attributes:
        plan: The planned batch.
        rows: Manifest row of each waveform; rows that failed are not among them.
        waveforms: `(batch, samples)` float32, zero beyond each length; `(0, 0)` where every row failed.
        lengths: `(batch,)` int64: valid samples.
        failures: A failure for each planned row that is not in `rows`.
    """

    plan: PlannedBatch
    rows: tuple[int, ...]
    waveforms: Tensor
    lengths: Tensor
    failures: tuple[Failure, ...]

    def pin_memory(self) -> Batch:
        """Called by `DataLoader`, so that the copy to the device need not wait."""
        return replace(self, waveforms=self.waveforms.pin_memory())


class Recordings(Dataset["Loaded"]):
    """Planned batches to waveforms or failures, one each; holds Arrow columns, not Python objects."""

    def __init__(self, manifest: Manifest, sample_rate: int, min_samples: int) -> None:
        """Waveforms come at `sample_rate` Hz; fewer than `min_samples` samples are a failure."""
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.min_samples = min_samples

    def __getitem__(self, plan: PlannedBatch) -> Loaded:
        """Load one planned batch."""
        return plan, [self.load(chunk) for chunk in plan.chunks]

    def load(self, chunk: Chunk) -> Waveform | Failure:
        """Load one recording: mono, at the model's rate."""
        utterance = self.manifest.utterance(chunk.row)
        stage: Stage = "load"
        try:
            if chunk.num_samples == 0:
                stage = "manifest"
                read_header(utterance.path)
            stage = "load"
            samples, rate = read_waveform(
                utterance.path,
                start_s=utterance.start_s,
                end_s=utterance.end_s,
                file_size=self.manifest.file_size(chunk.row),
            )
            waveform = resample(torch.from_numpy(samples), rate, self.sample_rate)
            if len(waveform) < self.min_samples:
                raise AudioError(
                    "too_short",
                    f"{len(waveform)} samples at {self.sample_rate} Hz; the model needs {self.min_samples} "
                    f"({1000 * self.min_samples / self.sample_rate:.0f} ms) for one frame",
                )
        except AudioError as error:
            return Failure(utterance.id, utterance.path, stage, error.error, error.message)
        except MemoryError:
            return Failure(utterance.id, utterance.path, stage, "out_of_memory", "too long to be held in memory")
        return Waveform(chunk, waveform)


Loaded = tuple[PlannedBatch, Sequence[Waveform | Failure]]
"""A planned batch and what became of each of its chunks, in order."""


def collate(loaded_batch: Loaded) -> Batch:
    """Pad the waveforms of a batch to the longest with zeros."""
    plan, items = loaded_batch
    loaded = [item for item in items if isinstance(item, Waveform)]
    lengths = torch.tensor([len(item.samples) for item in loaded], dtype=torch.int64)
    waveforms = torch.zeros(len(loaded), int(lengths.max()) if loaded else 0)
    for index, item in enumerate(loaded):
        waveforms[index, : len(item.samples)] = item.samples
    return Batch(
        plan=plan,
        rows=tuple(item.chunk.row for item in loaded),
        waveforms=waveforms,
        lengths=lengths,
        failures=tuple(item for item in items if isinstance(item, Failure)),
    )


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
            workers: Processes; 0 loads in this one, which then cannot survive a hanging decoder.
            timeout_s: A recording that takes longer is a failure.
            pin_memory: Ready batches for an asynchronous copy to a CUDA device.
            stderr: Where decoders may complain; they know no file names and would tear the live view.
        """
        self.stderr = stderr
        self.recordings = recordings
        self.workers = workers
        self.timeout_s = timeout_s
        self.pin_memory = pin_memory

    def batches(self, plan: Iterable[PlannedBatch]) -> Generator[Batch, None, None]:
        """Load the planned batches."""
        under_way: deque[PlannedBatch] = deque()
        planned = _noting(iter(plan), under_way)
        while True:
            lost = yield from self._until_lost(planned, under_way, self.workers)
            if lost is None:
                return
            for batch in list(under_way):
                yield self._in_isolation(batch)
            under_way.clear()

    def _until_lost(
        self, plan: Iterator[PlannedBatch], under_way: deque[PlannedBatch], workers: int, prefetch: int = 2
    ) -> Generator[Batch, None, Lost | None]:
        """Yield batches until the plan is done (returns `None`) or a worker is lost (returns why)."""
        options: dict[str, Any] = {}
        if workers:
            # Forked, so that nothing is imported again and the manifest's columns are shared; a worker never
            # touches CUDA. `timeout` only bounds one look at the queue, see below.
            options = {"multiprocessing_context": "fork", "timeout": POLL_S, "prefetch_factor": prefetch}
        loader = DataLoader(
            self.recordings,
            batch_size=None,
            sampler=plan,
            num_workers=workers,
            worker_init_fn=partial(_in_worker, self.stderr),
            pin_memory=self.pin_memory,
            collate_fn=collate,  # type: ignore[arg-type]
            **options,
        )
        batches = iter(loader)
        _let_workers_die_quietly()
        waiting_since = time.monotonic()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return None
            except RuntimeError as error:
                if str(error).startswith("DataLoader timed out"):
                    # Budget for a whole batch: its recordings are read one after another.
                    if time.monotonic() - waiting_since < self.timeout_s:
                        continue
                    return "timeout"
                if str(error).startswith("DataLoader worker") and "exited unexpectedly" in str(error):
                    return "worker_died"
                raise
            under_way.popleft()
            yield batch
            waiting_since = time.monotonic()

    def _in_isolation(self, plan: PlannedBatch) -> Batch:
        """Load a batch one recording at a time, each lost worker a failure of the recording it was reading."""
        items: list[Waveform | Failure] = []
        chunks = deque(plan.chunks)
        while chunks:
            singles = (replace(plan, chunks=(chunk,)) for chunk in list(chunks))
            # One at a time on its way, so that a lost worker can only have been reading that one.
            attempt = self._until_lost(singles, deque(plan for _ in chunks), workers=1, prefetch=1)
            while True:
                try:
                    single = next(attempt)
                except StopIteration as stop:
                    lost = stop.value
                    break
                chunk = chunks.popleft()
                items += single.failures or [Waveform(chunk, single.waveforms[0])]
            if lost is not None:
                chunk = chunks.popleft()
                utterance = self.recordings.manifest.utterance(chunk.row)
                message = (
                    f"reading it took longer than loader.timeout_s={self.timeout_s:g}"
                    if lost == "timeout"
                    else "the process that read it died, twice; the file may break its decoder"
                )
                items.append(Failure(utterance.id, utterance.path, "load", lost, message, attempts=2))
        return collate((plan, items))


def _noting(plan: Iterator[PlannedBatch], under_way: deque[PlannedBatch]) -> Iterator[PlannedBatch]:
    """Pass a plan on and note what has been handed to the workers."""
    for batch in plan:
        under_way.append(batch)
        yield batch


def _in_worker(stderr: Path | None, _: int) -> None:
    """A stop is the parent's to handle; a worker ends when the parent tells it or is gone."""
    if stderr is not None:
        with open(stderr, "ab") as log:
            os.dup2(log.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _let_workers_die_quietly() -> None:
    """Undo torch's SIGCHLD handler, which raises in whatever line runs when a worker dies.

    A death is found within `POLL_S` all the same, because the loader looks after its workers whenever the
    queue stays empty (torch/utils/data/dataloader.py, `_try_get_data`).
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
