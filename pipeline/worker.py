"""The loop: for each planned batch load, infer, decode, write; the writer commits each shard beside it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import RunError
from pipeline.loader import Batch, Loader
from pipeline.manifest import Manifest
from pipeline.model.engine import Engine, Rejected
from pipeline.planning import plan_run
from pipeline.progress import BatchMetrics, RunProgress
from pipeline.records import Failure
from pipeline.writer import ShardWriter


@dataclass(frozen=True)
class Job:
    """The shards to do and the limits to keep.

    Attributes:
        manifest: What there is.
        shards: Shards to do, ascending.
        sample_rate: The model's, in Hz.
        max_batch_s: Budget of padded seconds in a batch.
        max_failures: Stop beyond this many failures; `None` for never.
        failures_before: Failures in shards that are committed already.
    """

    manifest: Manifest
    shards: Sequence[int]
    sample_rate: int
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
    )
    return loader.batches(plan)


def run_batches(job: Job, batches: Iterator[Batch], engine: Engine, writer: ShardWriter, progress: RunProgress) -> None:
    """Run every batch through the model and hand the results to the writer.

    Raises:
        RunError: More than `max_failures` utterances have failed.
    """
    failures_so_far = job.failures_before
    start_s = np.nan_to_num(np.asarray(job.manifest.table["start_s"].to_numpy(), dtype=np.float64))
    while True:
        started = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        loaded = time.monotonic()
        rows = list(batch.rows)
        emissions, rejected = engine.run(rows, batch.waveforms, batch.lengths, start_s[rows].tolist())
        failures = [*batch.failures, *(_failure(job.manifest, item) for item in rejected)]
        computed = time.monotonic()
        writer.put(batch.plan.shard, emissions, failures)
        written = time.monotonic()
        planned = np.asarray([chunk.row for chunk in batch.plan.chunks])
        progress.batch(
            BatchMetrics(
                batch=batch.plan.index,
                shard=batch.plan.shard,
                size=len(rows),
                failed=len(failures),
                padded_s=batch.waveforms.numel() / job.sample_rate,
                valid_s=int(batch.lengths.sum()) / job.sample_rate,
                load_s=loaded - started,
                forward_s=computed - loaded,
                write_s=written - computed,
            ),
            covered_s=float(np.nansum(job.manifest.duration_s[planned])),
        )
        failures_so_far += len(failures)
        if job.max_failures is not None and failures_so_far > job.max_failures:
            last = failures[-1]
            raise RunError(
                f"{failures_so_far} utterances have failed, more than max_failures={job.max_failures}; "
                f"the last one is {last.id!r}: {last.error}, {last.message}"
            )


def _failure(manifest: Manifest, rejected: Rejected) -> Failure:
    utterance = manifest.utterance(rejected.row)
    return Failure(utterance.id, utterance.path, "model", rejected.error, rejected.message)
