"""What a run does after the stage `infer`: it completes `same_as`, scores, makes the report, and says what there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from pipeline.config.run_config import RunConfig
from pipeline.inference.textfile import RunTextfile
from pipeline.report.freshness import is_current
from pipeline.runtime.errors import UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.terminal import counted
from pipeline.scoring.coverage.stored import read_coverage
from pipeline.scoring.terminal import pictures
from pipeline.stages.align import align
from pipeline.stages.compact import compact
from pipeline.stages.coverage import cover
from pipeline.stages.decode import decode, describe_decodings_again
from pipeline.stages.duplicates import is_settled, settle_same_as
from pipeline.stages.score import is_scored, read_overall, score_run
from pipeline.storage import manifest as manifests
from pipeline.storage import summary
from pipeline.storage.commits import CommittedShard
from pipeline.storage.lock import Locked
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import CONFIG, TABLES, Part
from pipeline.storage.run_directory import RunDirectory

_MOST_SAID = 10
"""Parts with shards left that are named."""


class Computed(NamedTuple):
    """What the stages `manifest` and `infer` have done.

    Attributes:
        manifest: The manifest.
        finished: The committed shards, if there was nothing to compute.
        speed: The speed in words.
    """

    manifest: Manifest
    finished: dict[int, CommittedShard] | None
    speed: str


class Conclusion:
    """Concludes a run, or a part of a run."""

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        console: Console,
        say: Callable[[str], None],
        textfile: RunTextfile,
    ) -> None:
        """Do nothing yet.

        Args:
            config: The configuration.
            directory: The run.
            console: Console of the live view.
            say: Prints and logs a line.
            textfile: The figures of the run for Prometheus.
        """
        self._config = config
        self._directory = directory
        self._console = console
        self._say = say
        self._textfile = textfile

    def whole(self, computed: Computed) -> int:
        """Do the stages after `infer`, and say what there is."""
        settings, finished = self._config.settings, computed.finished
        if "decode" in settings.stages:
            return self._decoded(computed.manifest)
        records: Mapping[int, CommittedShard] = self._directory.commits() if finished is None else finished
        to_write = settings.stages if finished is None else self.to_write(finished)
        if finished is not None and to_write:  # where `infer` ran it has written them
            self._directory.write(CONFIG, self._config.yaml.encode())
        records = self._write(computed.manifest, records, to_write, computed.speed)
        if "infer" not in settings.stages:
            scored = read_overall(self._directory) if "score" in settings.stages else None
            for line in summary.error_lines(scored):
                self._say(line)
            self._say(f"did stages=[{','.join(settings.stages)}] in {self._directory.root}")
            return 0
        return self.close(records, "" if finished is None else "complete already; ", computed.speed)

    def _decoded(self, manifest: Manifest) -> int:
        """Do the stage `decode`, and the stages after it over what it has decoded."""
        settings = self._config.settings
        records = self._directory.commits()
        if "align" in settings.stages:
            align(self._config, self._directory, manifest, records, self._console, self._say)
        name = decode(self._config, self._directory, manifest, records, self._console, self._say)
        own = Conclusion(self._config, self._directory.of_decoding(name), self._console, self._say, self._textfile)
        records = own._directory.commits()
        if "score" in settings.stages:
            own._score(manifest, records)
        if "vad" in settings.stages:
            own._cover(manifest, records)
        if "report" in settings.stages:
            own._report()
        own.close(records, "")
        return 0

    def of_part(self, part: Part, computed: Computed) -> int:
        """Say what the part has done; if it is the last one to end, do the stages after `infer` for the whole run."""
        mine = self._directory.shards_of(computed.manifest.num_shards)
        own = self._directory.commits(mine)
        prefix = f"part {part}: "
        again = "" if computed.finished is None else "complete already; "
        infers = "infer" in self._config.settings.stages
        code = self._say_totals(prefix + again, own, computed.speed) if infers else 0
        try:
            with self._directory.lock_to_close():
                manifest, _ = manifests.read(self._directory.manifest)
                records: Mapping[int, CommittedShard] = self._directory.commits()
                left = sorted({*range(manifest.num_shards)} - self._complete(records))
                if not left:
                    self._directory.remove_leftovers()
                    records = self._write(manifest, records, self.to_write(records), "")
                    self.close(records, "all parts are done: ")
                else:
                    numbers = sorted({shard % part.of + 1 for shard in left})
                    said = ", ".join(f"{number}/{part.of}" for number in numbers[:_MOST_SAID])
                    more = ", ..." if len(numbers) > _MOST_SAID else ""
                    self._say(f"{counted(len(left), 'shard')} of the run left, of the parts {said}{more}")
        except Locked as error:
            self._say(f"{prefix}done; {error}")
        return code

    def _complete(self, records: Mapping[int, CommittedShard]) -> set[int]:
        """Return the shards that have all outputs which were asked for last."""
        recorded = self._directory.read_record()
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
        if "align" in stages:
            align(self._config, self._directory, manifest, records, self._console, self._say)
        if "score" in stages:
            self._score(manifest, records)
        if "vad" in stages:
            self._cover(manifest, records)
        if "compact" in stages:
            self._compact(records)
        settings = self._config.settings
        if "report" in stages or (
            {"align", "report"} <= {*settings.stages} and not is_current(self._directory, settings.report)
        ):
            try:
                self._report()
            except UserError:  # the tables are there, and are told of before the reason why the page is not
                self.close(records, "", speed)
                raise
        return records

    def to_write(self, records: Mapping[int, CommittedShard]) -> list[str]:
        """The stages that a run whose tables are complete has still to do."""
        settings = self._config.settings
        scored = not summary.total(records.values()).reference_words or is_scored(self._directory, settings.score)
        stale = [] if is_settled(self._directory.read_record()) else ["infer"]
        stale += [] if scored or "score" not in settings.stages else ["score"]
        stale += [] if self._is_covered(records) or "vad" not in settings.stages else ["vad"]
        if "report" in settings.stages and (stale or not is_current(self._directory, settings.report)):
            stale.append("report")
        # Only these stages know whether they are complete; where `align` has changed anything, the report follows.
        return [*stale, *(stage for stage in ("align", "compact") if stage in settings.stages)]

    def close(self, records: Mapping[int, CommittedShard], prefix: str, speed: str = "") -> int:
        """Say what is in the tables of a run, and where they are; returns the exit code."""
        self._directory.check_in_place()  # else the last lines would name a folder that is gone
        settings = self._config.settings
        scored = read_overall(self._directory) if "score" in settings.stages else None
        self._textfile.shards(len(records), len(records))
        recorded = self._directory.read_record()
        duplicates = (recorded and recorded.duplicates) or 0
        code = self._say_totals(prefix, records, speed, scored, duplicates)
        decoded = self._directory.decoded
        for table in map(self._directory.compacted, TABLES if decoded is None else ()):
            if stale := table.stale(records):
                self._say(f"{stale}, so its readers find older rows; stages=[compact] writes them")
        for line in summary.reading_lines(self._directory.root, [decoded.folder] if decoded else settings.outputs):
            self._say(line)
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
        first, *others = summary.lines(totals, self._directory.root, speed, scored, duplicates)
        for line in (prefix + first, *others):
            self._say(line)
        return 3 if totals.num_failures else 0

    def _settle(self, manifest: Manifest, records: Mapping[int, CommittedShard]) -> Mapping[int, CommittedShard]:
        """Complete `same_as` in the transcripts and in decodings; returns the committed shards after that."""
        with self._console.status("comparing the audio of all utterances"):
            settled = settle_same_as(self._directory, manifest, records)
            if settled is not records:
                describe_decodings_again(self._directory, manifest)
            return settled

    def _score(self, manifest: Manifest, records: Mapping[int, CommittedShard]) -> None:
        """Stage `score`: errors and rates over everything committed, overall and per group."""
        settings = self._config.settings.score
        with self._console.status("scoring") as status:

            def tell(utterances: int) -> None:
                status.update(f"scoring: {counted(utterances, 'utterance')}")
                self._textfile.progress()

            usual = getattr(self._config.dataset, "score_by", None)
            scores = score_run(self._directory, records, manifest.schema, settings, tell, usual)
        height = self._console.height if self._console.is_terminal else None
        for picture in pictures(scores, self._console.width, height):
            self._console.print(picture, soft_wrap=isinstance(picture, Text) and not self._console.is_terminal)
        if not scores.table.num_rows and "infer" not in self._config.settings.stages:
            self._say("no transcript has a reference, so there is nothing to score")

    def _cover(self, manifest: Manifest, records: Mapping[int, CommittedShard]) -> None:
        """Stage `vad`, after the tables: compare the speech in the recordings with their text."""
        if self._config.makes_segments and not any(shard.having("transcripts") for shard in records.values()):
            return
        with self._console.status("comparing speech with text") as status:

            def tell(what: str) -> None:
                status.update(what)
                self._textfile.progress()

            said = cover(self._config, self._directory, manifest, records, tell)
        self._say(said)

    def _is_covered(self, records: Mapping[int, CommittedShard]) -> bool:
        """Whether `coverage.parquet` fits the tables, or there is nothing that it could be made of."""
        detector = self._config.detector
        if detector is None or not any(shard.having("transcripts") for shard in records.values()):
            return True
        return read_coverage(self._directory, detector.identity()) is not None

    def _compact(self, records: Mapping[int, CommittedShard]) -> None:
        """Stage `compact`: the tables in few large files."""
        with self._console.status("compacting") as status:

            def tell(what: str) -> None:
                status.update(what)
                self._textfile.progress()

            settings = self._config.settings.compact
            said = compact(self._directory, records, settings.tables, tell, settings.by)
        self._say(said)

    def _report(self) -> None:
        """Stage `report`: the page. The tables are there already, and more than a disk must fail to lose them."""
        # Imported here: the plotting library takes a while, and no other stage needs it.
        from pipeline.report import write_report

        failpoint("report")
        with self._console.status("writing the report"):
            page = write_report(self._directory, self._config.settings.report)
        self._say(f"report in {page}")
