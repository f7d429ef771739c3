"""Runs shards of a job: creates the engine, the loader and the writer, and runs the main loop."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch

from pipeline.inference.job import Computation, Job
from pipeline.inference.loader import Loader, Recordings
from pipeline.inference.loop import plan_batches, run_batches
from pipeline.inference.writer import ShardWriter
from pipeline.models import sources
from pipeline.models.device import default_batch_seconds, default_committers, default_workers
from pipeline.models.engine import Engine, EngineSettings
from pipeline.runtime.progress import RunProgress
from pipeline.runtime.signals import Stopped, deferring_stop
from pipeline.storage.commits import CommitRecord
from pipeline.storage.manifest import Manifest

LOG = logging.getLogger("pipeline")


def execute(job: Job, shards: Sequence[int], device: torch.device, progress: RunProgress) -> list[int]:
    """Load, infer, decode, write and commit some shards of a job.

    Args:
        job: The job.
        shards: Shards to compute, ascending.
        device: Device that the model runs on.
        progress: Called for each batch and each commit.

    Returns:
        Shards whose earlier results were kept, because an utterance with a result would have failed now.

    Raises:
        UserError: The weights are damaged, or they are not those of the run.
        RunError: More than `max_failures` utterances failed.
        Stopped: A signal has arrived. Batches that the device had started are finished, and complete shards are
            committed.
    """
    engine = build_engine(job.computation, device, job.threads)
    workers = default_workers(device) if job.workers is None else job.workers
    log = job.directory.local_log()
    loader = build_loader(job.computation, job.manifest, engine, workers=workers, timeout_s=job.timeout_s, stderr=log)
    writer = ShardWriter(
        job.directory,
        job.manifest,
        job.tables,
        _log_commit(progress),
        job.attempts,
        job.supplements,
        job.skipped,
        committers=default_committers(device),
    )
    max_batch_s = job.max_batch_s or default_batch_seconds(device)
    progress.begin()
    gc.freeze()  # the garbage collector need not search the imported modules again, here or in the loading processes
    try:
        planned = plan_batches(job, shards, max_batch_s)
        with closing(engine), closing(loader.batches(planned)) as batches, deferring_stop():
            for shard in job.without_work(shards):
                writer.put(shard, [], None, [])  # commits tables without rows
            run_batches(job, batches, engine, writer, progress)
            computed = time.monotonic()
            writer.close()
            progress.written(time.monotonic() - computed)
    except Stopped:
        with deferring_stop():
            writer.stop()
        raise
    except BaseException:
        with deferring_stop():
            writer.abort()
        raise
    finally:
        gc.unfreeze()
    return writer.kept


def build_engine(computation: Computation, device: torch.device, threads: int | None = None) -> Engine:
    """Load the model of a computation onto a device.

    Args:
        computation: The computation.
        device: The device.
        threads: Number of cores to use on a CPU; `None` for all that this process may use.

    Raises:
        UserError: The weights are damaged, or they are not those of the computation.
    """
    model, _ = sources.load_model(computation.source, computation.weights_sha256)
    settings = EngineSettings(
        layers=computation.layers,
        feature_dtype=computation.feature_dtype,
        logits=computation.wants_logits,
        emission_dtype=computation.emission_dtype,
    )
    return Engine(computation.facts, model, device, computation.precision, settings, threads)


def build_loader(
    computation: Computation,
    manifest: Manifest,
    engine: Engine,
    *,
    workers: int,
    timeout_s: float,
    stderr: Path,
) -> Loader:
    """Create the loader of a computation.

    Args:
        computation: The computation.
        manifest: The manifest of the run.
        engine: The engine that computes the batches.
        workers: Number of loading processes; 0 loads in this process.
        timeout_s: Seconds after which loading a recording is a failure.
        stderr: File for messages that audio libraries write to stderr.
    """
    facts = computation.facts
    return Loader(
        Recordings(
            manifest, facts.sample_rate, facts.min_samples, computation.channels, computation.chunking.max_samples
        ),
        workers=workers,
        timeout_s=timeout_s,
        pin_memory=engine.device.type == "cuda",
        before_fork=engine.finish,
        stderr=stderr,
    )


def _log_commit(progress: RunProgress) -> Callable[[CommitRecord], None]:
    def log(record: CommitRecord) -> None:
        progress.shard_committed()
        LOG.info("committed shard %d: %d utterances, %d failures", record.shard, record.utterances, record.num_failures)

    return log
