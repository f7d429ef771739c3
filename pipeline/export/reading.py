"""Reads a run as recordings, some thousand utterances at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.export.material import Exported, Recording, Segment, Word
from pipeline.results import Run
from pipeline.results.recording_names import recording_names
from pipeline.results.speakers import Speakers
from pipeline.runtime.errors import UserError
from pipeline.scoring.membership import speaker_column
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import CHANNEL

WINDOW_ROWS = 200_000
"""Utterances whose transcripts are in memory at a time, except those of a recording that has more."""
_BLOCK_ROWS = 2_000
"""Utterances that are Python objects at a time, except those of a recording that has more."""
_FACTS = ("path", "start_s", "duration_s", "sample_rate", "num_channels", "file_size")
_READ = ["id", "text", "words", "reference", "avg_logprob"]


def open_transcribed(run_dir: Path) -> tuple[RunDirectory, Run, bool]:
    """Open a run that has transcripts, or a decoding of a run.

    Returns:
        Its files, its tables, and whether it took the first channel of each recording.

    Raises:
        UserError: There is no run or no such decoding, or the run has no transcripts.
    """
    directory = RunDirectory.at(run_dir)
    directory.require_run()
    recorded = directory.read_record()
    if recorded is None or (directory.decoded is None and "transcripts" not in recorded.combined.outputs):
        raise UserError(f"{run_dir}: the run has no transcripts; run it with outputs=[transcripts] to add them")
    return directory, Run(directory), recorded.combined.channels == "first"


@dataclass(frozen=True)
class Reader:
    """Reads the recordings of a run in the order of the manifest.

    All utterances of a recording come together, also where they are in several shards. Shards are read once where the
    manifest lists the utterances of a recording one after the other; otherwise once for each `WINDOW_ROWS` utterances.

    Attributes:
        run: The run, or a selection of its utterances.
        first_channel: Whether the run took the first channel of each recording.
        references: Whether to take references instead of transcripts. Utterances without one are left out.
        speakers: Who spoke when; `None` takes the dataset's column for the speaker, or the channel.
    """

    run: Run
    first_channel: bool = False
    references: bool = False
    speakers: Speakers | None = None

    def recordings(self, exported: Exported) -> Iterator[Recording]:
        """Yield the recordings that have a transcript, and count them in `exported`."""
        manifest = self.run.manifest
        names = recording_names(manifest["path"].unique(), self.run.recording_root)
        codes, _ = pd.factorize(manifest["path"])
        order = np.argsort(codes, kind="stable")
        last_row = np.cumsum(np.bincount(codes)) - 1
        window_of = (last_row // WINDOW_ROWS)[codes[order]]
        held: dict[int, pa.Table] = {}
        for rows in np.split(order, np.flatnonzero(np.diff(window_of)) + 1) if len(order) else ():
            window = manifest.iloc[rows]
            found = []
            for shard, ids in window.groupby("shard", sort=False)["id"]:
                table = held[shard] if shard in held else self._transcripts(int(shard))
                found.append(table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string()))))
                held = {shard: table}  # the next window may begin in the same shard
            pairs = _beside(window, pa.concat_tables(found, promote_options="permissive").combine_chunks())
            for path, mine in groupby(pairs, key=lambda pair: pair[0]["path"]):
                if recording := self._recording(names[path], path, [*mine]):
                    exported.recordings += 1
                    exported.utterances += len(recording.segments)
                    exported.overlapping += sum(segment.overlapping for segment in recording.segments)
                    yield recording

    def _transcripts(self, shard: int) -> pa.Table:
        """Return the columns of a shard that are exported; `said_by` is the dataset's speaker."""
        table = self.run.transcripts_of(shard)
        speaker = speaker_column(table.schema.names) if self.speakers is None else None
        said_by = pa.nulls(len(table), pa.string()) if speaker is None else table[speaker].cast(pa.string())
        table = table.select(_READ).append_column("said_by", said_by)
        return table.filter(pc.is_valid(table["reference"])) if self.references else table

    def _recording(
        self, name: str, path: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any] | None]]
    ) -> Recording | None:
        several = len({_known(fact.get(CHANNEL)) for fact, _ in pairs}) > 1
        speakers = {row["said_by"] for _, row in pairs if row is not None}
        sides = several and len(speakers) == 1  # the dataset does not tell the sides of a call apart
        segments = [self._segment(path, fact, row, sides=sides) for fact, row in pairs if row is not None]
        if not segments:
            return None
        first, _ = pairs[0]
        ordered = sorted(segments, key=lambda segment: (segment.start_s, segment.channel or 0))
        return Recording(
            name=name,
            path=path,
            duration_s=max(segment.end_s for segment in segments),
            sample_rate=int(_known(first["sample_rate"]) or 0),
            num_channels=int(_known(first["num_channels"]) or 1),
            file_size=_known(first["file_size"]),
            is_measured=_known(first["sample_rate"]) is not None
            and any(_known(fact["start_s"]) is None for fact, row in pairs if row is not None),
            segments=tuple(ordered),
        )

    def _segment(self, path: str, fact: Mapping[str, Any], row: Mapping[str, Any], *, sides: bool) -> Segment:
        written = _known(fact.get(CHANNEL))
        channel = int(written) if written else 1 if self.first_channel else None
        start_s = _known(fact["start_s"])
        begin_s = start_s or 0.0
        times = [(word["start_s"], word["end_s"]) for word in row["words"] or ()]
        usual = f"c{channel}" if sides else _one_line(row["said_by"]) or None
        if self.speakers is None:
            said = [(usual, False)] * len(times)
        else:
            said = self.speakers.of(path, channel, times)
            usual = None
        words = tuple(
            Word(word["word"], word["start_s"], word["end_s"], word["probability"], speaker)
            for word, (speaker, _) in zip(row["words"] or (), said, strict=True)
        )
        return Segment(
            id=row["id"],
            text=_one_line(row["reference"] if self.references else row["text"]),
            start_s=begin_s,
            end_s=begin_s + (_known(fact["duration_s"]) or 0.0),
            words=() if self.references else words,
            channel=channel,
            speaker=usual,
            whole=start_s is None and channel is None,
            reference=None if row["reference"] is None else _one_line(row["reference"]),
            avg_logprob=row["avg_logprob"],
            overlapping=sum(overlap for _, overlap in said),
        )


def _beside(window: pd.DataFrame, found: pa.Table) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Yield the row of each utterance in the manifest, and its transcript; `None` if it has none."""
    facts = window[["id", *_FACTS, *([CHANNEL] if CHANNEL in window else [])]]
    place = pc.index_in(pa.array(window["id"], pa.string()), value_set=found["id"].combine_chunks())
    for start in range(0, len(facts), _BLOCK_ROWS):
        taken = found.take(place.slice(start, _BLOCK_ROWS)).to_pylist()
        for fact, row in zip(facts.iloc[start : start + _BLOCK_ROWS].to_dict("records"), taken, strict=True):
            yield fact, row if row["id"] is not None else None


def _one_line(text: str | None) -> str:
    """Return a text with single spaces in place of line breaks and other white space."""
    return " ".join((text or "").split())


def _known(value: Any) -> Any:
    """Return a value of the manifest; `None` for a null, whatever pandas writes for it."""
    return None if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value
