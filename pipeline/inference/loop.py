"""The main loop: load, infer, decode and write each planned batch. Other threads write and commit the shards."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np

from pipeline.inference.batches import Batch
from pipeline.inference.job import Job
from pipeline.inference.monitor import Listener
from pipeline.inference.planning import plan_run
from pipeline.inference.stitching import Stitcher
from pipeline.inference.transcription import Transcription
from pipeline.inference.writer import ShardWriter
from pipeline.models.engine import Engine, Started
from pipeline.records import Chunk, Failure, PlannedBatch, Rejected
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.metrics import BatchMetrics
from pipeline.runtime.signals import Stopped, allowing_stop
from pipeline.storage.manifest import Manifest

LOG = logging.getLogger("pipeline")


def plan_batches(job: Job, shards: Iterable[int], max_batch_s: float) -> Iterator[PlannedBatch]:
    """Plan the batches of some shards, one shard after another. A batch is planned when it is requested.

    Args:
        job: The job.
        shards: The shards, in order. A shard is taken when its first batch is requested.
        max_batch_s: Maximum of padded seconds in a batch.
    """
    sample_rate = job.computation.facts.sample_rate
    return plan_run(
        shards,
        job.manifest.shard_of_row,
        job.manifest.num_samples_at(sample_rate),
        int(max_batch_s * sample_rate),
        job.computation.chunking,
        job.skipped,
    )


def run_batches(job: Job, batches: Iterator[Batch], engine: Engine, writer: ShardWriter, listener: Listener) -> None:
    """Run each batch through the model and the decoder, and pass the results to the writer.

    Raises:
        RunError: More than `max_failures` utterances have failed.
        Stopped: A signal has arrived. The batches that the device had begun are finished.
    """
    results = _Results(job, writer, listener)
    for begun in compute_in_order(batches, engine):
        results.take(begun)


@dataclass(frozen=True)
class Begun:
    """A batch that the device has begun to compute.

    Attributes:
        batch: The batch.
        computation: The computation of the batch.
        load_s: Seconds that the loop waited for the loader.
    """

    batch: Batch
    computation: Future[Started]
    load_s: float


def compute_in_order(batches: Iterator[Batch], engine: Engine) -> Iterator[Begun]:
    """Compute batches on the device, and yield them in their order.

    The device computes later batches while the caller takes the results of a batch. A signal drops the batches that the
    device has not begun, and the other batches are still yielded.

    Raises:
        Stopped: A signal has arrived.
    """
    begun: deque[Begun] = deque()
    try:
        while (loaded := _next(batches)) is not None:
            batch, load_s = loaded
            failpoint("forward", batch.plan.shard)
            begun.append(Begun(batch, engine.start(batch.chunks, batch.waveforms, batch.lengths), load_s))
            while len(begun) > engine.ahead:
                yield _first(begun)
        while begun:
            yield _first(begun)
    except Stopped:
        while begun and begun[-1].computation.cancel():
            begun.pop()
        yield from begun
        raise


def _next(batches: Iterator[Batch]) -> tuple[Batch, float] | None:
    """Wait for the next batch, and return it with the seconds that this took."""
    asked = time.monotonic()
    with allowing_stop():
        batch = next(batches, None)
    return None if batch is None else (batch, time.monotonic() - asked)


def _first(begun: deque[Begun]) -> Begun:
    """Wait for the first batch to be computed, and take it."""
    with allowing_stop():
        wait([begun[0].computation])
    return begun.popleft()


class _Results:
    """Processes the results of a batch: stitches, decodes, and passes them to the writer."""

    def __init__(self, job: Job, writer: ShardWriter, listener: Listener) -> None:
        self._job = job
        self._writer = writer
        self._listener = listener
        self._stitcher = Stitcher()
        self._reached_s = 0.0
        """Where in its utterance the last chunk ended."""
        decoder = job.computation.decoder
        self._duration_s = np.nan_to_num(job.manifest.duration_s)
        start_s = np.nan_to_num(np.asarray(job.manifest.column("start_s").to_numpy(), dtype=np.float64))
        self._transcription = None if decoder is None else Transcription(decoder, lambda row: float(start_s[row]))

    def take(self, begun: Begun) -> None:
        """Wait for the results of a batch, and process them.

        Raises:
            RunError: More than `max_failures` utterances have failed.
        """
        batch, started = begun.batch, begun.computation.result()
        emissions, rejected = started.results()
        failpoint("forwarded", batch.plan.shard)
        self._warn_of_split_chunks(started)
        pieces, lost = self._stitcher.take(emissions, [*batch.rejected, *rejected])
        transcribed = None if self._transcription is None else self._transcription.take(pieces, lost)
        failures = [_failure(self._job.manifest, item) for item in lost]
        decoded = time.monotonic()
        self._writer.put(batch.plan.shard, pieces, transcribed, failures)
        self._report(begun, started, failures, write_s=time.monotonic() - decoded)

    def _warn_of_split_chunks(self, started: Started) -> None:
        for row in started.cut:
            LOG.warning(
                "%r: a chunk did not fit into the memory of the device and was run as two halves; "
                "set a smaller chunk.seconds= so that all recordings are cut in the same way",
                self._job.manifest.utterance(row).id,
            )

    def _report(self, begun: Begun, started: Started, failures: Sequence[Failure], write_s: float) -> None:
        """Report a batch. The loop waited `write_s` seconds for the writer."""
        batch = begun.batch
        idle_s = begun.load_s if started.idle_s is None else started.idle_s
        sample_rate = self._job.computation.facts.sample_rate
        self._listener.batch(
            BatchMetrics(
                batch=batch.plan.index,
                shard=batch.plan.shard,
                size=len(batch.chunks),
                failed=len(failures),
                padded_s=batch.waveforms.numel() / sample_rate,
                valid_s=int(batch.lengths.sum()) / sample_rate,
                load_s=min(begun.load_s, idle_s),  # waiting costs nothing while the device works
                forward_s=started.busy_s,
                write_s=write_s,
                idle_s=idle_s,
            ),
            sum(map(self._own_s, batch.plan.chunks)),
            failures,
        )

    def _own_s(self, chunk: Chunk) -> float:
        """Return the seconds of a chunk, without those that it shares with the chunk before, which came just before."""
        if chunk.whole:
            return float(self._duration_s[chunk.row])
        begin_s = self._reached_s if chunk.start else 0.0
        self._reached_s = (chunk.start + chunk.num_samples) / self._job.computation.facts.sample_rate
        return self._reached_s - begin_s


def _failure(manifest: Manifest, item: Rejected) -> Failure:
    utterance = manifest.utterance(item.chunk.row)
    return Failure(utterance.id, utterance.path, item.stage, item.error, item.message, item.attempts)
