"""Runs utterances again, each alone, to check that results do not depend on the other utterances of a batch.

Engine, precision, chunks and joins are those of the run. In half precision, differences are reported but not judged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding import Decoder
from pipeline.inference.batches import Batch
from pipeline.inference.execute import build_engine, build_loader
from pipeline.inference.job import Computation
from pipeline.inference.loop import compute_in_order
from pipeline.inference.stitching import Stitcher
from pipeline.inference.transcription import Transcription
from pipeline.models import sources
from pipeline.models.device import default_workers, resolve_device, why_slow
from pipeline.models.engine import Engine
from pipeline.records import PlannedBatch
from pipeline.results import Run, open_run
from pipeline.runtime.cores import available_cores
from pipeline.runtime.errors import UserError
from pipeline.storage.commits import CommittedShard
from pipeline.storage.identity import Identity
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord
from pipeline.verify.comparison import Comparison

LOADER_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Exactness:
    """The result of running utterances again.

    Attributes:
        device, precision: Where and how the utterances were run again.
        utterances: The comparison of each utterance.
        notes: Packages whose version differs from that of the run.
    """

    device: str
    precision: str
    utterances: list[Comparison]
    notes: list[str]

    @property
    def compared(self) -> list[Comparison]:
        """Comparisons of the utterances that could be run again."""
        return [each for each in self.utterances if each.failure is None]

    @property
    def judged(self) -> bool:
        """Whether the tolerance applies: it is for fp32 only."""
        return self.precision == "fp32"

    @property
    def same(self) -> bool:
        """Whether all utterances are the same, or the differences are not judged."""
        return not self.judged or all(each.same for each in self.compared)


def choose(count: int, total: int) -> list[int]:
    """Return `count` indices below `total`, evenly spaced and always the same; all if `total` is not larger."""
    if count >= total:
        return list(range(total))
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def rerun_alone(
    directory: RunDirectory,
    manifest: Manifest,
    recorded: RunRecord,
    records: Sequence[CommittedShard],
    count: int,
    device_name: str = "auto",
) -> Exactness:
    """Run utterances again, each alone, with the same engine, loader and decoder as the run.

    Args:
        directory: The run.
        manifest: The manifest of the run.
        recorded: The `run.json` of the run.
        records: The sound shards.
        count: Number of utterances to run.
        device_name: `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        UserError: The device does not exist or lacks the precision, the weights or a file of the decoder are not those
            of the run, or no utterance can be compared.
    """
    identity = recorded.combined
    path = "" if recorded.weights is None else recorded.weights.path
    source = sources.from_record(identity.model, identity.as_json(), path)
    device = resolve_device(device_name)
    if reason := why_slow(identity.precision, device):
        raise UserError(
            f"{directory.root}: the run used precision {identity.precision}, which {reason}; run this on such a device"
        )
    rows = _rows_with_results(directory, manifest, records)
    if not len(rows):
        raise UserError(f"{directory.root}: no utterance with a result is committed; there is nothing to run again")
    computation = Computation.of(identity, source, recorded.decoder_files)
    # Values are compared in float32. Logits are needed to find near ties, even if the run stored none.
    computation = replace(
        computation, feature_dtype="float32", emission_dtype="float32", wants_logits=bool(source.facts.labels)
    )
    engine = build_engine(computation, device)
    loader = build_loader(
        computation,
        manifest,
        engine,
        workers=default_workers(device, available_cores()),
        timeout_s=LOADER_TIMEOUT_S,
        stderr=Path(os.devnull),
    )
    chosen = [int(rows[place]) for place in choose(count, len(rows))]
    comparisons = _Comparisons(open_run(directory.root), manifest, identity)
    with closing(engine), closing(loader.batches(_plan(chosen, manifest, computation))) as batches:
        comparisons.run(batches, engine, computation.decoder)
    found = [comparisons.of_row[row] for row in chosen]
    if all(each.failure is not None for each in found):
        raise UserError(f"{directory.root}: none of {len(found)} recordings could be run again; {found[0].failure}")
    return Exactness(str(device), identity.precision, found, _version_notes(recorded))


class _Comparisons:
    """Compares each utterance while its chunks are run again.

    Attributes:
        of_row: Comparison by manifest row.
    """

    def __init__(self, stored: Run, manifest: Manifest, identity: Identity) -> None:
        self.of_row: dict[int, Comparison] = {}
        self._stored = stored
        self._manifest = manifest
        self._identity = identity

    def run(self, batches: Iterator[Batch], engine: Engine, decoder: Decoder | None) -> None:
        """Run each batch, and compare its results with the stored values."""
        stitcher = Stitcher()
        transcription = None if decoder is None else Transcription(decoder, lambda row: 0.0)
        for begun in compute_in_order(batches, engine):
            batch = begun.batch
            for chunk in batch.plan.chunks:
                if chunk.row not in self.of_row:
                    self.of_row[chunk.row] = self._begin(chunk.row)
            emissions, rejected = begun.computation.result().results()
            pieces, failures = stitcher.take(emissions, [*batch.rejected, *rejected])
            transcribed = None if transcription is None else transcription.take(pieces, failures)
            texts: dict[int, str] = {}
            if transcribed is not None:
                texts = dict(zip(transcribed.rows, transcribed.transcripts.ctc_text.to_list(), strict=True))
            for failure in failures:
                self.of_row[failure.chunk.row].failure = f"{failure.error}: {failure.message}"
            for piece in pieces:
                comparison = self.of_row[piece.chunk.row]
                comparison.take(piece)
                if piece.chunk.last:
                    comparison.finish(texts.get(piece.chunk.row))
                    comparison.stored = {}  # frees memory

    def _begin(self, row: int) -> Comparison:
        id_ = self._manifest.table["id"][row].as_py()
        alone = self._stored.select([id_])
        stored: dict[str, NDArray[np.floating]] = {}
        with suppress(KeyError):  # the shard of the utterance may lack an output that others have
            stored["emissions"] = alone.emission(id_)
        for layer in self._identity.layers:
            with suppress(KeyError):
                stored[f"features of layer {layer}"] = alone.feature(id_, layer)
        return Comparison(id_, stored, next(iter(alone.transcripts["ctc_text"]), None))


def _rows_with_results(
    directory: RunDirectory, manifest: Manifest, records: Sequence[CommittedShard]
) -> NDArray[np.int64]:
    """Return the manifest rows of these shards that have a result, ascending."""
    kept = [np.empty(0, dtype=np.int64)]
    for record in sorted(records, key=lambda record: record.shard):
        rows = manifest.rows_of_shard(record.shard)
        tables = directory.tables(record, "failures")
        failed = {id_ for stored in tables for id_ in stored.read(["id"])["id"].to_pylist()}
        ids = manifest.table["id"].slice(rows.start, len(rows)).to_pylist()
        kept.append(np.asarray([row for row, id_ in zip(rows, ids, strict=True) if id_ not in failed], dtype=np.int64))
    return np.concatenate(kept)


def _plan(rows: Sequence[int], manifest: Manifest, computation: Computation) -> Iterator[PlannedBatch]:
    """Plan one batch for each chunk. The chunks of a row follow one another."""
    num_samples = manifest.num_samples_at(computation.facts.sample_rate)
    index = 0
    for row in rows:
        for chunk in computation.chunking.chunks(row, int(num_samples[row])):
            yield PlannedBatch(index=index, shard=int(manifest.shard_of_row[row]), chunks=(chunk,))
            index += 1


def _version_notes(recorded: RunRecord) -> list[str]:
    """Return a note for each package whose version differs from the one that computed the run."""
    then = recorded.versions
    return [
        f"note: the run was made with {name} {then[name]}, this is {version(name)}"
        for name in ("torch", "torchaudio")
        if then.get(name, version(name)) != version(name)
    ]
