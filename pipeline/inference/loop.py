"""The loop: for each planned batch load, infer, decode, write; the writer commits each shard beside it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.decoding.greedy import GreedyDecoder
from pipeline.decoding.stitching import Stitcher
from pipeline.inference.loader import Batch, Loader
from pipeline.inference.planning import Chunking, plan_run
from pipeline.inference.writer import ShardWriter
from pipeline.models.engine import Engine, Started
from pipeline.records import Chunk, Failure, Rejected
from pipeline.runtime.errors import RunError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.progress import BatchMetrics, RunProgress
from pipeline.runtime.signals import Stopped, allowing_stop
from pipeline.storage.manifest import Manifest

LOG = logging.getLogger("pipeline")


@dataclass(frozen=True)
class Job:
    """The shards to do and the limits to keep.

    Attributes:
        manifest: What there is.
        shards: Shards to do, ascending.
        sample_rate: The model's, in Hz.
        chunking: How long utterances are cut.
        max_batch_s: Budget of padded seconds in a batch.
        max_failures: Stop beyond this many failures; `None` for never.
        failures_before: Failures in shards that are committed already.
    """

    manifest: Manifest
    shards: Sequence[int]
    sample_rate: int
    chunking: Chunking
    max_batch_s: float
    max_failures: int | None
    failures_before: int


def load_batches(job: Job, loader: Loader) -> Generator[Batch, None, None]:
    """The batches of a job, loaded ahead and across shard boundaries."""
    plan = plan_run(
        job.shards,
        job.manifest.shard_of_row,
        job.manifest.num_samples_at(job.sample_rate),
        int(job.max_batch_s * job.sample_rate),
        job.chunking,
    )
    return loader.batches(plan)


def run_batches(
    job: Job,
    batches: Iterator[Batch],
    engine: Engine,
    decoder: GreedyDecoder | None,
    writer: ShardWriter,
    progress: RunProgress,
) -> None:
    """Run every batch through the model and the decoder, and hand the results to the writer.

    Raises:
        RunError: More than `max_failures` utterances have failed.
        Stopped: A signal asked for it; the batches that were begun are done.
    """
    failures_so_far = job.failures_before
    start_s = np.nan_to_num(np.asarray(job.manifest.table["start_s"].to_numpy(), dtype=np.float64))
    stitcher = Stitcher(decoder, lambda row: float(start_s[row]))
    under_way: deque[tuple[Batch, Started, float]] = deque()
    stopped: Stopped | None = None
    while True:
        asked = time.monotonic()
        try:
            with allowing_stop():
                batch = next(batches, None)
        except Stopped as stop:  # what the device has begun with is finished
            batch, stopped = None, stop
        if batch is not None:
            failpoint("forward", batch.plan.shard)
            loaded = time.monotonic()
            under_way.append((batch, engine.start(batch.chunks, batch.waveforms, batch.lengths), loaded - asked))
        # A GPU works on the next batch while the host sees to the one before.
        while under_way and (batch is None or len(under_way) > engine.overlaps):
            done, started, load_s = under_way.popleft()
            emissions, rejected = started.results()
            failpoint("forwarded", done.plan.shard)
            for row in started.cut:
                LOG.warning(
                    "%r: a chunk does not fit into the memory of the device and was run in halves; a smaller "
                    "chunk.seconds= would have cut it everywhere alike",
                    job.manifest.utterance(row).id,
                )
            emissions, transcripts, rejected = stitcher.take(emissions, [*done.rejected, *rejected])
            failures = [_failure(job.manifest, item) for item in rejected]
            idle_s = load_s if started.idle_s is None else started.idle_s
            computed = time.monotonic()
            writer.put(done.plan.shard, emissions, transcripts, failures)
            progress.batch(
                BatchMetrics(
                    batch=done.plan.index,
                    shard=done.plan.shard,
                    size=len(done.chunks),
                    failed=len(failures),
                    padded_s=done.waveforms.numel() / job.sample_rate,
                    valid_s=int(done.lengths.sum()) / job.sample_rate,
                    load_s=min(load_s, idle_s),  # waiting while the device works costs nothing
                    forward_s=started.busy_s,
                    write_s=time.monotonic() - computed,
                    idle_s=idle_s,
                ),
                covered_s=sum(_own_s(job, chunk) for chunk in done.plan.chunks),
            )
            failures_so_far += len(failures)
            if failures and job.max_failures is not None and failures_so_far > job.max_failures:
                last = failures[-1]
                raise RunError(
                    f"{failures_so_far} utterances have failed, more than max_failures={job.max_failures}; "
                    f"the last one is {last.id!r}: {last.error}, {last.message}"
                )
        if stopped is not None:
            raise stopped
        if batch is None:
            return


def _own_s(job: Job, chunk: Chunk) -> float:
    """Seconds of the recording that a chunk answers for: without what it shares with the next."""
    if chunk.whole:
        return float(np.nan_to_num(job.manifest.duration_s[chunk.row]))
    shared = 0 if chunk.last else 2 * chunk.context * job.chunking.stride
    return (chunk.num_samples - shared) / job.sample_rate


def _failure(manifest: Manifest, item: Rejected) -> Failure:
    utterance = manifest.utterance(item.chunk.row)
    return Failure(utterance.id, utterance.path, item.stage, item.error, item.message, item.attempts)
