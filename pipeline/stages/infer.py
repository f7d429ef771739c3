"""Stage `infer`: find the pending shards, refuse to mix results of different work, and start an executor.

Only this stage imports torch. `pipeline.run` imports this module when the stage starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import torch
from rich.console import Console

from pipeline.config.groups import EXECUTORS
from pipeline.config.run_config import RunConfig
from pipeline.executors import Executor
from pipeline.inference.job import Computation, Job
from pipeline.inference.shard_tables import TableSettings
from pipeline.models.device import resolve_device, resolve_precision
from pipeline.models.sources import ModelSource, load_model
from pipeline.runtime.errors import RunError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.terminal import counted
from pipeline.stages import identity as identities
from pipeline.stages.disk import check_disk, estimate_bytes, format_bytes
from pipeline.stages.resume import refusal, refuse_differences
from pipeline.storage.commits import CommitRecord
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import COMMITS, CONFIG, MANIFEST, RUN_JSON, RunDirectory
from pipeline.storage.run_record import Identity, RunRecord


def infer(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    console: Console,
    say: Callable[[str], None],
) -> str:
    """Load, infer, decode, write and commit each shard that is not committed.

    Args:
        config: The configuration.
        directory: The run, locked by this process.
        manifest: The manifest of the run.
        console: Console of the live view.
        say: Prints and logs a line.

    Returns:
        The speed in words.

    Raises:
        UserError: The device or the weights do not exist, the settings differ from those of the run, or the disk is
            too small.
        RunError: More than `max_failures` utterances failed, or committed files were removed meanwhile.
    """
    job = prepare(config, directory, manifest, say)
    executor: Executor = EXECUTORS.load(config.settings.executor.name).Executor(config.settings.executor)
    speed = executor.run(job, console, say)
    _require_all_shards(job)
    return speed


def _require_all_shards(job: Job) -> None:
    """Check that every shard is committed: somebody may have removed or changed files during the run."""
    missing = sorted({*range(job.manifest.num_shards)} - {*job.directory.committed(job.tables.fingerprint)})
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise RunError(
            f"run_dir={job.directory.root}: files of {len(missing)} shards were removed or changed during the run "
            f"(shards {shown}); the same command computes these shards again"
        )


def check_weights(source: ModelSource) -> None:
    """Fetch the weights and refuse those that cannot be used, before a new run reads a recording or writes anything.

    The model is dropped again: building it takes a fraction of a second, because the file is mapped into memory.

    Raises:
        UserError: The file cannot be fetched, is damaged, fits another model, or has another SHA-256.
    """
    load_model(source)


def prepare(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    say: Callable[[str], None],
) -> Job:
    """Create the job of a run: compare identities, find the pending shards and check the free disk space.

    This writes `run.json` and `config.yaml`, before any shard is committed.

    Raises:
        UserError: As `infer`.
    """
    settings = config.settings
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    sha256 = config.source.fetch()
    recorded = directory.read_record() if directory.has_results() else None
    begun = None if recorded is None else recorded.identity
    identity = identities.describe(config, manifest.digest, precision, sha256, begun)
    older = replace(identity, audio_digests=False)
    if recorded is None and directory.committed(older.fingerprint):  # an earlier release began the run
        identity = older
    _refuse_other_work(config, directory, identity)
    done = directory.committed(identity.fingerprint)
    for name in directory.unusable_records(done):
        say(f"{name}: cannot be used, so its shard counts as not done; python -m pipeline.verify says why")
    attempts = _attempts_to_retry(directory, done) if settings.retry_failed else {}
    pending = tuple(shard for shard in range(manifest.num_shards) if shard not in done)
    size = estimate_bytes(config, manifest, np.isin(manifest.shard_of_row, pending))
    check_disk(directory, size)
    _write_record(config, directory, manifest, identity, device)
    say(
        f"{config.model.name} on {device} in {precision}, "
        f"{len(pending):,} of {counted(manifest.num_shards, 'shard')} to do, tables of about {format_bytes(size.total)}"
    )
    return Job(
        directory=directory,
        manifest=manifest,
        computation=Computation.of(identity, config.source),
        tables=_table_settings(config, identity),
        pending=pending,
        done=done,
        attempts=attempts,
        device=str(device),
        threads=settings.threads,
        max_batch_s=settings.batch.max_seconds,
        workers=settings.loader.workers,
        timeout_s=settings.loader.timeout_s,
        max_failures=settings.max_failures,
    )


def _refuse_other_work(config: RunConfig, directory: RunDirectory, identity: Identity) -> None:
    """Refuse to mix results of another identity with those of this one. Remove other work without results."""
    recorded = directory.read_record()
    if directory.has_results():
        if recorded is not None:
            refuse_differences(config, recorded, identity)
        elif directory.committed_otherwise(identity.fingerprint):
            difference = f"{RUN_JSON}: lost; fingerprint: another one in {COMMITS}/, {identity.fingerprint} now"
            raise refusal(directory.root, [difference])
    elif recorded is None or recorded.fingerprint != identity.fingerprint:
        directory.discard()


def _write_record(
    config: RunConfig, directory: RunDirectory, manifest: Manifest, identity: Identity, device: torch.device
) -> None:
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    record = RunRecord(
        identity=identity,
        weights=identities.weights_file(config.source.weights_path, identity.weights_sha256),
        manifest_file=directory.file_record(MANIFEST),
        versions=identities.versions(),
        device=f"{device}{name}",
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        manifests=(manifest.chain,) if manifest.chain else (),
    )
    failpoint("run-json")
    directory.write(RUN_JSON, record.encode())
    failpoint("run-json-written")
    directory.write(CONFIG, config.yaml.encode())
    directory.remove_scores()


def _attempts_to_retry(directory: RunDirectory, done: dict[int, CommitRecord]) -> dict[int, dict[str, int]]:
    """Remove shards with failures from `done`. Return the attempts of each failed id, by shard."""
    attempts = {}
    for shard in [shard for shard, record in done.items() if record.num_failures]:
        del done[shard]
        table = directory.table("failures", shard).read(["id", "attempts"])
        attempts[shard] = dict(zip(table["id"].to_pylist(), table["attempts"].to_pylist(), strict=True))
    return attempts


def _table_settings(config: RunConfig, identity: Identity) -> TableSettings:
    facts = config.model
    return TableSettings(
        outputs=identity.outputs,
        layers=identity.layers,
        feature_dtype=config.settings.features.dtype,
        emission_dtype=config.settings.emissions.dtype,
        feature_layout=identity.feature_layout,
        emission_layout=identity.emission_layout,
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
        fingerprint=identity.fingerprint,
        audio_digests=identity.audio_digests,
    )
