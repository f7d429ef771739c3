"""Utterances of a run again, each alone, beside what is stored: whether the company of a batch changed an answer.

The same engine, precision, chunks and joins as in the run. The same means (in fp32): at most `TOLERANCE` apart, and no
label changed where the two best logits differ by more than `NEAR_TIE`; values stored in float16 have its rounding on
top. In half precision the differences are told and nothing is judged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.decoding.greedy import GreedyDecoder
from pipeline.decoding.stitching import Stitcher
from pipeline.inference.loader import Loader, Recordings
from pipeline.inference.planning import Chunking
from pipeline.models import sources
from pipeline.models.engine import Engine, EngineSettings, default_workers, resolve_device
from pipeline.records import Emission, PlannedBatch, Transcript
from pipeline.results import Run, open_run
from pipeline.runtime.errors import UserError
from pipeline.storage.commits import CommitRecord, sha256_file
from pipeline.storage.manifest import Manifest

TOLERANCE = 1e-4
NEAR_TIE = 2e-4
LOADER_TIMEOUT_S = 120.0


@dataclass
class Comparison:
    """One utterance alone beside what is stored of it.

    Attributes:
        id: Its id.
        stored: Name (`emissions`, `features of layer 2`) to the stored values, `(frames, width)`.
        ctc_text: The stored label sequence; `None` where there are no transcripts.
        largest: Name to the largest difference, float16's rounding taken off.
        labels: Frames whose labels have been compared.
        changed: Of them, those with another label though no other was near.
        frames: Frames so far.
        near_ties: Frames whose best two labels are so near that either may win.
        wrong: Other ways in which it is not the same.
        failure: Why it could not be run again.
    """

    id: str
    stored: Mapping[str, NDArray[np.floating]]
    ctc_text: str | None
    largest: dict[str, float] = field(default_factory=dict)
    labels: int = 0
    changed: int = 0
    frames: int = 0
    near_ties: int = 0
    wrong: list[str] = field(default_factory=list)
    failure: str | None = None

    @property
    def same(self) -> bool:
        """Whether it is the same within the tolerance."""
        return not self.wrong and not self.changed and all(value <= TOLERANCE for value in self.largest.values())

    def take(self, piece: Emission) -> None:
        """Compare the next frames."""
        values = {f"features of layer {layer}": found for layer, found in piece.features.items()}
        if piece.logits is not None:
            values["emissions"] = piece.logits
            two = np.partition(piece.logits, -2, axis=1)[:, -2:] if piece.logits.shape[1] > 1 else piece.logits
            gap = np.abs(two[:, -1] - two[:, 0])
            self.near_ties += int((gap <= NEAR_TIE).sum())
        for name, found in values.items():
            if name not in self.stored:
                continue
            stored = self.stored[name][self.frames : self.frames + len(found)]
            if stored.shape != found.shape:
                continue  # said at the end, with the number of frames
            rounding = _rounding(stored)
            apart = np.abs(found.astype(np.float32) - stored.astype(np.float32)) - rounding
            largest = float(apart.max(initial=0.0))
            self.largest[name] = max(self.largest.get(name, 0.0), largest) if largest == largest else float("inf")
            if name == "emissions":
                other = stored.argmax(1) != found.argmax(1)
                self.labels += len(found)
                self.changed += int((other & (gap > NEAR_TIE + 2 * rounding.max(axis=1, initial=0.0))).sum())
        self.frames += piece.num_frames

    def finish(self, transcript: Transcript | None) -> None:
        """Compare what is known at the end."""
        for name, stored in self.stored.items():
            if len(stored) != self.frames:
                self.wrong.append(f"{len(stored)} frames of {name} are stored, alone it has {self.frames}")
        if transcript is not None and transcript.ctc_text != self.ctc_text and not self.near_ties:
            self.wrong.append(f"the stored text is {self.ctc_text!r}, alone it is {transcript.ctc_text!r}")


@dataclass(frozen=True)
class Exactness:
    """What came of it: where and how it was computed, and every utterance."""

    device: str
    precision: str
    utterances: list[Comparison]
    notes: list[str]

    @property
    def compared(self) -> list[Comparison]:
        """The utterances that could be run again."""
        return [each for each in self.utterances if each.failure is None]

    @property
    def judged(self) -> bool:
        """Whether the tolerance is for this precision."""
        return self.precision == "fp32"

    @property
    def same(self) -> bool:
        """Whether nothing that is judged differs."""
        return not self.judged or all(each.same for each in self.compared)


def choose(count: int, total: int) -> list[int]:
    """`count` places among `total`, evenly, the same each time; all where there are no more."""
    if count >= total:
        return list(range(total))
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def rerun_alone(
    run_dir: Path,
    manifest: Manifest,
    recorded: Mapping[str, Any],
    records: Sequence[CommitRecord],
    count: int,
    device_name: str = "auto",
) -> Exactness:
    """Run utterances again, alone.

    Args:
        run_dir: The run.
        manifest: Its manifest.
        recorded: Its `run.json`.
        records: Of the shards whose tables are sound.
        count: How many utterances.
        device_name: `auto`, `cpu`, `cuda`, `cuda:1`.

    Raises:
        UserError: No such device, a precision it has not, other weights than the run's, or nothing to compare with.
    """
    identity = recorded["identity"]
    source = sources.from_record(identity["model"], identity, recorded["weights"]["path"])
    facts = source.facts
    device = resolve_device(device_name)
    precision = identity["precision"]
    if device.type == "cpu" and precision != "fp32":
        raise UserError(f"{run_dir}: was made in {precision}, which needs CUDA; run this where there is a GPU")
    rows = _rows_with_results(run_dir, manifest, records)
    if not len(rows):
        raise UserError(f"{run_dir}: no utterance with a result is committed; there is nothing to run again")
    _check_weights(source.weights_path, identity["weights_sha256"])
    model, _ = source.load()
    layers = tuple(identity.get("features.layers", ()))
    settings = EngineSettings(layers=layers, feature_dtype="float32", logits=bool(facts.labels))
    engine = Engine(facts, model, device, precision, settings)
    del model
    chunking = Chunking.of_seconds(
        identity["chunk.seconds"],
        identity["chunk.context_seconds"],
        sample_rate=facts.sample_rate,
        stride=facts.stride,
        receptive_field=facts.min_samples,
    )
    transcribes = "transcripts" in identity["outputs"]
    decoder = GreedyDecoder(facts.labels, facts.blank, facts.seconds_per_frame) if transcribes else None
    stitcher = Stitcher(decoder, lambda row: 0.0)
    loader = Loader(
        Recordings(manifest, facts.sample_rate, facts.min_samples, identity["channels"], chunking.max_samples),
        workers=default_workers(device),
        timeout_s=LOADER_TIMEOUT_S,
        pin_memory=device.type == "cuda",
        stderr=Path(os.devnull),
    )
    chosen = [int(rows[place]) for place in choose(count, len(rows))]
    stored = open_run(run_dir)
    comparisons: dict[int, Comparison] = {}
    with closing(loader.batches(_plan(chosen, manifest, chunking, facts.sample_rate))) as batches:
        for batch in batches:
            for chunk in batch.plan.chunks:
                if chunk.row not in comparisons:
                    comparisons[chunk.row] = _comparison(stored, manifest, identity, chunk.row)
            emissions, rejected = engine.run(batch.chunks, batch.waveforms, batch.lengths)
            pieces, transcripts, failures = stitcher.take(emissions, [*batch.rejected, *rejected])
            for failure in failures:
                comparisons[failure.chunk.row].failure = f"{failure.error}: {failure.message}"
            for piece in pieces:
                comparisons[piece.chunk.row].take(piece)
                if piece.chunk.last:
                    comparisons[piece.chunk.row].finish(transcripts.get(piece.chunk.row))
                    comparisons[piece.chunk.row].stored = {}  # compared; it may be large
    found = [comparisons[row] for row in chosen]
    if all(each.failure is not None for each in found):
        raise UserError(f"{run_dir}: none of {len(found)} recordings could be run again; {found[0].failure}")
    return Exactness(str(device), precision, found, _version_notes(recorded))


def _check_weights(path: Path, expected: str) -> None:
    if path.is_file() and (found := sha256_file(path)) != expected:
        raise UserError(f"{path}: has the sha256 {found}, the run was made with {expected}; put those weights there")


def _rows_with_results(run_dir: Path, manifest: Manifest, records: Sequence[CommitRecord]) -> NDArray[np.int64]:
    """Manifest rows of these shards that have a result, ascending."""
    kept = [np.empty(0, dtype=np.int64)]
    for record in sorted(records, key=lambda record: record.shard):
        rows = manifest.rows_of_shard(record.shard)
        with pq.ParquetFile(run_dir / record.files["failures"].path) as file:
            failed = {*file.read(columns=["id"])["id"].to_pylist()}
        ids = manifest.table["id"].slice(rows.start, len(rows)).to_pylist()
        kept.append(np.asarray([row for row, id_ in zip(rows, ids, strict=True) if id_ not in failed], dtype=np.int64))
    return np.concatenate(kept)


def _plan(rows: Sequence[int], manifest: Manifest, chunking: Chunking, sample_rate: int) -> Iterator[PlannedBatch]:
    """Every chunk of every row a batch of its own; those of a row follow one another."""
    num_samples = manifest.num_samples_at(sample_rate)
    index = 0
    for row in rows:
        for chunk in chunking.chunks(row, int(num_samples[row])):
            yield PlannedBatch(index=index, shard=int(manifest.shard_of_row[row]), chunks=(chunk,))
            index += 1


def _comparison(run: Run, manifest: Manifest, identity: Mapping[str, Any], row: int) -> Comparison:
    id_ = manifest.table["id"][row].as_py()
    stored: dict[str, NDArray[np.floating]] = {}
    if "emissions" in identity["outputs"]:
        stored["emissions"] = run.emission(id_)
    for layer in identity.get("features.layers", ()):
        stored[f"features of layer {layer}"] = run.feature(id_, layer)
    ctc_text = None
    if "transcripts" in identity["outputs"]:
        path = run.path / run.commits[int(manifest.shard_of_row[row])].files["transcripts"].path
        found = pq.read_table(path, columns=["ctc_text"], filters=[("id", "==", id_)])
        ctc_text = found["ctc_text"][0].as_py()
    return Comparison(id_, stored, ctc_text)


def _version_notes(recorded: Mapping[str, Any]) -> list[str]:
    """What computed then and is another version here."""
    then = recorded.get("versions", {})
    return [
        f"note: the run was made with {name} {then[name]}, this is {version(name)}"
        for name in ("torch", "torchaudio")
        if then.get(name, version(name)) != version(name)
    ]


def _rounding(stored: NDArray[np.floating]) -> NDArray[np.float32]:
    """How far each stored value may be from what was stored: half a step of float16, nothing in float32."""
    if stored.dtype != np.float16:
        return np.zeros(stored.shape, dtype=np.float32)
    half: NDArray[np.float32] = np.spacing(np.abs(stored)).astype(np.float32) / np.float32(2)
    return half
