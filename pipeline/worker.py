"""The loop: for each planned batch load, infer, decode, write; the writer commits each shard beside it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.decoding import GreedyDecoder
from pipeline.errors import RunError
from pipeline.loader import Batch, Loader
from pipeline.manifest import Manifest
from pipeline.model.engine import Engine
from pipeline.planning import Chunking, plan_run
from pipeline.progress import BatchMetrics, RunProgress
from pipeline.records import Chunk, Failure, Rejected
from pipeline.stitching import Stitcher
from pipeline.writer import ShardWriter


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
    """
    failures_so_far = job.failures_before
    start_s = np.nan_to_num(np.asarray(job.manifest.table["start_s"].to_numpy(), dtype=np.float64))
    stitcher = Stitcher(decoder, lambda row: float(start_s[row]))
    while True:
        started = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        loaded = time.monotonic()
        emissions, rejected = engine.run(batch.chunks, batch.waveforms, batch.lengths)
        emissions, transcripts, rejected = stitcher.take(emissions, [*batch.rejected, *rejected])
        failures = [_failure(job.manifest, item) for item in rejected]
        computed = time.monotonic()
        writer.put(batch.plan.shard, emissions, transcripts, failures)
        written = time.monotonic()
        progress.batch(
            BatchMetrics(
                batch=batch.plan.index,
                shard=batch.plan.shard,
                size=len(batch.chunks),
                failed=len(failures),
                padded_s=batch.waveforms.numel() / job.sample_rate,
                valid_s=int(batch.lengths.sum()) / job.sample_rate,
                load_s=loaded - started,
                forward_s=computed - loaded,
                write_s=written - computed,
            ),
            covered_s=sum(_own_s(job, chunk) for chunk in batch.plan.chunks),
        )
        failures_so_far += len(failures)
        if job.max_failures is not None and failures_so_far > job.max_failures:
            last = failures[-1]
            raise RunError(
                f"{failures_so_far} utterances have failed, more than max_failures={job.max_failures}; "
                f"the last one is {last.id!r}: {last.error}, {last.message}"
            )


def _own_s(job: Job, chunk: Chunk) -> float:
    """Seconds of the recording that a chunk answers for: without what it shares with the next."""
    if chunk.whole:
        return float(np.nan_to_num(job.manifest.duration_s[chunk.row]))
    shared = 0 if chunk.last else 2 * chunk.context * job.chunking.stride
    return (chunk.num_samples - shared) / job.sample_rate


def _failure(manifest: Manifest, item: Rejected) -> Failure:
    utterance = manifest.utterance(item.chunk.row)
    return Failure(utterance.id, utterance.path, item.stage, item.error, item.message, item.attempts)
