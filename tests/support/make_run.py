"""Runs put together by hand, through the project's own writers, whose every answer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.schema import ScoreSettings
from pipeline.records import ArrayPart, Failure
from pipeline.scoring.counting import COUNTS, count_errors
from pipeline.stages.score import score_run
from pipeline.storage import manifest as manifests
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.committing import commit
from pipeline.storage.identity import Identity
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord

STRIDE_S = 0.02
LABELS = ("-", "|", "A", "B", "C")


@dataclass
class Spoken:
    """An utterance and what the model is to have said of it.

    Attributes:
        words: `(word, first frame, last frame (exclusive), probability)`.
        columns: The dataset's own.
        features: Layer to `(frames, dim)`; every utterance of a run has the same layers.
        emission: `(frames, labels)`.
        failed: Whether it has no result.
    """

    id: str
    words: Sequence[tuple[str, int, int, float]] = ()
    reference: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[int, NDArray[np.floating]] = field(default_factory=dict)
    emission: NDArray[np.floating] | None = None
    num_frames: int = 50
    start_s: float | None = None
    path: str = "/not/there.wav"
    failed: bool = False


def make_run(
    root: Path,
    shards: Sequence[Sequence[Spoken]],
    columns: Mapping[str, str] | None = None,
    outputs: Sequence[str] = ("transcripts", "emissions", "features"),
    rows_per_group: int = 2,
    frames_per_part: int = 10**9,
    uncommitted: Sequence[int] = (),
) -> Path:
    """Write a run directory: manifest, run.json, every shard but those `uncommitted`, scores.

    Args:
        root: The run directory.
        shards: The utterances of each shard.
        columns: The dataset's own columns, name to type.
        outputs: The tables it has.
        rows_per_group: Rows in a row group of arrays.
        frames_per_part: Frames in a row of arrays.
        uncommitted: Shards that are not done.
    """
    columns = columns or {}
    directory = RunDirectory(root)
    rows = [_manifest_row(spoken, shard) for shard, spokens in enumerate(shards) for spoken in spokens]
    manifest = Manifest(pa.Table.from_pylist(rows, schema=tables.manifest_schema(columns)), digest="d")
    manifests.write(directory, manifest, {"dataset": "folder"})
    layers = sorted({layer for spokens in shards for spoken in spokens for layer in spoken.features})
    record = run_record(outputs, layers)
    directory.write("run.json", record.encode())
    for shard, spokens in enumerate(shards):
        if shard not in uncommitted:
            _commit(directory, record.fingerprint, shard, spokens, manifest, outputs, rows_per_group, frames_per_part)
    if "transcripts" in outputs:
        score_run(directory, directory.commits(), manifest.table.schema, ScoreSettings())
    return root


def _manifest_row(spoken: Spoken, shard: int) -> dict[str, Any]:
    facts = {"duration_s": spoken.num_frames * STRIDE_S, "sample_rate": 16000, "num_channels": 1}
    return {
        "id": spoken.id,
        "path": spoken.path,
        "start_s": spoken.start_s,
        "reference": spoken.reference,
        "shard": shard,
        **facts,
        **spoken.columns,
    }


def run_record(outputs: Sequence[str] = ("transcripts",), layers: Sequence[int] = (), **identity: Any) -> RunRecord:
    """What `run.json` says of a run that nobody computed."""
    values: dict[str, Any] = {
        "schema_version": 1, "manifest": "d", "model": "constructed", "weights_sha256": "w", "precision": "fp32",
        "outputs": tuple(sorted(outputs)), "channels": "mix", "chunk_seconds": 60.0, "chunk_context_seconds": 4.0,
        "torch": "2.11", "torchaudio": "2.11", "layers": tuple(layers) if "features" in outputs else (),
        "feature_dtype": "float16" if "features" in outputs else None,
        "emission_dtype": "float32" if "emissions" in outputs else None,
        "decoder": "greedy" if "transcripts" in outputs else None,
    }  # fmt: skip
    return RunRecord(Identity(**values | identity), None, None, {}, "cpu", "2026-11-27T00:00:00+00:00")


def _commit(
    directory: RunDirectory,
    fingerprint: str,
    shard: int,
    spokens: Sequence[Spoken],
    manifest: Manifest,
    outputs: Sequence[str],
    rows_per_group: int,
    frames_per_part: int,
) -> None:
    folder = directory.new_staging(shard)
    metadata = {
        "model": "constructed",
        "labels": LABELS,
        "blank": 0,
        "values": "logits",
        "seconds_per_frame": STRIDE_S,
        "sample_rate": 16000,
    }
    done = sorted((spoken for spoken in spokens if not spoken.failed), key=lambda spoken: spoken.id)
    failures = [
        Failure(spoken.id, spoken.path, "load", "truncated", "cut short") for spoken in spokens if spoken.failed
    ]
    staged = {"failures": folder / "failures.parquet"}
    with tables.open_writer(staged["failures"], tables.FAILURES) as writer:
        writer.write_table(tables.failures_table(failures))
    if "transcripts" in outputs:
        staged["transcripts"] = folder / "transcripts.parquet"
        schema = tables.transcripts_schema(manifest.table.schema)
        with tables.open_writer(staged["transcripts"], schema) as writer:
            writer.write_table(pa.Table.from_pylist([_transcript(spoken) for spoken in done], schema=schema))

    def parts(values: Callable[[Spoken], NDArray[np.floating]]) -> list[tuple[str, ArrayPart]]:
        return [
            (spoken.id, ArrayPart(0, part, start, values(spoken)[start : start + frames_per_part]))
            for spoken in done
            for part, start in enumerate(range(0, len(values(spoken)), frames_per_part))
        ]

    def write(writer: Any, found: list[tuple[str, ArrayPart]], to_table: Callable[..., pa.Table]) -> None:
        for start in range(0, len(found), rows_per_group):
            group = found[start : start + rows_per_group]
            writer.write_table(to_table([id_ for id_, _ in group], [part for _, part in group]))

    if "emissions" in outputs:
        staged["emissions"] = folder / "emissions.parquet"
        schema = tables.emissions_schema("float32")
        with tables.open_writer(staged["emissions"], schema, metadata, values="emission") as writer:
            found = parts(lambda spoken: np.asarray(_emission(spoken), np.float32))
            write(writer, found, lambda ids, each: tables.emission_rows(ids, each, "float32", len(LABELS)))
    layers = sorted({layer for spoken in done for layer in spoken.features})
    if "features" in outputs:
        staged["features"] = folder / "features.parquet"
        schema = tables.features_schema("float16")
        with tables.open_writer(staged["features"], schema, metadata, values="feature") as writer:
            for layer in layers:
                found = parts(lambda spoken, layer=layer: np.asarray(spoken.features[layer], np.float16))
                dim = found[0][1].values.shape[1]
                write(
                    writer,
                    found,
                    lambda ids, each, layer=layer, dim=dim: tables.feature_rows(ids, layer, each, "float16", dim),
                )
    record = CommitRecord(shard, fingerprint, {}, len(spokens), 0.0, {"truncated": len(failures)} if failures else {})
    rows_per_id = {table: len(layers) if table == "features" else 1 for table in staged if table != "failures"}
    commit(directory, record, staged, [spoken.id for spoken in spokens], rows_per_id)


def _emission(spoken: Spoken) -> NDArray[np.floating]:
    return np.zeros((spoken.num_frames, len(LABELS))) if spoken.emission is None else spoken.emission


def _transcript(spoken: Spoken) -> dict[str, Any]:
    text = " ".join(word for word, *_ in spoken.words)
    begin = spoken.start_s or 0.0
    row = {
        "id": spoken.id,
        "path": spoken.path,
        "duration_s": spoken.num_frames * STRIDE_S,
        "num_frames": spoken.num_frames,
        "text": text,
        "ctc_text": "".join(f"{word}|" for word, *_ in spoken.words),
        "avg_logprob": -0.1,
        "words": [
            {
                "word": word,
                "start_s": begin + first * STRIDE_S,
                "end_s": begin + last * STRIDE_S,
                "probability": probability,
            }
            for word, first, last, probability in spoken.words
        ],
        "reference": spoken.reference,
        **spoken.columns,
    }
    if spoken.reference is not None:
        errors = count_errors(text, spoken.reference)
        row |= {name: getattr(errors, name) for name in COUNTS} | {"wer": errors.wer}
    return row
