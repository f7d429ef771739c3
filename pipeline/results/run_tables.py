"""The tables of a run, or of some of its utterances, as pandas data frames."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa

from pipeline.results import selection
from pipeline.results.alignments import read_alignments
from pipeline.results.committed import Committed, ShardIds
from pipeline.results.frames import WORDS, read_rows, read_words, to_frame
from pipeline.results.joining import Joined, On, join
from pipeline.results.keys import root_of
from pipeline.results.scores import read_scores, score_again
from pipeline.results.speakers import Speakers, read_speakers
from pipeline.scoring.coverage.stored import SCHEMA, read_coverage
from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.run_directory import RunDirectory


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)  # names the line that called `with_metadata`


class RunTables:
    """The tables of one run, as `pandas.DataFrame`s. Integers and booleans have pandas' nullable types.

    Attributes:
        path: The run directory.
    """

    def __init__(
        self,
        directory: RunDirectory,
        whole: RunTables | None = None,
        manifest: pd.DataFrame | None = None,
        joined: Joined | None = None,
        speakers: Speakers | None = None,
    ) -> None:
        """Read nothing yet. Use `open_run`, `select` and `with_metadata` instead of this constructor.

        Args:
            directory: The run directory.
            whole: The whole run, for a selection of its utterances.
            manifest: The rows of the manifest: those that are selected, with the columns that were joined.
            joined: The columns that were joined.
            speakers: Who spoke when, for the words.
        """
        self._directory = directory
        self._whole = whole or self
        self._joined = joined
        self._speakers = speakers
        self.path = directory.root
        if manifest is not None:
            self.manifest = manifest

    def __repr__(self) -> str:
        """Return the path and the number of utterances."""
        of = "" if self._whole is self else f" of {len(self._whole.manifest)}"
        return f"<Run {self.path}: {len(self.manifest)}{of} utterances>"

    def select(self, where: selection.Where | None = None, /, **columns: Any) -> Self:
        """Return the run restricted to some of its utterances.

        The result has the same members. It reads only the shards and row groups that hold these utterances.

            run.select(room="rm1", distractor=["none", "babb"])
            run.select(lambda manifest: manifest.duration_s > 5)
            run.select(run.transcripts.query("wer > 0.5").id)

        Args:
            where: A boolean Series with the index of `manifest` or indexed by id (null counts as false), a function
                that takes `manifest` and returns such a Series, or ids.
            columns: A value, or several allowed values, for a column of `manifest`; `None` is null.

        Raises:
            KeyError: A column or an id does not exist.
            TypeError: A value has another type than its column.
            ValueError: The rows of a boolean Series are not those of the manifest.
        """
        others = (self._concatenated(table, ["id"])["id"].to_pylist() for table in ("transcripts", "failures"))
        mask = selection.chosen(self.manifest, where, columns, others)
        chosen = self.manifest[mask].reset_index(drop=True)
        return type(self)(self._directory, self._whole, chosen, self._joined, self._speakers)

    def with_metadata(
        self, table: pd.DataFrame | str | Path, on: On = "id", tell: Callable[[str], None] = _warn
    ) -> Self:
        """Return the run with the columns of a table, which `manifest`, `transcripts`, `select` and `score` then have.

        Nothing is written. An utterance without a row in the table has nulls. A column whose name is taken is called
        `meta_<name>`, as a dataset's own columns are.

            run.with_metadata("speakers.csv").score(by=["dialect"])
            run.with_metadata(frame, on="path").select(device="phone")

        Args:
            table: A `pandas.DataFrame`, or the path of a CSV, TSV, JSON lines or Parquet file.
            on: What a row names its utterance by: `id`, or `path` for the path of the recording, spelled as
                `dataset.metadata` may spell it. The column has this name, or another usual one.
            tell: Called with one line if rows belong to no utterance, utterances have no row, or a column has another
                name. The default warns.

        Raises:
            UserError: The table cannot be read, does not have the column, names an utterance twice, or names none.
            TypeError: `table` is something else.
        """
        joined = join(self._directory, table, on, self._joined)
        if not joined.complete:
            tell(joined.said)
        before = [] if self._joined is None else self._joined.columns.column_names
        rows = to_frame(joined.beside(pa.table({"id": pa.array(self.manifest["id"])})))
        manifest = pd.concat([self.manifest, rows.drop(columns=["id", *before])], axis=1)
        whole = None if self._whole is self else self._whole
        return type(self)(self._directory, whole, manifest, joined, self._speakers)

    def with_speakers(self, path: str | Path) -> Self:
        """Return the run whose words have a speaker, which an RTTM file names. Nothing is written.

        The speaker of a word is the one who talks longest during it; of several, the one whose turn begins first. A
        word during which nobody talks has none. RTTM names a recording by its file name without folder and extension.

            words = run.with_speakers("meetings.rttm").words
            words[~words.overlap].groupby("speaker").size()

        Args:
            path: The RTTM file.

        Raises:
            UserError: The file cannot be read, a line is wrong, no line names a recording of the run, or a name may be
                any of several recordings.
        """
        speakers = read_speakers(path, self.manifest["path"].unique())
        manifest = self.__dict__.get("manifest")
        return type(self)(
            self._directory, None if self._whole is self else self._whole, manifest, self._joined, speakers
        )

    @cached_property
    def commits(self) -> dict[int, CommittedShard]:
        """The committed shards that hold any of these utterances, by shard. Their records are read once."""
        if self._whole is self:
            return self._directory.commits()
        shards = set(self.manifest["shard"])
        return {shard: record for shard, record in self._whole.commits.items() if shard in shards}

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row per utterance, made before any model ran."""
        return to_frame(self._directory.manifest.read())

    @property
    def decodings(self) -> list[str]:
        """Names of the decodings of the run; `open_run(f"{run.path}/transcripts-{name}")` opens one."""
        return self._directory.decodings()

    @cached_property
    def transcripts(self) -> pd.DataFrame:
        """One row per utterance with a result; empty if transcripts were not requested."""
        found = self._concatenated("transcripts")
        return to_frame(found if self._joined is None else self._joined.beside(found))

    @cached_property
    def failures(self) -> pd.DataFrame:
        """One row per utterance without a result."""
        return to_frame(self._concatenated("failures"))

    @cached_property
    def words(self) -> pd.DataFrame:
        """One row per word: id, word, start_s, end_s (seconds in the original file), probability.

        After `with_speakers` also `speaker`, and `overlap`: whether somebody else speaks during the word.
        """
        found = [read_words(stored, ids) for stored, ids in self._committed.files("transcripts")]
        words = pa.concat_tables(found) if found else WORDS.empty_table()
        if self._speakers is not None:
            known = self.manifest.set_index("id")
            recorded = self._directory.read_record()
            first = recorded is not None and recorded.combined.channels == "first"
            channels = dict.fromkeys(known.index, 1) if first else {}
            if tables.CHANNEL in known:
                channels |= {id_: int(each) for id_, each in known[tables.CHANNEL].dropna().items()}
            words = self._speakers.beside(words, dict(known["path"]), channels)
        return to_frame(words)

    def transcripts_of(self, shard: int) -> pa.Table:
        """Return the transcripts of one shard as an Arrow table, with the columns that were joined.

        Call it for one shard after the other where the transcripts of all would fill the memory. The table has no rows
        if the shard is not committed.
        """
        files = self._committed.files_of(shard, "transcripts") if shard in self.commits else []
        found = [read_rows(stored, ids) for stored, ids in files] or [self._no_transcripts()]
        rows = pa.concat_tables(found, promote_options="permissive")
        return rows if self._joined is None else self._joined.beside(rows)

    @property
    def recording_root(self) -> str:
        """The folder of the recordings: that of the dataset, or else the one that holds all of them."""
        made_with = tables.metadata_of(self._directory.manifest.schema()).get("made_with") or {}
        paths: list[str] = self.manifest["path"].tolist()
        return root_of(made_with, paths)

    @cached_property
    def alignments(self) -> pd.DataFrame:
        """One row per utterance that the stage `align` has read; empty if it has not run.

        Rows of references that have been corrected since are left out.
        """
        ids = None if self._whole is self else self._committed.ids
        return to_frame(read_alignments(self._directory, self.commits, ids))

    @property
    def scores(self) -> pd.DataFrame:
        """Errors and rates overall and per group, with 95 % intervals; empty if nothing has been scored.

        For a selection, they are counted again with the same groups and the same normaliser.
        """
        return self._scored[0]

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """One row per recording: seconds decoded, of speech, of speech without text, of text without speech.

        Empty if the stage `vad` has not been done since the run changed last. `run.coverage.sum(numeric_only=True)` has
        the totals. A selection has the recordings of its utterances.
        """
        found = read_coverage(self._directory)
        frame = to_frame(SCHEMA.empty_table() if found is None else found)
        return frame if self._whole is self else frame[frame["path"].isin(self.manifest["path"])].reset_index(drop=True)

    @property
    def confusions(self) -> pd.DataFrame:
        """Wrong words: kind, reference, hypothesis, count. The most frequent are first."""
        return self._scored[1]

    def score(self, by: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Count errors and rates overall and per group, with 95 % intervals, as the stage `score` does.

        The result has the columns of `scores`, and is empty without references. The normaliser is that of `scores`.

            run.score(by=["room", "room+distractor"])

        Args:
            by: Columns of the dataset, or joined by `with_metadata`; `+` crosses columns. `None` takes the groups of
                `scores`, and all joined columns except those of floating point numbers.

        Raises:
            UserError: There is no such column, or the package of the normaliser is not installed.
        """
        scored, _ = read_scores(self._directory)
        return to_frame(self._score(scored, [by] if isinstance(by, str) else by)[0])

    def _score(self, scored: pa.Table, by: Sequence[str] | None) -> tuple[pa.Table, pa.Table]:
        return score_again(self._committed.files("transcripts"), self._own_fields, self._joined, scored, by)

    @cached_property
    def _scored(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        scores, confusions = read_scores(self._directory)
        if self._whole is not self and scores.num_rows:
            groups = list(dict.fromkeys(scores["group"][1:].to_pylist()))  # the first row is the overall row
            scores, confusions = self._score(scores, groups)
        return to_frame(scores), to_frame(confusions)

    @cached_property
    def _committed(self) -> Committed:
        return Committed(self._directory, self.commits, ShardIds(self.manifest))

    @cached_property
    def _own_fields(self) -> list[pa.Field]:
        return tables.own_columns(self._directory.manifest.schema())

    def _concatenated(self, table: str, columns: list[str] | None = None) -> pa.Table:
        parts = [read_rows(stored, ids, columns) for stored, ids in self._committed.files(table)]
        if parts:  # columns may differ between the files while those of a grown corpus are written
            return pa.concat_tables(parts, promote_options="permissive")
        if table == "failures":
            return tables.FAILURES.empty_table()
        return self._no_transcripts()

    def _no_transcripts(self) -> pa.Table:
        return self._directory.transcripts_schema(self._directory.manifest.schema()).empty_table()
