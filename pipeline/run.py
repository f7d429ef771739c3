"""`python -m pipeline.run`: the composition root, and the only module that knows the order of the stages."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline import commandline, failpoints, identity, masking, refusals, scoring, stopping, summary, usage
from pipeline import config as configuration
from pipeline import manifest as manifests
from pipeline.commits import CommitRecord
from pipeline.config import RunConfig
from pipeline.errors import RunError, UserError
from pipeline.failpoints import failpoint
from pipeline.manifest import Manifest
from pipeline.outlet import standard_output
from pipeline.paths import encode_path
from pipeline.progress import PLAIN_EVERY_S, format_hours
from pipeline.stopping import Stopped
from pipeline.store import RunDirectory
from pipeline.tables import own_columns

LOG = logging.getLogger("pipeline")
LOG.addHandler(logging.NullHandler())  # before the run directory is known there is no log
SHOWN_EVERY_S = 0.1
"""Between two updates of a count on a terminal."""


def main(arguments: Sequence[str]) -> int:
    """Run the pipeline; returns the exit code of the contract."""
    # oneDNN keeps a compiled convolution for every shape it has met, 1,024 of them. Here hardly two batches have
    # one length, so it would be memory that grows with the corpus, for nothing. Read when torch is imported.
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "4")
    # A name or a transcript that the terminal's encoding lacks is shown escaped, not a reason to stop.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with stopping.heeded():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
        command = commandline.parse(arguments)
        if command.shows in ("--help", "--version"):
            return _show(usage.page(command.own, command.overrides) if command.shows == "--help" else usage.VERSION)
        config = configuration.load(command.overrides, command.own)
        if command.shows:
            return _show(config.yaml.rstrip())
        try:
            return Session(config).run()
        except OSError as error:
            # A full disk, a lost mount: not a bug of ours, so one line; the log has the traceback.
            LOG.exception("stopped")
            where = error.filename2 or error.filename or f"run_dir={config.run_dir}"
            reason = os.strerror(error.errno) if error.errno else error
            raise RunError(
                f"{where}: {reason}; what was committed stays, and once this is mended the same command continues"
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
        for log in [log for log in LOG.handlers if isinstance(log, logging.FileHandler)]:
            LOG.removeHandler(log)
            with suppress(OSError):
                log.close()


def _show(text: str) -> int:
    Console(file=standard_output(), highlight=False, soft_wrap=True).print(masking.mask(text), markup=False)
    return 0


def _end(reason: object, code: int) -> int:
    LOG.error("%s", reason)
    print(f"{'error: ' if code < 128 else ''}{reason}", file=sys.stderr)
    return code


class _Log(logging.FileHandler):
    """`logs/run.log`; where it cannot be written the run has other things to say."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing, in place of a traceback a line."""


class Session:
    """One invocation: what it was asked, where it writes, what it says."""

    def __init__(self, config: RunConfig) -> None:
        """Nothing is written before the first stage."""
        self.config = config
        self.directory = RunDirectory(config.run_dir)
        self.console = Console(file=standard_output(), highlight=False, soft_wrap=True)

    def run(self) -> int:
        """Do the stages; the dataset's notice, if it has one, is the first line and the last."""
        notice = self.config.dataset.notice
        if notice:
            self.say(notice)
        code = self._stages()
        if notice:
            self.say(notice)
        return code

    def _stages(self) -> int:
        """Do the stages in order."""
        if self.directory.manifest_path.is_file():
            finished = self._finished(*manifests.read(self.directory.manifest_path))
            if finished is not None:
                return self._close(finished, "complete already; ")
        settings = self.config.settings
        if "infer" in settings.stages and (settings.device, settings.precision) != ("auto", "auto"):
            from pipeline.model.engine import resolve_device, resolve_precision

            resolve_precision(settings.precision, resolve_device(settings.device))
        with self.directory.new_or_kept(), self.directory.lock():
            self._open_log()
            self.directory.remove_leftovers()
            manifest = self._manifest()
            speed = ""
            finished = self._finished(manifest, self._made_with())  # now that a moved root has been found the same
            if finished is not None:
                return self._close(finished, "complete already; ")
            if "infer" in settings.stages:
                # Imported here, so that whatever needs no model starts without waiting for torch.
                from pipeline.inference import infer

                speed = infer(self.config, self.directory, manifest, self.console, self.say)
            records = self.directory.commits()
            if "score" in settings.stages:
                self._score(manifest, records)
            if "infer" not in settings.stages:
                self.say(f"stages {', '.join(settings.stages)} done in {self.directory.root}")
                return 0
            return self._close(records, "", speed)

    def say(self, text: str) -> None:
        """Tell the person and the log."""
        text = masking.mask(encode_path(text))  # a folder's name need not be UTF-8, what is printed must
        LOG.info("%s", text)
        self.console.print(text, markup=False)

    def _open_log(self) -> None:
        self.directory.log_path.parent.mkdir(parents=True, exist_ok=True)
        handler = _Log(self.directory.log_path, encoding="utf-8")
        handler.setFormatter(masking.MaskingFormatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
        LOG.info("run_dir %s, %s", self.directory.root, identity.versions())

    def _finished(self, manifest: Manifest, made_with: dict[str, Any]) -> dict[int, CommitRecord] | None:
        """The commit records of a run that has nothing left to do; refuses other settings; imports no torch."""
        recorded = self.directory.read_run_json()
        if recorded is None or "infer" not in self.config.settings.stages:
            return None
        if made_with != self._made_with() or not self.directory.has_commits():
            return None  # the root may have moved, which the manifest stage decides; or there is nothing to mix
        records = self.directory.committed(recorded["fingerprint"])
        now = identity.describe_known(self.config, manifest.digest, recorded)
        refusals.refuse_differences(self.config, recorded, now)
        totals = summary.total(records.values())
        complete = {*records} >= {*range(manifest.num_shards)}
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
        return 3 if totals.num_failures else 0

    def _made_with(self) -> dict[str, Any]:
        """What decides the manifest."""
        options = dict(self.config.dataset_options)
        for key in {"root", "path"} & set(options):
            if options[key] is not None:
                options[key] = os.path.abspath(os.path.expanduser(options[key]))  # "calls" here is not "calls" there
        options = masking.mask_secrets(options, marked=True)
        name = type(self.config.dataset).__module__.rpartition(".")[2]
        each = {"channels": "each"} if self.config.settings.channels == "each" else {}
        return {"dataset": name, **options, **each, "shard.hours": self.config.settings.shard.hours}

    def _manifest(self) -> Manifest:
        """Stage `manifest`: made once; later runs use it as it stands."""
        path, made_with = self.directory.manifest_path, self._made_with()
        if path.is_file():
            manifest, before = manifests.read(path)
            if self.directory.has_commits():
                self._refuse_edited(manifest)
            if before == made_with:
                return manifest
            if self.directory.has_commits():
                return self._moved(manifest, before, made_with)
        if "manifest" not in self.config.settings.stages:
            raise UserError(f"{path}: there is no manifest; add manifest to stages=")
        manifest = self._build_manifest()
        recorded = self.directory.read_run_json()
        if recorded is not None and self.directory.has_commits():  # the manifest was taken away: is this the same?
            now = identity.describe_known(self.config, manifest.digest, recorded)
            refusals.refuse_differences(self.config, recorded, now)
        failpoint("manifest")
        manifests.write(path, manifest, made_with, self.directory.write_table)
        failpoint("manifest-written")
        identity.note_manifest(self.directory)
        unreadable = int(np.isnan(manifest.duration_s).sum())
        self.say(
            f"{len(manifest)} utterances, {format_hours(float(np.nansum(manifest.duration_s)))} of audio, "
            f"{manifest.num_shards} shards" + (f", {unreadable} with a header that cannot be read" * bool(unreadable))
        )
        return manifest

    def _build_manifest(self) -> Manifest:
        with self.console.status("finding recordings and reading their headers") as status:
            shown = said = time.monotonic()

            def tell(rows: int) -> None:
                nonlocal shown, said
                now = time.monotonic()
                if now - shown >= SHOWN_EVERY_S:  # it is told every row, of which there may be millions
                    shown = now
                    status.update(f"reading headers: {rows} utterances")
                if not self.console.is_terminal and now - said >= PLAIN_EVERY_S:
                    said = now
                    self.say(f"reading headers: {rows} utterances")

            settings = self.config.settings
            return manifests.build(
                self.config.dataset, settings.shard.hours, tell, settings.channels, settings.loader.timeout_s
            )

    def _moved(self, manifest: Manifest, before: dict[str, Any], made_with: dict[str, Any]) -> Manifest:
        """The same corpus at another place is the same work; anything else is refused."""
        differences = refusals.making_differences(before, made_with)
        if before["shard.hours"] == made_with["shard.hours"]:
            again = self._build_manifest()
            if again.digest == manifest.digest:
                manifests.write(self.directory.manifest_path, again, made_with, self.directory.write_table)
                identity.note_manifest(self.directory)
                return again
            differences.append(refusals.corpus_differences(manifest.table, again.table))
        recorded = self.directory.read_run_json()
        now = {} if recorded is None else identity.describe_known(self.config, manifest.digest, recorded)
        refusals.refuse_differences(self.config, recorded, now, differences)
        raise AssertionError("two manifests of one making differ")

    def _refuse_edited(self, manifest: Manifest) -> None:
        """Refuse a manifest whose rows are not those that it was made with; results are of those."""
        path, recorded = self.directory.manifest_path, self.directory.read_run_json() or {}
        if recorded.get(manifests.FILE_KEY) == manifests.file_record(path):
            return
        rows = manifests.digest_of(manifest.table)  # slower, and told from a kill between this file and run.json
        made = recorded.get("identity", {}).get("manifest", manifest.digest)
        if not rows == made == manifest.digest:
            refusals.refuse(
                self.directory.root, [f"manifest: {made} there, {rows} now, since {path.name} has been edited"]
            )

    def _score(self, manifest: Manifest, records: dict[int, CommitRecord]) -> None:
        """Stage `score`: errors and rates over everything committed, overall and per group."""
        groups = [field.name for field in own_columns(manifest.table.schema) if not pa.types.is_floating(field.type)]
        files = [
            self.directory.root / record.files["transcripts"].path
            for record in records.values()
            if "transcripts" in record.files
        ]
        tables = (pq.read_table(path, columns=[*scoring.COUNTS, *groups]) for path in files)
        scores = scoring.score_table(tables, groups)
        if scores.num_rows:
            failpoint("scores")
            self.directory.write_table(self.directory.scores_path, scores)
            failpoint("scored")
        else:
            self.directory.scores_path.unlink(missing_ok=True)


if __name__ == "__main__":
    masking.mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
