"""One run: the stages in their order. No other module knows this order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.text import Text

from pipeline.config.groups import EXECUTORS
from pipeline.config.run_config import RunConfig
from pipeline.datasets import columns_of
from pipeline.executors import Submission
from pipeline.inference.textfile import RunTextfile
from pipeline.report.freshness import is_current
from pipeline.runtime import redaction as masking
from pipeline.runtime.errors import UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.paths import encode_path
from pipeline.runtime.signals import Stopped
from pipeline.runtime.stdout import console
from pipeline.runtime.terminal import counted
from pipeline.scoring.groups import check_groups
from pipeline.scoring.normalisers import check_normaliser
from pipeline.scoring.terminal import pictures
from pipeline.stages import identity
from pipeline.stages import resume as refusals
from pipeline.stages.duplicates import is_settled, settle_same_as
from pipeline.stages.manifest import ManifestStage
from pipeline.stages.score import is_scored, read_overall, score_run
from pipeline.storage import manifest as manifests
from pipeline.storage import summary
from pipeline.storage.commits import CommittedShard
from pipeline.storage.committing import finish_renewals
from pipeline.storage.lock import Locked
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import CONFIG, Part
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import CHANNEL, own_column_names, own_columns

LOG = logging.getLogger("pipeline")
_MOST_SAID = 10
"""Parts with shards left that are named."""


class _Log(logging.FileHandler):
    """`logs/run.log`; where it cannot be written the run has other things to say."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing, in place of a traceback a line."""


class _Computed(NamedTuple):
    """What the stages `manifest` and `infer` have done.

    Attributes:
        manifest: The manifest.
        finished: The committed shards, if there was nothing to compute.
        speed: The speed in words.
    """

    manifest: Manifest
    finished: dict[int, CommittedShard] | None
    speed: str


class Session:
    """One invocation: what it was asked, where it writes, what it says."""

    def __init__(self, config: RunConfig) -> None:
        """Nothing is written before the first stage."""
        self.config = config
        part: str | None = getattr(config.settings.executor, "part", None)
        self.directory = RunDirectory(config.run_dir, None if part is None else Part.parse(part))
        self.console = console()
        self.textfile = self._new_textfile()
        self.manifest_stage = ManifestStage(config, self.directory, self.console, self.say)
        submission = getattr(EXECUTORS.load(config.settings.executor.name), "submission", None)
        self.submission: Submission | None = submission and submission(config, self.directory, self.say)

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
            stop.kept = summary.after_stop(self.directory)
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
            manifest, made_with = manifests.read(self.directory.manifest)
            finished = self._finished(manifest, made_with)
            if not self.manifest_stage.looks:  # the corpus may have other columns now
                self._check_groups([field.name for field in own_columns(manifest.table.schema)])
                if finished is not None and self.directory.part is None and not self._to_write(finished):
                    return self._close(finished, "complete already; ")
        elif settings.extend == "check":
            raise UserError(f"extend=check: no run in run_dir={self.directory.root}; leave extend out to start one")
        elif settings.score.by:
            each = [CHANNEL] if settings.channels == "each" else []
            self._check_groups([*own_column_names(columns_of(self.config.dataset)).values(), *each])
        if self.submission is not None and finished is None:
            self.submission.check()
        elif "infer" in settings.stages and not self.directory.manifest.is_there:
            from pipeline.stages.infer import check_beforehand

            check_beforehand(self.config)
        with self.directory.new_or_kept():
            part = self.directory.part
            with (
                self.directory.lock(required=self.submission is None)
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
                    return self._conclude(computed)
            return self._conclude_part(part, computed)

    def _compute(self) -> _Computed | None:
        """Do the stages `manifest` and `infer`; `None` if the corpus was only to be compared with the manifest."""
        settings, directory = self.config.settings, self.directory
        self._open_log()
        self.textfile.begin()
        if directory.alone:
            # A part leaves those of others: parts on other machines may be at work behind locks of their own.
            directory.remove_leftovers(directory.part)
            finish_renewals(directory)
        manifest = self.manifest_stage.run()
        self._check_groups([field.name for field in own_columns(manifest.table.schema)])
        if settings.extend == "check" and self.manifest_stage.looks:
            return None
        # Asked again, now that the corpus has been listed, and a moved root has been found the same.
        finished = self._finished(manifest, self.manifest_stage.made_with())
        speed = ""
        if finished is None and "infer" in settings.stages and self.submission is None:
            # Imported here, so that whatever needs no model starts without waiting for torch.
            from pipeline.stages.infer import infer

            speed = infer(self.config, directory, manifest, self.console, self.say, self.textfile)
        return _Computed(manifest, finished, speed)

    def _conclude(self, computed: _Computed) -> int:
        """Do the stages after `infer`, and say what there is."""
        settings, finished = self.config.settings, computed.finished
        records: Mapping[int, CommittedShard] = self.directory.commits() if finished is None else finished
        to_write = settings.stages if finished is None else self._to_write(finished)
        if finished is not None and to_write:  # where `infer` ran it has written them
            self.directory.write(CONFIG, self.config.yaml.encode())
        records = self._write(computed.manifest, records, to_write, computed.speed)
        if "infer" not in settings.stages:
            self.say(f"stages {', '.join(settings.stages)} done in {self.directory.root}")
            return 0
        return self._close(records, "" if finished is None else "complete already; ", computed.speed)

    def _conclude_part(self, part: Part, computed: _Computed) -> int:
        """Say what the part has done; if it is the last one to end, do the stages after `infer` for the whole run."""
        mine = self.directory.shards_of(computed.manifest.num_shards)
        own = {shard: each for shard, each in self.directory.commits().items() if shard in mine}
        prefix = f"part {part}: "
        again = "" if computed.finished is None else "complete already; "
        infers = "infer" in self.config.settings.stages
        code = self._say_totals(prefix + again, own, computed.speed) if infers else 0
        try:
            with self.directory.lock_to_close():
                manifest, _ = manifests.read(self.directory.manifest)
                records: Mapping[int, CommittedShard] = self.directory.commits()
                left = sorted({*range(manifest.num_shards)} - self._complete(records))
                if not left:
                    self.directory.remove_leftovers()
                    records = self._write(manifest, records, self._to_write(records), "")
                    self._close(records, "all parts are done: ")
                else:
                    numbers = sorted({shard % part.of + 1 for shard in left})
                    said = ", ".join(f"{number}/{part.of}" for number in numbers[:_MOST_SAID])
                    more = ", ..." if len(numbers) > _MOST_SAID else ""
                    self.say(f"{counted(len(left), 'shard')} of the run left, of the parts {said}{more}")
        except Locked as error:
            self.say(f"{prefix}done; {error}")
        return code

    def _complete(self, records: Mapping[int, CommittedShard]) -> set[int]:
        """Return the shards that have all outputs which were asked for last."""
        recorded = self.directory.read_record()
        return set() if recorded is None else recorded.complete(records)

    def _write(
        self, manifest: Manifest, records: Mapping[int, CommittedShard], stages: Sequence[str], speed: str
    ) -> Mapping[int, CommittedShard]:
        """Write what follows from the tables; returns the committed shards after that.

        Args:
            manifest: The manifest.
            records: The committed shards, by shard.
            stages: The stages to do.
            speed: The speed in words.
        """
        if {"infer", "score"} & {*stages} and self._complete(records) >= {*range(manifest.num_shards)}:
            records = self._settle(manifest, records)
        if "score" in stages:
            self._score(manifest, records)
        if "report" in stages:
            try:
                self._report()
            except UserError:  # the tables are there, and are told of before the reason why the page is not
                self._close(records, "", speed)
                raise
        return records

    def _say_waiting(self, by: str) -> None:
        self.console.print(f"waiting for {by}, which plans or closes the run", markup=False)

    def _check_groups(self, own: Sequence[str]) -> None:
        """Refuse what scores cannot be asked by before hours are spent."""
        if "score" in self.config.settings.stages:
            check_groups(self.config.settings.score.by, own)

    def _to_write(self, records: Mapping[int, CommittedShard]) -> list[str]:
        """The stages that a run whose tables are complete has still to do."""
        settings = self.config.settings
        scored = not summary.total(records.values()).reference_words or is_scored(self.directory, settings.score)
        stale = [] if is_settled(self.directory.read_record()) else ["infer"]
        stale += [] if scored or "score" not in settings.stages else ["score"]
        if "report" in settings.stages and (stale or not is_current(self.directory, settings.report)):
            stale.append("report")
        return stale

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

    def _close(self, records: Mapping[int, CommittedShard], prefix: str, speed: str = "") -> int:
        """Say what is in the tables of a run, and where they are; returns the exit code."""
        self.directory.check_in_place()  # else the last lines would name a folder that is gone
        settings = self.config.settings
        scored = read_overall(self.directory) if "score" in settings.stages else None
        self.textfile.shards(len(records), len(records))
        recorded = self.directory.read_record()
        duplicates = (recorded and recorded.duplicates) or 0
        code = self._say_totals(prefix, records, speed, scored, duplicates)
        for line in summary.reading_lines(self.directory.root, settings.outputs):
            self.say(line)
        return code

    def _say_totals(
        self,
        prefix: str,
        records: Mapping[int, CommittedShard],
        speed: str,
        scored: tuple[int, int, str] | None = None,
        duplicates: int = 0,
    ) -> int:
        """Say what is in some committed shards; returns the exit code. See `summary.lines` for the parameters."""
        totals = summary.total(records.values())
        first, *others = summary.lines(totals, self.directory.root, speed, scored, duplicates)
        for line in (prefix + first, *others):
            self.say(line)
        return 3 if totals.num_failures else 0

    def _settle(self, manifest: Manifest, records: Mapping[int, CommittedShard]) -> Mapping[int, CommittedShard]:
        """Complete `same_as` in the transcripts; returns the committed shards after that."""
        with self.console.status("comparing the audio of all utterances"):
            return settle_same_as(self.directory, manifest, records)

    def _score(self, manifest: Manifest, records: Mapping[int, CommittedShard]) -> None:
        """Stage `score`: errors and rates over everything committed, overall and per group."""
        settings = self.config.settings.score
        with self.console.status("scoring") as status:

            def tell(utterances: int) -> None:
                status.update(f"scoring: {counted(utterances, 'utterance')}")
                self.textfile.progress()

            usual = getattr(self.config.dataset, "score_by", None)
            scores = score_run(self.directory, records, manifest.table.schema, settings, tell, usual)
        for picture in pictures(scores, self.console.width):
            self.console.print(picture, soft_wrap=isinstance(picture, Text) and not self.console.is_terminal)
        if not scores.table.num_rows and "infer" not in self.config.settings.stages:
            self.say("no transcript has a reference, so there is nothing to score")

    def _report(self) -> None:
        """Stage `report`: the page. The tables are there already, and more than a disk must fail to lose them."""
        # Imported here: the plotting library takes a while, and no other stage needs it.
        from pipeline.report import write_report

        failpoint("report")
        with self.console.status("writing the report"):
            page = write_report(self.directory, self.config.settings.report)
        self.say(f"report in {page}")
