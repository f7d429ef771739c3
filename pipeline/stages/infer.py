"""Stage `infer`: find the pending shards, refuse to mix results of different work, and start an executor.

Only this stage imports torch. `pipeline.run` imports this module when the stage starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from rich.console import Console

from pipeline.config.groups import EXECUTORS
from pipeline.config.run_config import RunConfig
from pipeline.executors import Executor
from pipeline.inference.job import Computation, Job
from pipeline.inference.shard_tables import TableSettings
from pipeline.inference.textfile import RunTextfile
from pipeline.models.device import resolve_devices, resolve_precision
from pipeline.models.facts import ModelFacts
from pipeline.models.sources import ModelSource, load_model
from pipeline.runtime.errors import RunError
from pipeline.runtime.failpoints import failpoint
from pipeline.stages import identity as identities
from pipeline.stages.disk import check_disk, estimate_bytes, format_bytes
from pipeline.stages.passes import plan_passes
from pipeline.stages.resume import continue_passes
from pipeline.storage.commits import CommitRecord, CommittedShard
from pipeline.storage.identity import Identity
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import CONFIG, MANIFEST, RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord


def infer(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    console: Console,
    say: Callable[[str], None],
    textfile: RunTextfile,
) -> str:
    """Load, infer, decode, write and commit what is left to compute in each shard.

    Args:
        config: The configuration.
        directory: The run, locked by this process.
        manifest: The manifest of the run.
        console: Console of the live view.
        say: Prints and logs a line.
        textfile: The figures of the run for Prometheus.

    Returns:
        The speed in words; an empty string if nothing was left to compute.

    Raises:
        UserError: The device or the weights do not exist, the settings differ from those of the run, or the disk is
            too small.
        RunError: More than `max_failures` utterances failed, or committed files were removed meanwhile.
    """
    executor: Executor = EXECUTORS.load(config.settings.executor.name).Executor(config.settings.executor)
    speed = ""
    # A shard whose retry was kept may still lack an output that is asked for now.
    for retry in (True, False) if config.settings.retry_failed else (False,):
        failures = 0
        for job in prepare(config, directory, manifest, say, retry):
            job = replace(job, failures_before=job.failures_before + failures, textfile=textfile)
            speed = executor.run(job, console, say)
            done = _require_all_shards(job)
            failures += sum(record.num_failures for record in done.values())
    return speed


def _require_all_shards(job: Job) -> dict[int, CommitRecord]:
    """Check that every shard is committed: somebody may have removed or changed files during the run.

    Returns:
        The records of the job's passes, by shard.
    """
    done = job.committed(job.pending)
    missing = [shard for shard in job.pending if shard not in done]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise RunError(
            f"run_dir={job.directory.root}: files of {len(missing)} shards were removed or changed during the run "
            f"(shards {shown}); the same command computes these shards again"
        )
    return done


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
    retry: bool,
) -> list[Job]:
    """Create the jobs of a run: compare identities, find what is left to compute and check the free disk space.

    There are several jobs if some shards need other outputs than the others. With `retry`, the passes over a shard are
    computed again from the first one that has a failure.

    This writes `run.json` and `config.yaml`, before any shard is committed.

    Raises:
        UserError: As `infer`.
    """
    settings = config.settings
    devices = resolve_devices(settings.device)
    precision = resolve_precision(settings.precision, devices[0])
    sha256 = config.source.fetch()
    describe = partial(identities.describe, config, manifest.digest, precision, sha256)
    identity, known = continue_passes(config, directory, describe)
    done = directory.committed(known)
    for name in directory.unusable_records(done):
        say(f"{name}: cannot be used, so what it committed counts as not done; python -m pipeline.verify says why")
    attempts = _attempts_to_retry(directory, done) if retry else {}
    passes = plan_passes(directory, identity, known, done, manifest.num_shards, attempts)
    shards = manifest.shard_of_row
    sizes = [
        estimate_bytes(config.model, each.identity, manifest, np.isin(shards, [*each.supplements])) for each in passes
    ]
    check_disk(directory, sizes)
    _write_record(
        config, directory, manifest, identity, devices, [*known.values(), *(each.identity for each in passes)]
    )
    where = f"{config.model.name} on {', '.join(map(str, devices))} in {precision}"
    for planned, size in zip(passes, sizes, strict=True):
        say(f"{where}, {planned.todo(manifest.num_shards)}, tables of about {format_bytes(size.total)}")
    return [
        Job(
            directory=directory,
            manifest=manifest,
            computation=Computation.of(planned.identity, config.source),
            tables=_table_settings(config.model, planned.identity),
            supplements=planned.supplements,
            skipped=_failed_before(directory, manifest, done, planned.supplements),
            failures_before=sum(shard.num_failures for shard in done.values()),
            attempts=attempts,
            devices=tuple(map(str, devices)),
            threads=settings.threads,
            max_batch_s=settings.batch.max_seconds,
            workers=settings.loader.workers,
            timeout_s=settings.loader.timeout_s,
            max_failures=settings.max_failures,
        )
        for planned in passes
    ]


def _failed_before(
    directory: RunDirectory, manifest: Manifest, done: Mapping[int, CommittedShard], supplements: Mapping[int, int]
) -> NDArray[np.bool_]:
    """Return whether each row of the manifest failed in a shard that gets a supplement, `(rows,)`."""
    failed = np.zeros(len(manifest), bool)
    for shard in (shard for shard, number in supplements.items() if number and done[shard].num_failures):
        rows = manifest.rows_of_shard(shard)
        ids = manifest.table["id"].slice(rows.start, len(rows))
        for record in done[shard].records:
            found = pc.is_in(ids, value_set=pa.array(directory.failures(shard, record.supplement, "id"), pa.string()))
            failed[rows.start : rows.stop] |= found.to_numpy()
    return failed


def _write_record(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    identity: Identity,
    devices: Sequence[torch.device],
    passes: Iterable[Identity],
) -> None:
    """Write `run.json` and `config.yaml`. `passes` are the passes that commit records may belong to."""
    others = {each.fingerprint: each for each in passes if each.fingerprint != identity.fingerprint}
    names = dict.fromkeys(torch.cuda.get_device_name(device) for device in devices if device.type == "cuda")
    record = RunRecord(
        identity=identity,
        weights=identities.weights_file(config.source.weights_path, identity.weights_sha256),
        manifest_file=directory.file_record(MANIFEST),
        versions=identities.versions(),
        device=", ".join(map(str, devices)) + (f" ({', '.join(names)})" if names else ""),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        manifests=(manifest.chain,) if manifest.chain else (),
        others=tuple(others.values()),
    )
    failpoint("run-json")
    directory.write(RUN_JSON, record.encode())
    failpoint("run-json-written")
    directory.write(CONFIG, config.yaml.encode())
    directory.remove_scores()


def _attempts_to_retry(directory: RunDirectory, done: dict[int, CommittedShard]) -> dict[int, dict[str, int]]:
    """Remove from `done` each shard's first pass with failures and the passes after it.

    Returns:
        The attempts of each id that failed in the first of these passes, by shard. What failed later is left out: it
        has a result of that pass, which must not be lost.
    """
    attempts = {}
    for shard, committed in [*done.items()]:
        number = next((number for number, record in enumerate(committed.records) if record.num_failures), None)
        if number is not None:
            ids, numbers = (directory.failures(shard, number, column) for column in ("id", "attempts"))
            attempts[shard] = dict(zip(ids, numbers, strict=True))
            done[shard] = CommittedShard(committed.records[:number])
            if not number:
                del done[shard]
    return attempts


def _table_settings(facts: ModelFacts, identity: Identity) -> TableSettings:
    return TableSettings(
        outputs=identity.outputs,
        layers=identity.layers,
        feature_dtype=identity.feature_dtype or "float32",
        emission_dtype=identity.emission_dtype or "float32",
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
