"""Runs shards of a job: creates the engine, the loader and the writer, and runs the main loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import torch

from pipeline.inference.job import Computation, Job
from pipeline.inference.loader import Loader, Recordings
from pipeline.inference.loop import plan_batches, run_batches
from pipeline.inference.monitor import Listener
from pipeline.inference.writer import ShardWriter
from pipeline.models import sources
from pipeline.models.device import default_batch_seconds, default_committers, default_workers
from pipeline.models.engine import Engine, EngineSettings
from pipeline.models.sources import Loaded
from pipeline.runtime.cores import available_cores
from pipeline.runtime.signals import Stopped, deferring_stop
from pipeline.storage.manifest import Manifest


def execute(job: Job, shards: Iterable[int], device: torch.device, listener: Listener) -> list[int]:
    """Load, infer, decode, write and commit some shards of a job.

    Args:
        job: The job.
        shards: Shards to compute, in any order. The next one is taken when its first batch is planned, which is some
            batches before it is computed. A stop may interrupt the iterator while it waits.
        device: Device that the model runs on.
        listener: Called for each batch and each commit.

    Returns:
        Shards whose earlier results were kept, because an utterance with a result would have failed now.

    Raises:
        UserError: The weights are damaged, or they are not those of the run.
        RunError: More than `max_failures` utterances failed.
        Stopped: A signal has arrived. Batches that the device had started are finished, and complete shards are
            committed.
    """
    cores = job.cores or max(1, available_cores() // job.sharing)
    threads = max(1, job.threads // job.sharing) if job.threads else cores
    engine = build_engine(job.computation, device, threads, job.loaded.pop() if job.loaded else None)
    workers = default_workers(device, cores) if job.workers is None else job.workers
    log = job.directory.local_log()
    loader = build_loader(job.computation, job.manifest, engine, workers=workers, timeout_s=job.timeout_s, stderr=log)
    writer = ShardWriter(
        job.directory,
        job.manifest,
        job.tables,
        listener.committed,
        job.attempts,
        job.supplements,
        job.skipped,
        committers=default_committers(device, cores),
    )
    max_batch_s = job.max_batch_s or default_batch_seconds(device)
    listener.begin()
    try:
        planned = plan_batches(job, _with_work(job, shards, writer), max_batch_s)
        with closing(engine), closing(loader.batches(planned)) as batches, deferring_stop():
            run_batches(job, batches, engine, writer, listener)
            computed = time.monotonic()
            writer.close()
            listener.written(time.monotonic() - computed)
    except Stopped:
        with deferring_stop():
            writer.stop()
        raise
    except BaseException:
        with deferring_stop():
            writer.abort()
        raise
    return writer.kept


def _with_work(job: Job, shards: Iterable[int], writer: ShardWriter) -> Iterator[int]:
    """Yield the shards that have something to compute, and commit the tables of the others, which get no rows."""
    for shard in shards:
        if job.has_work(shard):
            yield shard
        else:
            writer.put(shard, [], None, [])


def build_engine(
    computation: Computation, device: torch.device, threads: int | None = None, loaded: Loaded | None = None
) -> Engine:
    """Load the model of a computation onto a device.

    Args:
        computation: The computation.
        device: The device.
        threads: Number of cores to use on a CPU; `None` for all that this process may use.
        loaded: The model, if it is loaded already. It loses its weights.

    Raises:
        UserError: The weights are damaged, or they are not those of the computation.
    """
    if loaded is None or loaded.sha256 != computation.weights_sha256:
        loaded = sources.load_model(computation.source, computation.weights_sha256)
    settings = EngineSettings(
        layers=computation.layers,
        feature_dtype=computation.feature_dtype,
        logits=computation.wants_logits,
        emission_dtype=computation.emission_dtype,
    )
    return Engine(computation.facts, loaded.model, device, computation.precision, settings, threads)


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
