"""`python -m pipeline.run`: the composition root, and the only module that knows the order of the stages."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline import commandline, identity, scoring, summary, usage
from pipeline import config as configuration
from pipeline import manifest as manifests
from pipeline.commits import CommitRecord
from pipeline.config import RunConfig
from pipeline.errors import RunError, UserError
from pipeline.manifest import Manifest
from pipeline.outlet import standard_output
from pipeline.paths import encode_path
from pipeline.progress import PLAIN_EVERY_S, format_hours
from pipeline.store import RunDirectory
from pipeline.tables import own_columns

LOG = logging.getLogger("pipeline")
LOG.addHandler(logging.NullHandler())  # before the run directory is known there is no log
SHOWN_EVERY_S = 0.1
"""Between two updates of a count on a terminal."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked for a clean stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


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
    # What was ignored from the start stays ignored: nohup, or a job in the background of a script.
    heeded = [signum for signum in _STOPS if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, _stop) for signum in heeded}
    try:
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
        signal.signal(other, signal.SIG_IGN)  # a clean stop is under way
    raise Stopped(signum)


def _show(text: str) -> int:
    Console(file=standard_output(), highlight=False, soft_wrap=True).print(text, markup=False)
    return 0


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

    def _finished(self, manifest: Manifest, made_with: dict[str, Any]) -> dict[int, CommitRecord] | None:
        """The commit records of a run that has nothing left to do; refuses other settings; imports no torch."""
        recorded = self.directory.read_run_json()
        if recorded is None or "infer" not in self.config.settings.stages:
            return None
        if made_with != self._made_with() or not self.directory.has_commits():
            return None  # the root may have moved, which the manifest stage decides; or there is nothing to mix
        records = self.directory.committed(recorded["fingerprint"])
        now = identity.describe_known(self.config, manifest.digest, recorded)
        identity.refuse_differences(self.directory.root, recorded["identity"], now)
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
        return 3 if totals.num_failures else 0

    def _made_with(self) -> dict[str, Any]:
        """What decides the manifest."""
        options = configuration.mask_secrets(self.config.dataset_options)
        for key in {"root", "path"} & set(options):
            if options[key] is not None:
                options[key] = os.path.abspath(os.path.expanduser(options[key]))  # "calls" here is not "calls" there
        name = type(self.config.dataset).__module__.rpartition(".")[2]
        each = {"channels": "each"} if self.config.settings.channels == "each" else {}
        return {"dataset": name, **options, **each, "shard.hours": self.config.settings.shard.hours}

    def _manifest(self) -> Manifest:
        """Stage `manifest`: made once; later runs use it as it stands."""
        path, made_with = self.directory.manifest_path, self._made_with()
        if path.is_file():
            manifest, before = manifests.read(path)
            if before == made_with:
                return manifest
            if self.directory.has_commits():
                return self._moved(manifest, before, made_with)
        if "manifest" not in self.config.settings.stages:
            raise UserError(f"{path}: there is no manifest; add manifest to stages=")
        manifest = self._build_manifest()
        manifests.write(path, manifest, made_with, self.directory.write_table)
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
            return manifests.build(self.config.dataset, settings.shard.hours, tell, settings.channels)

    def _moved(self, manifest: Manifest, before: dict[str, Any], made_with: dict[str, Any]) -> Manifest:
        """The same corpus at another place is the same work; anything else is refused."""
        if before["shard.hours"] == made_with["shard.hours"]:
            again = self._build_manifest()
            if again.digest == manifest.digest:
                manifests.write(self.directory.manifest_path, again, made_with, self.directory.write_table)
                return again
        identity.refuse_differences(self.directory.root, before, made_with)
        raise AssertionError("two manifests of one making differ")

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
            self.directory.write_table(self.directory.scores_path, scores)
        else:
            self.directory.scores_path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
