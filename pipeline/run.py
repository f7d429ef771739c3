"""`python -m pipeline.run`: the composition root, and the only module that knows the order of the stages."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline import config as configuration
from pipeline import identity, scoring, summary, usage
from pipeline import manifest as manifests
from pipeline.config import RunConfig
from pipeline.errors import RunError, UserError
from pipeline.manifest import Manifest
from pipeline.model.catalog import weights_path
from pipeline.paths import encode_path
from pipeline.progress import RunProgress, format_duration, format_hours
from pipeline.sizing import check_disk, estimate_bytes, format_bytes
from pipeline.store import CommitRecord, RunDirectory, fingerprint
from pipeline.tables import own_columns

LOG = logging.getLogger("pipeline")
LOG.addHandler(logging.NullHandler())  # before the run directory is known there is no log
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked for a clean stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def main(arguments: Sequence[str]) -> int:
    """Run the pipeline; returns the exit code of the contract."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(usage.page())
        return 0
    before = {signum: signal.signal(signum, _stop) for signum in _STOPS}
    try:
        config = configuration.load(arguments)
        try:
            return Session(config).run()
        except OSError as error:
            # A full disk, a lost mount: not a bug of ours, so one line; the log has the traceback.
            LOG.exception("stopped")
            where = error.filename or f"run_dir={config.run_dir}"
            raise RunError(
                f"{where}: {error.strerror or error}; what was committed stays, the same command continues"
            ) from None
    except UserError as error:
        return _end(error, 2)
    except RunError as error:
        return _end(error, 1)
    except Stopped as stop:
        name = signal.Signals(stop.signum).name
        return _end(f"stopped by {name}; what was committed stays, the same command continues", 128 + stop.signum)
    except Exception:
        LOG.exception("this is a bug")
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for log in [log for log in LOG.handlers if isinstance(log, logging.FileHandler)]:
            LOG.removeHandler(log)
            log.close()


def _stop(signum: int, frame: FrameType | None) -> None:
    for other in _STOPS:
        signal.signal(other, signal.SIG_IGN)  # the clean stop is under way
    raise Stopped(signum)


def _end(reason: object, code: int) -> int:
    LOG.error("%s", reason)
    print(f"{'error: ' if code < 128 else ''}{reason}", file=sys.stderr)
    return code


class Session:
    """One invocation: what it was asked, where it writes, what it says."""

    def __init__(self, config: RunConfig) -> None:
        """Nothing is written before the first stage."""
        self.config = config
        self.directory = RunDirectory(config.run_dir)
        self.console = Console(highlight=False, soft_wrap=True)

    def run(self) -> int:
        """Do the stages in order."""
        if self.config.dataset.notice:
            self.say(self.config.dataset.notice)
        finished = self._finished()
        if finished is not None:
            return self._close(finished, "complete already; ")
        with self.directory.lock():
            self._open_log()
            self.directory.remove_leftovers()
            manifest = self._manifest()
            speed = ""
            if "infer" in self.config.settings.stages:
                speed = self._infer(manifest)
            if "score" in self.config.settings.stages:
                self._score(manifest)
            records = self.directory.commits()
            if "infer" not in self.config.settings.stages:
                self.say(f"stages {', '.join(self.config.settings.stages)} done in {self.directory.root}")
                return 0
            return self._close(records, "", speed)

    def say(self, text: str) -> None:
        """Tell the person and the log."""
        text = encode_path(text)  # a folder's name need not be UTF-8, what is printed must
        LOG.info("%s", text)
        self.console.print(text, markup=False)

    def _open_log(self) -> None:
        self.directory.log_path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.directory.log_path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
        LOG.info("run_dir %s, %s", self.directory.root, identity.versions())

    def _finished(self) -> dict[int, CommitRecord] | None:
        """The commit records of a run that has nothing left to do; refuses other settings; imports no torch."""
        recorded = self.directory.read_run_json()
        if recorded is None or "infer" not in self.config.settings.stages or not self.directory.manifest_path.is_file():
            return None
        manifest, made_with = manifests.read(self.directory.manifest_path)
        if made_with != self._made_with():
            return None  # the root may have moved: the manifest stage decides
        now = identity.describe_known(self.config, manifest.digest, recorded)
        identity.refuse_differences(self.directory.root, recorded["identity"], now)
        records = self.directory.committed(recorded["fingerprint"])
        totals = summary.total(records.values())
        complete = len(records) == manifest.num_shards
        retry = self.config.settings.retry_failed and totals.num_failures
        unscored = (
            "score" in self.config.settings.stages
            and totals.reference_words
            and not self.directory.scores_path.is_file()
        )
        return records if complete and not retry and not unscored else None

    def _close(self, records: dict[int, CommitRecord], prefix: str, speed: str = "") -> int:
        totals = summary.total(records.values())
        said = summary.lines(totals, self.directory.root, self.config.settings.outputs, speed)
        said[0] = prefix + said[0]
        for line in said:
            self.say(line)
        if self.config.dataset.notice:
            self.say(self.config.dataset.notice)
        return 3 if totals.num_failures else 0

    def _made_with(self) -> dict[str, Any]:
        """What decides the manifest."""
        options = configuration.mask_secrets(self.config.dataset_options)
        hours = self.config.settings.shard.hours
        return {
            "dataset": type(self.config.dataset).__module__.rpartition(".")[2],
            **options,
            "shard.hours": hours,
        }

    def _manifest(self) -> Manifest:
        """Stage `manifest`: made once; later runs use it as it stands."""
        path, made_with = self.directory.manifest_path, self._made_with()
        if path.is_file():
            manifest, before = manifests.read(path)
            if before == made_with:
                return manifest
            return self._moved(manifest, before, made_with)
        if "manifest" not in self.config.settings.stages:
            raise UserError(f"{path}: there is no manifest; add manifest to stages=")
        manifest = self._build_manifest()
        self.directory.write_bytes(self.directory.config_path, self.config.yaml.encode())
        manifests.write(path, manifest, made_with, self.directory.write_table)
        unreadable = int(np.isnan(manifest.duration_s).sum())
        self.say(
            f"{len(manifest)} utterances, {format_hours(float(np.nansum(manifest.duration_s)))} of audio, "
            f"{manifest.num_shards} shards" + (f", {unreadable} with a header that cannot be read" * bool(unreadable))
        )
        return manifest

    def _build_manifest(self) -> Manifest:
        with self.console.status("finding recordings and reading their headers") as status:

            def tell(rows: int) -> None:
                status.update(f"reading headers: {rows} utterances")

            return manifests.build(self.config.dataset, self.config.settings.shard.hours, tell)

    def _moved(self, manifest: Manifest, before: dict[str, Any], made_with: dict[str, Any]) -> Manifest:
        """The same corpus at another place is the same work; anything else is refused."""
        if before["shard.hours"] == made_with["shard.hours"]:
            again = self._build_manifest()
            if again.digest == manifest.digest:
                manifests.write(self.directory.manifest_path, again, made_with, self.directory.write_table)
                return again
        identity.refuse_differences(self.directory.root, before, made_with)
        raise AssertionError("two manifests of one making differ")

    def _infer(self, manifest: Manifest) -> str:
        """Stage `infer`: load, model, decode, write, commit. Returns the speed in words."""
        # Imported here, so that whatever needs no model starts without waiting for torch.
        from pipeline.loader import Loader, Recordings
        from pipeline.model import engine as engines
        from pipeline.model.weights import load_model
        from pipeline.worker import Job, load_batches, run_batches
        from pipeline.writer import ShardWriter

        config, settings, facts = self.config, self.config.settings, self.config.model
        recorded = self.directory.read_run_json()
        device = engines.resolve_device(settings.device)
        precision = engines.resolve_precision(settings.precision, device)
        model, sha256 = load_model(facts, settings.model.sha256)
        now = identity.describe(config, manifest.digest, precision, sha256)
        if recorded is not None:
            identity.refuse_differences(self.directory.root, recorded["identity"], now)
        else:
            self._write_run_json(now, sha256)
        mark = fingerprint(now)

        done = self.directory.committed(mark)
        attempts = self._attempts_to_retry(done) if settings.retry_failed else {}
        pending = [shard for shard in range(manifest.num_shards) if shard not in done]
        todo = np.isin(manifest.shard_of_row, pending)
        size = estimate_bytes(config, manifest, todo)
        check_disk(self.directory.root, size)
        max_batch_s = settings.batch.max_seconds or engines.default_batch_seconds(device)
        workers = engines.default_workers(device) if settings.loader.workers is None else settings.loader.workers
        self.say(
            f"{facts.name} on {device} in {precision}, {len(pending)} of {manifest.num_shards} shards to do, "
            f"tables of about {format_bytes(size.total)}"
        )
        engine = engines.Engine(
            facts,
            model,
            device,
            precision,
            engines.EngineSettings(
                layers=config.layers,
                feature_dtype=settings.features.dtype,
                logits="emissions" in settings.outputs,
                transcripts="transcripts" in settings.outputs,
            ),
        )
        job = Job(
            manifest=manifest,
            shards=pending,
            sample_rate=facts.sample_rate,
            max_batch_s=max_batch_s,
            max_failures=settings.max_failures,
            failures_before=sum(record.num_failures for record in done.values()),
        )
        loader = Loader(
            Recordings(manifest, facts.sample_rate, facts.min_samples),
            workers=workers,
            timeout_s=settings.loader.timeout_s,
            pin_memory=device.type == "cuda",
        )
        progress = RunProgress(
            self.console,
            self.directory.metrics_path,
            total_s=float(np.nansum(manifest.duration_s)),
            done_s=float(np.nansum(manifest.duration_s[~todo])),
            total_shards=manifest.num_shards,
            done_shards=len(done),
        )
        writer = ShardWriter(self.directory, manifest, self._table_settings(mark), _log_commit(progress), attempts)
        try:
            with progress, closing(load_batches(job, loader)) as batches:
                run_batches(job, batches, engine, writer, progress)
                writer.close()
        except BaseException:
            writer.abort()
            raise
        return f", {progress.real_time:.1f} x real time, in {format_duration(progress.elapsed_s)}"

    def _write_run_json(self, now: dict[str, Any], sha256: str) -> None:
        content = {
            "fingerprint": fingerprint(now),
            "identity": now,
            "weights": identity.weights_record(weights_path(self.config.model), sha256),
            "versions": identity.versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.directory.write_bytes(self.directory.run_json_path, json.dumps(content, indent=1).encode())

    def _attempts_to_retry(self, done: dict[int, CommitRecord]) -> dict[str, int]:
        """Take shards that hold failures out of `done`; return how often each failure has been tried."""
        attempts: dict[str, int] = {}
        for shard in [shard for shard, record in done.items() if record.num_failures]:
            record = done.pop(shard)
            table = pq.read_table(self.directory.root / record.files["failures"].path, columns=["id", "attempts"])
            attempts |= dict(zip(table["id"].to_pylist(), table["attempts"].to_pylist(), strict=True))
        return attempts

    def _table_settings(self, mark: str) -> Any:
        from pipeline.writer import TableSettings

        config, facts = self.config, self.config.model
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
                "values": "logits",
                "seconds_per_frame": facts.seconds_per_frame,
                "sample_rate": facts.sample_rate,
            },
            fingerprint=mark,
        )

    def _score(self, manifest: Manifest) -> None:
        """Stage `score`: errors and rates over everything committed, overall and per group."""
        groups = [field.name for field in own_columns(manifest.table.schema) if not pa.types.is_floating(field.type)]
        files = [
            self.directory.root / record.files["transcripts"].path
            for record in self.directory.commits().values()
            if "transcripts" in record.files
        ]
        tables = (pq.read_table(path, columns=[*scoring.COUNTS, *groups]) for path in files)
        scores = scoring.score_table(tables, groups)
        if scores.num_rows:
            self.directory.write_table(self.directory.scores_path, scores)


def _log_commit(progress: RunProgress) -> Callable[[CommitRecord], None]:
    def log(record: CommitRecord) -> None:
        progress.shard_committed()
        LOG.info(
            "committed shard %d: %d utterances, %d failures",
            record.shard,
            record.utterances,
            record.num_failures,
        )

    return log


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
