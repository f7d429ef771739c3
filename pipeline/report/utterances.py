"""Reads the utterances that the page shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.audio.waveforms import Extent, channel_to_read
from pipeline.records.transcripts import Word
from pipeline.report.arrays import Cut, Frames, read_emissions, read_features
from pipeline.report.axis import Span, place_words, span_of, ticks_of
from pipeline.report.clips import MAX_SAMPLES, Clip, Wanted, read_clips
from pipeline.report.labels import roles_of, visible
from pipeline.report.pictures import data_uri, draw_emission, draw_features, outline
from pipeline.report.population import Population
from pipeline.report.selection import Choice, Kind
from pipeline.report.showing import Emission, Feature, ShownUtterance, shown_pairs
from pipeline.report.stretches import CLIP_S, choose_stretch
from pipeline.report.texts import masked, shown
from pipeline.results.joining import Joined
from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import StoredTable
from pipeline.storage.run_directory import RunDirectory

_COLUMNS = ("id", "num_frames", "text", "avg_logprob", "words", "word_errors", "reference_words", "wer")


@dataclass(frozen=True)
class _Row:
    """A chosen utterance before its recording is read. `start_s` and `end_s` are the part to show, in the file."""

    kind: Kind
    rank: int
    manifest: Mapping[str, Any]
    transcript: Mapping[str, Any]
    words: Sequence[Word]
    start_s: float
    end_s: float
    duration_s: float | None

    @property
    def begin_s(self) -> float:
        """Start of the utterance in its file, in seconds."""
        return float(self.manifest["start_s"] or 0.0)


def read_utterances(
    directory: RunDirectory,
    records: Mapping[int, CommittedShard],
    population: Population,
    choice: Choice,
    channels: str,
    layers: Sequence[int] | None,
    joined: Joined | None = None,
    stretches: Mapping[str, Sequence[Word]] | None = None,
) -> list[ShownUtterance]:
    """Read everything that the page shows of the chosen utterances.

    Args:
        directory: The run.
        records: The committed shards, by shard.
        population: All utterances with a result.
        choice: The chosen utterances.
        channels: `mix`, `first` or `each`, as in the run.
        layers: Layers to show; `None` shows no pictures of features and emissions.
        joined: Columns that are shown like the dataset's own; `None` for none.
        stretches: Words by which the part of a long utterance is chosen, by id; `None` for those of the transcript.
    """
    rows = list(_rows(directory, population, choice, joined, stretches or {}))
    clips = read_clips([_wanted(row, channels) for row in rows])
    ends = [
        row.start_s + clip.duration_s if isinstance(clip, Clip) else row.end_s
        for row, clip in zip(rows, clips, strict=True)
    ]
    emissions: dict[str, Emission] = {}
    features: dict[str, list[Feature]] = {}
    for shard in {row.manifest["shard"] for row in rows} if layers is not None else ():
        here = [(row, end_s) for row, end_s in zip(rows, ends, strict=True) if row.manifest["shard"] == shard]
        for stored in directory.tables(records[shard], "emissions"):
            emissions |= _emissions(stored, here)
        for layer in layers or ():
            for stored in directory.tables(records[shard], "features"):
                for id_, drawn in _features(stored, here, layer).items():
                    features.setdefault(id_, []).append(drawn)
    return [
        _shown(row, end_s, clip, emissions.get(row.manifest["id"]), features.get(row.manifest["id"], []))
        for row, end_s, clip in zip(rows, ends, clips, strict=True)
    ]


def _rows(
    directory: RunDirectory,
    population: Population,
    choice: Choice,
    joined: Joined | None,
    stretches: Mapping[str, Sequence[Word]],
) -> Iterator[_Row]:
    chosen = [(kind, rank, int(at)) for kind, found in choice.positions.items() for rank, at in enumerate(found, 1)]
    ids = population.ids(np.array([at for _, _, at in chosen], dtype=np.int64))
    manifest = directory.manifest.read(filters=pc.field("id").isin(ids)) if ids else None
    manifest = joined.beside(manifest) if manifest is not None and joined is not None else manifest
    of_id = {row["id"]: row for row in manifest.to_pylist()} if manifest is not None else {}
    for (kind, rank, at), id_ in zip(chosen, ids, strict=True):
        stored, transcript = population.files[population.file[at]], dict[str, Any]()
        if stored != directory.manifest:
            (transcript,) = stored.read(_COLUMNS).slice(int(population.row[at]), 1).to_pylist()
        words = [Word(**word) for word in transcript.get("words") or ()]
        row = of_id[id_]
        begin_s, duration_s = row["start_s"] or 0.0, row["duration_s"]
        heard_s = max([0.1, *(word.end_s - begin_s for word in words)])
        longest_s = min(CLIP_S, MAX_SAMPLES / row["sample_rate"]) if row["sample_rate"] else CLIP_S
        start_s, end_s = choose_stretch(stretches.get(id_, words), begin_s, duration_s or heard_s, kind, longest_s)
        yield _Row(kind, rank, row, transcript, words, start_s, end_s, duration_s)


def _wanted(row: _Row, channels: str) -> Wanted:
    manifest = row.manifest
    channel = channel_to_read(manifest.get(tables.CHANNEL), channels)
    extent = Extent(manifest["path"], manifest["start_s"], manifest["end_s"], channel, manifest["file_size"])
    return Wanted(extent, row.start_s - row.begin_s, row.end_s - row.begin_s, manifest["sample_rate"])


def _shown(
    row: _Row, end_s: float, clip: Clip | str, emission: Emission | None, features: Sequence[Feature]
) -> ShownUtterance:
    manifest, transcript = row.manifest, row.transcript
    text, reference = transcript.get("text"), manifest["reference"]
    own = {
        masked(name, 40): masked(value, 80)
        for name, value in list(manifest.items())[len(tables.MANIFEST_FIELDS) :]
        if value is not None
    }
    return ShownUtterance(
        kind=row.kind,
        rank=row.rank,
        id=masked(manifest["id"], 300),
        path=masked(manifest["path"], 500),
        own=own,
        duration_s=row.duration_s,
        start_s=row.start_s,
        end_s=end_s,
        whole=row.duration_s is not None and row.duration_s - (end_s - row.start_s) < 0.1,
        wer=transcript.get("wer"),
        word_errors=transcript.get("word_errors"),
        reference_words=transcript.get("reference_words"),
        avg_logprob=transcript.get("avg_logprob"),
        reference=None if reference is None else shown(reference),
        text=None if text is None else shown(text),
        pairs=shown_pairs(reference, text),
        audio=data_uri(clip.media_type, clip.data) if isinstance(clip, Clip) else None,
        problem="" if isinstance(clip, Clip) else shown(clip, 300),
        wave=outline(clip.envelope) if isinstance(clip, Clip) else "",
        words=place_words(row.words, row.start_s, end_s),
        ticks=ticks_of(row.start_s, end_s),
        emission=emission,
        features=features,
    )


def _emissions(stored: StoredTable, rows: Sequence[tuple[_Row, float]]) -> dict[str, Emission]:
    """Draw the emissions of a shard's utterances, by id. Each row comes with the end of the part that is shown."""
    metadata = tables.metadata_of(stored.schema())
    stride, names, roles = metadata["seconds_per_frame"], list(metadata["labels"]), roles_of(metadata)
    found = read_emissions(stored, [_cut(row, end_s, stride) for row, end_s in rows])
    drawn = {}
    for row, end_s in rows:
        values = found.get(row.manifest["id"])
        if values is not None:
            picture = draw_emission(values)
            labels = [roles.get(label) or shown(visible(names[label]), 12) for label in picture.labels]
            drawn[row.manifest["id"]] = Emission(picture, _place(row, end_s, stride, values), labels, len(names))
    return drawn


def _features(stored: StoredTable, rows: Sequence[tuple[_Row, float]], layer: int) -> dict[str, Feature]:
    """Draw a layer of a shard's utterances, by id. Each row comes with the end of the part that is shown."""
    stride = tables.metadata_of(stored.schema())["seconds_per_frame"]
    found = read_features(stored, [_cut(row, end_s, stride) for row, end_s in rows], layer)
    return {
        row.manifest["id"]: Feature(draw_features(values, layer), _place(row, end_s, stride, values))
        for row, end_s in rows
        if (values := found.get(row.manifest["id"])) is not None
    }


def _cut(row: _Row, end_s: float, stride: float) -> Cut:
    """Return the frames of the part that is shown."""
    first, last = (row.start_s - row.begin_s) / stride, (end_s - row.begin_s) / stride
    return Cut(row.manifest["id"], max(0, math.floor(first + 1e-6)), math.ceil(last - 1e-6))


def _place(row: _Row, end_s: float, stride: float, frames: Frames) -> Span:
    """Return the position of frames on the time axis. Frame i of an utterance starts at i x stride."""
    start_s = row.begin_s + _cut(row, end_s, stride).first * stride
    return span_of(row.start_s, end_s, start_s, start_s + len(frames) * stride)
