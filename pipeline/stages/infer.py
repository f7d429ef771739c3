"""Stage `infer`: find the pending shards, refuse to mix results of different work, and start an executor.

Only this stage imports torch. `pipeline.run` imports this module when the stage starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
from rich.console import Console

from pipeline import decoding
from pipeline.config.groups import EXECUTORS
from pipeline.config.run_config import RunConfig
from pipeline.executors import Executor
from pipeline.inference.job import Computation, Job
from pipeline.inference.shard_tables import TableSettings
from pipeline.inference.textfile import RunTextfile
from pipeline.models.device import Devices, resolve_precision
from pipeline.models.facts import ModelFacts
from pipeline.models.sources import Loaded, load_model
from pipeline.runtime.clock import timestamp
from pipeline.runtime.errors import RunError, UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.terminal import counted
from pipeline.stages import identity as identities
from pipeline.stages.disk import check_disk, estimate_bytes, format_bytes
from pipeline.stages.passes import Pass, attempts_to_retry, before_failures, failed_before, plan_passes
from pipeline.stages.resume import continue_passes
from pipeline.storage.commits import CommitRecord, CommittedShard
from pipeline.storage.identity import Identity
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import COMMITS, CONFIG, MANIFEST, RUN_JSON, pass_of_name
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord


def infer(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    console: Console,
    say: Callable[[str], None],
    textfile: RunTextfile,
    loaded: list[Loaded],
) -> str:
    """Load, infer, decode, write and commit what is left to compute in each shard.

    Args:
        config: The configuration.
        directory: The run, locked by this process.
        manifest: The manifest of the run.
        console: Console of the live view.
        say: Prints and logs a line.
        textfile: The figures of the run for Prometheus.
        loaded: The model, if it is loaded already; see `Job.loaded`.

    Returns:
        The speed in words; an empty string if nothing was left to compute.

    Raises:
        UserError: The device or the weights do not exist, the settings differ from those of the run, or the disk is
            too small.
        RunError: More than `max_failures` utterances failed, or committed files were removed meanwhile.
    """
    speed = ""
    with closing(_executor(config)) as executor:
        devices = executor.devices(config.settings.device)
        # A shard whose retry was kept may still lack an output that is asked for now.
        for retry in (True, False) if config.settings.retry_failed else (False,):
            failures = 0
            jobs = prepare(config, directory, manifest, devices, say, retry)
            directory.let_others_in()
            for job in jobs:
                before = job.failures_before + failures
                job = replace(job, failures_before=before, textfile=textfile, loaded=loaded)
                speed = executor.run(job, console, say)
                done = _require_all_shards(job)
                failures += sum(record.num_failures for record in done.values())
    return speed


def _executor(config: RunConfig) -> Executor:
    executor: Executor = EXECUTORS.load(config.settings.executor.name).Executor(config.settings.executor)
    return executor


def _require_all_shards(job: Job) -> dict[int, CommitRecord]:
    """Check that every shard is committed: somebody may have removed or changed files during the run.

    Returns:
        The records of the job's passes, by shard.
    """
    done = job.committed(job.pending)
    # Asked again for each of them: in some stores, a list may lack what was written a moment ago.
    done |= job.committed(shard for shard in job.pending if shard not in done)
    missing = [shard for shard in job.pending if shard not in done]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise RunError(
            f"run_dir={job.directory.root}: files of {len(missing)} shards were removed or changed during the run "
            f"(shards {shown}); the same command computes these shards again"
        )
    return done


def check_beforehand(config: RunConfig) -> Loaded:
    """Refuse devices and weights that cannot be used, before a new run reads a recording or writes anything.

    Returns:
        The model. It takes little memory until its weights are read, because the file is mapped into memory.

    Raises:
        UserError: The devices do not exist or do not suit the precision. The weights file cannot be fetched, is
            damaged, fits another model, or has another SHA-256. A file of the decoder is damaged or does not fit.
    """
    with closing(_executor(config)) as executor:
        resolve_precision(config.settings.precision, executor.devices(config.settings.device).first)
    loaded = load_model(config.source)
    if "transcripts" in config.settings.outputs:
        name, labels, stride_s = config.settings.decoder.name, config.model.ctc_labels, config.model.seconds_per_frame
        decoding.make(name, config.identity_options, config.decoder_files, labels, stride_s)
    return loaded


def prepare(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    devices: Devices,
    say: Callable[[str], None],
    retry: bool,
) -> list[Job]:
    """Create the jobs of a run: compare identities, find what is left to compute and check the free disk space.

    There are several jobs if some shards need other outputs than the others. With `retry`, the passes over a shard are
    computed again from the first one that has a failure.

    This writes `run.json` and `config.yaml`, before any shard is committed. A part of a run leaves that to the part
    that has planned the run.

    Raises:
        UserError: As `infer`.
    """
    precision = resolve_precision(config.settings.precision, devices.first)
    sha256 = config.source.fetch()
    describe = partial(identities.describe, config, manifest.digest, precision, sha256)
    identity, known = continue_passes(config, directory, describe)
    done = directory.committed(known)
    mine = directory.shards_of(manifest.num_shards)
    _say_unusable(directory, done, mine, say)
    failed, kept = {shard for shard, each in done.items() if each.num_failures}, before_failures(done)
    plan = partial(plan_passes, directory, identity, known, num_shards=manifest.num_shards)
    plans = {False: partial(plan, done), True: partial(plan, kept, again=failed)}
    planned = plans[retry]()
    passes = [each for each in (each.over(mine) for each in planned) if each.supplements]
    done = kept if retry else done
    attempts = attempts_to_retry(directory, kept, failed.intersection(mine)) if retry else {}
    shards = manifest.shard_of_row
    sizes = [
        estimate_bytes(config.model, each.identity, manifest, np.isin(shards, [*each.supplements])) for each in passes
    ]
    check_disk(directory, sizes)
    if directory.alone:
        # Other parts, or this one after its retries, may follow the other plan.
        planned += plans[not retry]() if directory.part is not None else []
        recorded = [*known.values(), *(each.identity for each in planned)]
        _write_record(config, directory, manifest, identity, devices, recorded)
    else:
        _join_plan(directory, passes, known)
    where = f"{config.model.name} on {', '.join(devices.names)} in {precision}"
    where += "" if directory.part is None else f", part {directory.part}"
    for each, size in zip(passes, sizes, strict=True):
        say(f"{where}, {each.todo(len(mine))}, tables of about {format_bytes(size.total)}")
    return [_job(config, directory, manifest, devices, each, done, attempts) for each in passes]


def _job(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    devices: Devices,
    planned: Pass,
    done: Mapping[int, CommittedShard],
    attempts: Mapping[int, Mapping[str, int]],
) -> Job:
    """Create the job of a pass. `done` has the shards as they count before it; `attempts` are those of `Job`."""
    settings, mine = config.settings, directory.shards_of(manifest.num_shards)
    return Job(
        directory=directory,
        manifest=manifest,
        computation=Computation.of(planned.identity, config.source, config.decoder_files),
        tables=_table_settings(config.model, planned.identity),
        supplements=planned.supplements,
        skipped=failed_before(directory, manifest, done, planned.supplements),
        failures_before=sum(done[shard].num_failures for shard in mine if shard in done),
        attempts=attempts,
        devices=devices.names,
        threads=settings.threads,
        max_batch_s=settings.batch.max_seconds,
        workers=settings.loader.workers,
        timeout_s=settings.loader.timeout_s,
        max_failures=settings.max_failures,
    )


def _join_plan(directory: RunDirectory, passes: Sequence[Pass], known: Mapping[str, Identity]) -> None:
    """Let a part compute its passes while other parts may be at work: it may not change what the run is.

    Raises:
        UserError: A pass is none that the run knows.
    """
    if unplanned := [each for each in passes if each.identity.fingerprint not in known]:
        raise UserError(
            f"run_dir={directory.root}: files of {counted(sum(len(each.supplements) for each in unplanned), 'shard')} "
            "were removed or changed, which no part may mend while others are at work; once they have ended, the same "
            "command computes these shards again"
        )
    if passes:
        _reopen(directory)


def _say_unusable(
    directory: RunDirectory, done: Mapping[int, CommittedShard], mine: Sequence[int], say: Callable[[str], None]
) -> None:
    """Name the commit records that do not count; only those of the shards `mine` if other parts may be at work."""
    for name in directory.unusable_records(done):
        written = pass_of_name(name.removeprefix(f"{COMMITS}/"), "json")
        if directory.alone or (written is not None and written[0] in mine):
            say(f"{name}: cannot be used, so what it committed counts as not done; python -m pipeline.verify says why")


def _write_record(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    identity: Identity,
    devices: Devices,
    passes: Iterable[Identity],
) -> None:
    """Write `run.json` and `config.yaml`. `passes` are the passes that commit records may belong to."""
    others = {each.fingerprint: each for each in passes if each.fingerprint != identity.fingerprint}
    record = RunRecord(
        identity=identity,
        weights=identities.weights_file(config.source, identity.weights_sha256),
        manifest_file=directory.file_record(MANIFEST),
        versions=identities.versions(),
        device=str(devices),
        written=timestamp(),
        manifests=(manifest.chain,) if manifest.chain else (),
        others=tuple(others.values()),
        decoder_files=config.decoder_files,
    )
    failpoint("run-json")
    directory.write(RUN_JSON, record.encode())
    failpoint("run-json-written")
    directory.write(CONFIG, config.yaml.encode())
    directory.remove_scores()


def _reopen(directory: RunDirectory) -> None:
    """Let `same_as` and the scores be written again. On a file system without locks, a run may have been closed."""
    recorded = directory.read_record()
    if recorded is not None and recorded.duplicates is not None:
        directory.write(RUN_JSON, replace(recorded, duplicates=None).encode())
    directory.remove_scores()


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
            "delimiter": facts.delimiter,
            "silent": sorted(facts.silent),
            "lower_case": facts.lower_case,
            "values": facts.values,
            "seconds_per_frame": facts.seconds_per_frame,
            "sample_rate": facts.sample_rate,
        },
        fingerprint=identity.fingerprint,
        audio_digests=identity.audio_digests,
        nbest=identity.nbest,
    )
