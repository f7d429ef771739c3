"""One run: the stages in their order. No other module knows this order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.groups import EXECUTORS
from pipeline.config.run_config import RunConfig
from pipeline.datasets import columns_of
from pipeline.executors import Submission
from pipeline.inference.textfile import RunTextfile
from pipeline.models.sources import Loaded
from pipeline.runtime import redaction as masking
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.signals import Stopped
from pipeline.runtime.starting import importing_torch
from pipeline.runtime.stdout import console
from pipeline.scoring.groups import check_groups
from pipeline.scoring.normalisers import check_normaliser
from pipeline.stages import identity
from pipeline.stages import resume as refusals
from pipeline.stages.conclusion import Computed, Conclusion
from pipeline.stages.manifest import ManifestStage
from pipeline.stages.score import read_overall
from pipeline.storage import manifest as manifests
from pipeline.storage import summary
from pipeline.storage.commits import CommittedShard
from pipeline.storage.committing import finish_renewals
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import Part
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import CHANNEL, own_column_names, own_columns

LOG = logging.getLogger("pipeline")


class _Log(logging.FileHandler):
    """`logs/run.log`; where it cannot be written the run has other things to say."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing, in place of a traceback a line."""


class Session:
    """One invocation: what it was asked, where it writes, what it says."""

    def __init__(self, config: RunConfig, quiet: bool = False) -> None:
        """Nothing is written before the first stage.

        Args:
            config: What the run was asked.
            quiet: Print nothing; the log has it all.
        """
        self.config = config
        part: str | None = getattr(config.settings.executor, "part", None)
        self.directory = RunDirectory(config.run_dir, None if part is None else Part.parse(part))
        self.console = console(quiet)
        self.textfile = self._new_textfile()
        self.manifest_stage = ManifestStage(config, self.directory, self.console, self.say)
        self.conclusion = Conclusion(config, self.directory, self.console, self.say, self.textfile)
        submission = getattr(EXECUTORS.load(config.settings.executor.name), "submission", None)
        self.submission: Submission | None = submission and submission(config, self.directory, self.say)
        self._loaded: list[Loaded] = []

    def run(self) -> int:
        """Do the stages; the dataset's notice, if it has one, is the first line and the last."""
        self.textfile.check()
        notice = self.config.dataset.notice
        if notice:
            self.say(notice)
        try:
            code = self._stages()
            if code is None and self.submission is not None:
                code = self.submission.submit()
        except Stopped as stop:
            stop.kept = stop.kept or summary.after_stop(self.directory)
            raise
        if notice:
            self.say(notice)
        return code or 0

    def end(self, code: int) -> None:
        """Note the exit code for Prometheus, unless another run goes on, which writes there."""
        if self.textfile.begun or not self.directory.is_locked():
            self.textfile.end(code)

    def _new_textfile(self) -> RunTextfile:
        path, part = self.config.settings.metrics.textfile, self.directory.part
        labels = {"run": masking.mask(encode_path(str(self.config.run_dir))), "model": self.config.model.name}
        return RunTextfile(Path(path) if path else None, **labels, **({} if part is None else {"part": str(part)}))

    def _stages(self) -> int | None:
        """Do the stages in order; `None` if what is left to do is to be submitted, once the lock is released."""
        settings = self.config.settings
        finished = None
        check_normaliser(settings.score.normaliser)
        if self.directory.manifest.is_there:
            finished, own = self._look()
            if not self.manifest_stage.looks:  # the corpus may have other columns now
                self._check_groups(own)
                if finished is not None and self.directory.part is None and not self.conclusion.to_write(finished):
                    return self.conclusion.close(finished, "complete already; ")
        elif settings.extend == "check":
            raise UserError(f"extend=check: no run in run_dir={self.directory.root}; leave extend out to start one")
        elif settings.score.by:
            each = [CHANNEL] if settings.channels == "each" else []
            self._check_groups([*own_column_names(columns_of(self.config.dataset)).values(), *each])
        if self.submission is not None and finished is None:
            self.submission.check()
        elif "infer" in settings.stages and not self.directory.manifest.is_there:
            with importing_torch():
                from pipeline.stages.infer import check_beforehand

            self._loaded.append(check_beforehand(self.config))
        with self.directory.new_or_kept():
            part = self.directory.part
            with (
                self.directory.lock(required=self.submission is None, waiting=self._say_waiting)
                if part is None
                else self.directory.lock_part(self._say_waiting)
            ):
                computed = self._compute()
                if computed is None:
                    return 3 if self.manifest_stage.unlisted else 0
                if self.submission is not None and computed.finished is None:
                    self.submission.plan(computed.manifest.num_shards)
                    return None
                if part is None:
                    return self.conclusion.whole(computed)
            return self.conclusion.of_part(part, computed)

    def _look(self) -> tuple[dict[int, CommittedShard] | None, list[str]]:
        """Return what `_finished` returns, and the dataset's own columns.

        The stages read the manifest again under the lock. Memory does not hold it twice.
        """
        manifest, made_with = manifests.read(self.directory.manifest)
        return self._finished(manifest, made_with), [field.name for field in own_columns(manifest.schema)]

    def _compute(self) -> Computed | None:
        """Do the stages `manifest` and `infer`; `None` if the corpus was only to be compared with the manifest."""
        settings, directory = self.config.settings, self.directory
        self._open_log()
        self.textfile.begin()
        if directory.alone:
            # A part leaves those of others: parts on other machines may be at work behind locks of their own.
            directory.remove_leftovers(directory.part)
            finish_renewals(directory)
        manifest = self.manifest_stage.run()
        self._check_groups([field.name for field in own_columns(manifest.schema)])
        if settings.extend == "check" and self.manifest_stage.looks:
            return None
        # Asked again, now that the corpus has been listed, and a moved root has been found the same.
        finished = self._finished(manifest, self.manifest_stage.made_with())
        speed = ""
        if finished is None and "infer" in settings.stages and self.submission is None:
            # Imported here, so that whatever needs no model starts without waiting for torch.
            with importing_torch():
                from pipeline.stages.infer import infer

            speed = infer(self.config, directory, manifest, self.console, self.say, self.textfile, self._loaded)
        return Computed(manifest, finished, speed)

    def _say_waiting(self, by: str) -> None:
        self.console.print(f"waiting for {by}", markup=False)

    def _check_groups(self, own: Sequence[str]) -> None:
        """Refuse what scores cannot be asked by before hours are spent."""
        if "score" in self.config.settings.stages:
            check_groups(self.config.settings.score.by, own)

    def say(self, text: str) -> None:
        """Tell the person and the log."""
        text = masking.mask(encode_path(text))  # a folder's name need not be UTF-8, what is printed must
        self.textfile.progress()
        LOG.info("%s", text)
        self.console.print(text, markup=False)

    def _open_log(self) -> None:
        handler = _Log(self.directory.local_log(), encoding="utf-8")
        handler.setFormatter(masking.MaskingFormatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
        LOG.info("run_dir %s, %s", self.directory.root, identity.versions())

    def _finished(self, manifest: Manifest, made_with: dict[str, Any]) -> dict[int, CommittedShard] | None:
        """The commit records of a run whose tables are complete, or those of a part that has done its shards.

        Refuses other settings; imports no torch.
        """
        recorded = self.directory.read_record()
        if recorded is None or "infer" not in self.config.settings.stages:
            return None
        if made_with != self.manifest_stage.made_with() or not self.directory.has_commits():
            return None  # the root may have moved, which the manifest stage decides; or there is nothing to mix
        records = self.directory.committed(recorded.passes)
        now = identity.describe_known(self.config, manifest.digest, recorded)
        if now.fingerprint not in recorded.passes and not self.directory.has_results():
            return None  # nothing has succeeded, so the run may be planned again
        refusals.refuse_differences(self.config, self.directory, recorded, now)
        mine = self.directory.shards_of(manifest.num_shards)
        complete = recorded.complete(records, now) >= {*mine}
        failed = any(records[shard].num_failures for shard in mine if shard in records)
        retry = self.config.settings.retry_failed and failed
        return records if complete and not retry else None


def outcome(config: RunConfig) -> dict[str, Any]:
    """Return what a run has now in plain values: counts, failures by name, seconds of audio and errors."""
    directory = RunDirectory(config.run_dir)
    if "decode" in config.settings.stages:
        directory = directory.of_decoding(config.decoding)
    found = {"run_dir": str(directory.place), "model": config.model.name}
    return found | (summary.as_plain(directory, read_overall(directory)) if directory.manifest.is_there else {})
