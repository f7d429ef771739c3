"""Stage `infer`: model and weights, what is left to do, and everything the worker's loop needs.

The only stage that imports torch; `pipeline.run` imports it when it comes to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.config.run_config import RunConfig
from pipeline.decoding.greedy import GreedyDecoder
from pipeline.inference.loader import Loader, Recordings
from pipeline.inference.loop import Job, load_batches, run_batches
from pipeline.inference.planning import Chunking
from pipeline.inference.shard_tables import TableSettings
from pipeline.inference.writer import ShardWriter
from pipeline.models.catalog import weights_path
from pipeline.models.engine import (
    Engine,
    EngineSettings,
    default_batch_seconds,
    default_committers,
    default_workers,
    resolve_device,
    resolve_precision,
)
from pipeline.models.weights import load_model
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.progress import RunProgress, format_duration
from pipeline.runtime.signals import Stopped, deferring_stop
from pipeline.stages import identity
from pipeline.stages import resume as refusals
from pipeline.stages.disk import check_disk, estimate_bytes, format_bytes
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import CommitRecord, encode_checked, fingerprint
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory

LOG = logging.getLogger("pipeline")


def infer(
    config: RunConfig, directory: RunDirectory, manifest: Manifest, console: Console, say: Callable[[str], None]
) -> str:
    """Load, infer, decode, write and commit whatever is not committed.

    Args:
        config: The configuration.
        directory: The run, locked.
        manifest: Its manifest.
        console: For the live view.
        say: Tells the person and the log one line.

    Returns:
        The speed in words.

    Raises:
        UserError: No such device, no weights, other settings than the run's, or too small a disk.
        RunError: More failures than allowed.
    """
    settings, facts = config.settings, config.model
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    model, sha256 = load_model(facts, settings.model.sha256)
    now = identity.describe(config, manifest.digest, precision, sha256)
    mark = fingerprint(now)
    recorded = directory.read_run_json()
    if directory.has_commits():
        if recorded is not None:
            refusals.refuse_differences(config, recorded, now)
        elif directory.committed_otherwise(mark):
            refusals.refuse(directory.root, [f"run.json: lost there; fingerprint: another there, {mark} now"])
    elif recorded is not None and recorded["fingerprint"] != mark:
        directory.remove_uncommitted()

    done = directory.committed(mark)
    attempts = _attempts_to_retry(directory, done) if settings.retry_failed else None
    pending = [shard for shard in range(manifest.num_shards) if shard not in done]
    todo = np.isin(manifest.shard_of_row, pending)
    size = estimate_bytes(config, manifest, todo)
    check_disk(directory.root, size)
    failpoint("run-json")
    directory.write_bytes(directory.run_json_path, _run_json(config, directory, now, sha256))
    failpoint("run-json-written")
    directory.write_bytes(directory.config_path, config.yaml.encode())
    directory.remove_scores()
    say(
        f"{facts.name} on {device} in {precision}, {len(pending)} of {manifest.num_shards} shards to do, "
        f"tables of about {format_bytes(size.total)}"
    )

    engine = Engine(
        facts,
        model,
        device,
        precision,
        EngineSettings(
            layers=config.layers,
            feature_dtype=settings.features.dtype,
            logits="emissions" in settings.outputs,
        ),
    )
    del model  # what the engine needs of it, it has
    job = Job(
        manifest=manifest,
        shards=pending,
        sample_rate=facts.sample_rate,
        chunking=_chunking(config),
        max_batch_s=settings.batch.max_seconds or default_batch_seconds(device),
        max_failures=settings.max_failures,
        failures_before=sum(record.num_failures for record in done.values()),
    )
    loader = Loader(
        Recordings(manifest, facts.sample_rate, facts.min_samples, settings.channels, job.chunking.max_samples),
        workers=default_workers(device) if settings.loader.workers is None else settings.loader.workers,
        timeout_s=settings.loader.timeout_s,
        pin_memory=device.type == "cuda",
        stderr=directory.log_path,
    )
    progress = RunProgress(
        console,
        directory.metrics_path,
        total_s=float(np.nansum(manifest.duration_s)),
        done_s=float(np.nansum(manifest.duration_s[~todo])),
        total_shards=manifest.num_shards,
        done_shards=len(done),
        failures=job.failures_before,
    )
    decoder = None
    if "transcripts" in settings.outputs:
        decoder = GreedyDecoder(facts.labels, facts.blank, facts.seconds_per_frame)
    writer = ShardWriter(
        directory,
        manifest,
        _table_settings(config, mark),
        _log_commit(progress),
        attempts,
        committers=default_committers(device),
    )
    try:
        with progress, closing(load_batches(job, loader)) as batches, deferring_stop():
            run_batches(job, batches, engine, decoder, writer, progress)
            writer.close()
    except Stopped:
        with deferring_stop():
            writer.stop()
        raise
    except BaseException:
        with deferring_stop():
            writer.abort()
        raise
    if writer.kept:
        say(
            f"{len(writer.kept)} shards were kept as they were: utterances that had a result would have failed now "
            f"(shards {', '.join(map(str, writer.kept[:10]))})"
        )
    return f", {progress.real_time:.1f} x real time, in {format_duration(progress.elapsed_s)}"


def _chunking(config: RunConfig) -> Chunking:
    facts, chunk = config.model, config.settings.chunk
    return Chunking.of_seconds(
        chunk.seconds,
        chunk.context_seconds,
        sample_rate=facts.sample_rate,
        stride=facts.stride,
        receptive_field=facts.min_samples,
    )


def _run_json(config: RunConfig, directory: RunDirectory, now: dict[str, Any], sha256: str) -> bytes:
    content = {
        "fingerprint": fingerprint(now),
        "identity": now,
        "weights": identity.weights_record(weights_path(config.model), sha256),
        manifests.FILE_KEY: manifests.file_record(directory.manifest_path),
        "versions": identity.versions(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return encode_checked(content)


def _attempts_to_retry(directory: RunDirectory, done: dict[int, CommitRecord]) -> dict[int, dict[str, int]]:
    """Take shards that hold failures out of `done`; return, by shard, how often each failure has been tried."""
    attempts = {}
    for shard in [shard for shard, record in done.items() if record.num_failures]:
        record = done.pop(shard)
        table = pq.read_table(directory.root / record.files["failures"].path, columns=["id", "attempts"])
        attempts[shard] = dict(zip(table["id"].to_pylist(), table["attempts"].to_pylist(), strict=True))
    return attempts


def _table_settings(config: RunConfig, mark: str) -> TableSettings:
    facts = config.model
    return TableSettings(
        outputs=tuple(config.settings.outputs),
        layers=config.layers,
        feature_dtype=config.settings.features.dtype,
        emission_dtype=config.settings.emissions.dtype,
        num_labels=len(facts.labels),
        dim=facts.dim,
        metadata={
            "model": facts.name,
            "labels": list(facts.labels),
            "blank": facts.blank,
            "values": facts.values,
            "seconds_per_frame": facts.seconds_per_frame,
            "sample_rate": facts.sample_rate,
        },
        fingerprint=mark,
    )


def _log_commit(progress: RunProgress) -> Callable[[CommitRecord], None]:
    def log(record: CommitRecord) -> None:
        progress.shard_committed()
        LOG.info("committed shard %d: %d utterances, %d failures", record.shard, record.utterances, record.num_failures)

    return log
