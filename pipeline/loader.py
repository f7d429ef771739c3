"""`DataLoader` over planned batches: decode, resample, collate with padding, across shard boundaries.

One bad file is `Rejected`; nothing is dropped and nothing raises for a file. A worker process that dies
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

from pipeline.audio import AudioError, read_header
from pipeline.manifest import Manifest
from pipeline.rates import resampled_length
from pipeline.records import AudioHeader, Chunk, PlannedBatch, Rejected, Stage, Utterance
from pipeline.resampling import resample, resample_window, source_window
from pipeline.waveforms import Extent, WaveformReader

Lost = Literal["timeout", "worker_died"]

POLL_S = 2.0
"""How often a silent worker is looked at: what a signal or a death may wait."""


@dataclass(frozen=True)
class Waveform:
    """One chunk: `(samples,)` float32 at the model's rate."""

    chunk: Chunk
    samples: Tensor


@dataclass(frozen=True)
class Batch:
    """A padded batch and where it came from.

    Attributes:
        plan: The planned batch.
        chunks: What each waveform is; chunks that failed are not among them.
        waveforms: `(batch, samples)` float32, zero beyond each length; `(0, 0)` where every chunk failed.
        lengths: `(batch,)` int64: valid samples.
        rejected: The planned chunks that could not be loaded.
    """

    plan: PlannedBatch
    chunks: tuple[Chunk, ...]
    waveforms: Tensor
    lengths: Tensor
    rejected: tuple[Rejected, ...]

    def pin_memory(self) -> Batch:
        """Called by `DataLoader`, so that the copy to the device need not wait."""
        return replace(self, waveforms=self.waveforms.pin_memory())


class Recordings(Dataset["Loaded"]):
    """Planned batches to waveforms or failures, one each; holds Arrow columns, not Python objects."""

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        min_samples: int,
        channels: str = "mix",
        max_samples: int | None = None,
    ) -> None:
        """Say what to load.

        Args:
            manifest: The recordings.
            sample_rate: Hz of the waveforms.
            min_samples: Fewer are a failure.
            channels: `first`, or `mix` to average them; where a row names its channel, that one is read.
            max_samples: A longer recording should have been cut, had its length been known.
        """
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.min_samples = min_samples
        self.channels = channels
        self.max_samples = max_samples
        self._reader = WaveformReader()  # each process that loads has its own

    def __getitem__(self, plan: PlannedBatch) -> Loaded:
        """Load one planned batch."""
        return plan, [self.load(chunk) for chunk in plan.chunks]

    def load(self, chunk: Chunk) -> Waveform | Rejected:
        """Load one chunk: mono, at the model's rate."""
        utterance = self.manifest.utterance(chunk.row)
        extent = Extent(
            utterance.path,
            utterance.start_s,
            utterance.end_s,
            utterance.channel or (1 if self.channels == "first" else None),
            self.manifest.file_size(chunk.row),
        )
        stage: Stage = "load"
        try:
            if chunk.num_samples == 0:
                stage = "manifest"
                self._refuse_other_plan(utterance, read_header(utterance.path))
            stage = "load"
            if chunk.whole:
                samples, rate = self._reader.read(extent)
                waveform = resample(torch.from_numpy(samples), rate, self.sample_rate)
            else:
                waveform = self._load_window(extent, chunk)
            if len(waveform) < self.min_samples:
                raise AudioError(
                    "too_short",
                    f"{len(waveform)} samples at {self.sample_rate} Hz; the model needs {self.min_samples} "
                    f"({1000 * self.min_samples / self.sample_rate:.0f} ms) for one frame",
                )
        except AudioError as error:
            return Rejected(chunk, stage, error.error, error.message)
        except MemoryError:
            return Rejected(chunk, stage, "out_of_memory", "too long to be held in memory")
        return Waveform(chunk, waveform)

    def _refuse_other_plan(self, utterance: Utterance, header: AudioHeader) -> None:
        """Refuse a recording that could not be read when the manifest was made, if it would now be other work.

        Installing the extra for its format is enough for that. Cut or told apart by channel it would have been, had
        it been readable; run differently it would have other results here than in a run of its own.
        """
        end_s = header.duration_s if utterance.end_s is None else min(utterance.end_s, header.duration_s)
        num_samples = (end_s - (utterance.start_s or 0.0)) * self.sample_rate
        too_long = self.max_samples is not None and num_samples > self.max_samples
        several = self.channels == "each" and utterance.channel is None
        if too_long or several:
            reason = "longer than chunk.seconds" if too_long else "to be told apart by channel"
            raise AudioError(
                "changed",
                f"it could not be read when the manifest was made, and is {reason}; start another run with run_dir=...",
            )

    def _load_window(self, extent: Extent, chunk: Chunk) -> Tensor:
        """Read what the chunk is computed from, and no more; what resampling the whole would give there."""
        rate, num_samples = self.manifest.measured(chunk.row)
        stop = chunk.start + chunk.num_samples
        first, last = source_window(chunk.start, stop, rate, self.sample_rate)
        samples, found = self._reader.read(extent, (first, None if chunk.last else last))
        if found != rate:
            raise AudioError("changed", f"{found} Hz, {rate} when the manifest was made")
        if chunk.last and first + len(samples) < num_samples:
            stop = resampled_length(first + len(samples), rate, self.sample_rate)
        return resample_window(torch.from_numpy(samples), first, chunk.start, stop, rate, self.sample_rate)


Loaded = tuple[PlannedBatch, Sequence[Waveform | Rejected]]
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
        chunks=tuple(item.chunk for item in loaded),
        waveforms=waveforms,
        lengths=lengths,
        rejected=tuple(item for item in items if isinstance(item, Rejected)),
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
        self._failed: set[int] = set()

    def batches(self, plan: Iterable[PlannedBatch]) -> Generator[Batch, None, None]:
        """Load the planned batches, but for later chunks of an utterance that has failed."""
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
            self._note_failed(batch)
            yield replace(batch, plan=under_way.popleft())
            waiting_since = time.monotonic()

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
                    lost = stop.value
                    break
                chunk = chunks.popleft()
                items += single.rejected or [Waveform(chunk, single.waveforms[0])]
            if lost is not None:
                chunk = chunks.popleft()
                message = (
                    f"reading it took longer than loader.timeout_s={self.timeout_s:g}"
                    if lost == "timeout"
                    else "the process that read it died, twice; the file may break its decoder"
                )
                items.append(Rejected(chunk, "load", lost, message, attempts=2))
                chunks = deque(other for other in chunks if other.row != chunk.row)
        batch = collate((plan, items))
        self._note_failed(batch)
        return batch


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
