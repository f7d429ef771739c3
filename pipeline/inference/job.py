"""Describes what a run computes. The stage `infer` creates a job; an executor runs its shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import decoding
from pipeline.decoding import Decoder
from pipeline.inference.planning import Chunking
from pipeline.inference.shard_tables import TableSettings
from pipeline.inference.textfile import RunTextfile
from pipeline.models.facts import ModelFacts
from pipeline.models.sources import Loaded, ModelSource
from pipeline.storage.commits import CommitRecord
from pipeline.storage.identity import Identity
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Computation:
    """Everything that determines the results of a recording. Equal computations give equal tables.

    Attributes:
        source: Source of the model.
        weights_sha256: SHA-256 of the weights.
        precision: fp32, bf16 or fp16.
        channels: mix, first or each.
        chunking: How to cut long recordings into chunks.
        layers: Layers whose features are requested.
        feature_dtype, emission_dtype: float16 or float32.
        wants_logits: Whether logits are copied to the host.
        decoder: The decoder; `None` if transcripts are not requested.
    """

    source: ModelSource
    weights_sha256: str
    precision: str
    channels: str
    chunking: Chunking
    layers: tuple[int, ...]
    feature_dtype: str
    emission_dtype: str
    wants_logits: bool
    decoder: Decoder | None

    @classmethod
    def of(cls, identity: Identity, source: ModelSource, files: Mapping[str, str]) -> Computation:
        """Create the computation that a run's identity describes.

        Args:
            identity: The identity.
            source: Source of the model.
            files: Paths of the decoder's files, by their keys in the options of the identity.

        Raises:
            UserError: As `decoding.make`.
        """
        facts, decoder = source.facts, None
        if identity.decoder is not None:
            labels, stride_s = facts.ctc_labels, facts.seconds_per_frame
            decoder = decoding.make(identity.decoder, identity.options, files, labels, stride_s)
        return cls(
            source=source,
            weights_sha256=identity.weights_sha256,
            precision=identity.precision,
            channels=identity.channels,
            chunking=Chunking.of_seconds(
                identity.chunk_seconds,
                identity.chunk_context_seconds,
                sample_rate=facts.sample_rate,
                stride=facts.stride,
                receptive_field=facts.min_samples,
            ),
            layers=identity.layers,
            feature_dtype=identity.feature_dtype or "float32",
            emission_dtype=identity.emission_dtype or "float32",
            wants_logits="emissions" in identity.outputs or (decoder is not None and decoder.wants_logits),
            decoder=decoder,
        )

    @property
    def facts(self) -> ModelFacts:
        """Properties of the model."""
        return self.source.facts


@dataclass(frozen=True)
class Job:
    """The pending shards of a run that get the same outputs, with everything needed to compute them.

    Attributes:
        directory: The run, locked by this process.
        manifest: The manifest of the run.
        computation: What is computed for each recording.
        tables: Which tables are written.
        supplements: Shards to compute, ascending: 0 for a shard that is computed whole, the number of the supplement
            for a shard that gets further outputs.
        skipped: `(rows,)` whether each row of the manifest is not computed, because it failed before the supplement.
        failures_before: Number of failures in committed shards.
        attempts: Earlier attempts of each failed id, by shard, for shards that are computed again (`retry_failed`).
        devices: Devices that the setting `device` stands for, as torch names them: the CPU, or GPUs.
        threads: Number of cores to use on a CPU; `None` for all that the process may use.
        max_batch_s: Maximum of padded seconds in a batch; `None` chooses it by the memory of the device.
        workers: Number of loading processes of each process with a model; `None` chooses it by the device.
        timeout_s: Seconds after which loading a recording is a failure.
        max_failures: Number of failures above which the run stops; `None` for no limit.
        sharing: Number of processes of this machine that compute the job at the same time, and so share its cores.
        cores: Number of cores that each of these processes has; `None` for its share of those that it may use.
        textfile: The figures of the run for Prometheus.
        loaded: The model, if this process has loaded it already. Whoever builds an engine takes it out of the list, so
            that its memory is free once the engine has a copy.
    """

    directory: RunDirectory
    manifest: Manifest
    computation: Computation
    tables: TableSettings
    supplements: Mapping[int, int]
    skipped: NDArray[np.bool_]
    failures_before: int
    attempts: Mapping[int, Mapping[str, int]]
    devices: tuple[str, ...]
    threads: int | None
    max_batch_s: float | None
    workers: int | None
    timeout_s: float
    max_failures: int | None
    sharing: int = 1
    cores: int | None = None
    textfile: RunTextfile = field(default_factory=RunTextfile)
    loaded: list[Loaded] = field(default_factory=list, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets of this object, which loads the model itself."""
        return {**self.__dict__, "loaded": []}

    @property
    def pending(self) -> tuple[int, ...]:
        """Shards to compute, ascending."""
        return tuple(self.supplements)

    def has_work(self, shard: int) -> bool:
        """Whether anything is left to compute in a shard. If not, all its rows failed before."""
        rows = self.manifest.rows_of_shard(shard)
        return not self.skipped[rows.start : rows.stop].all()

    def committed(self, shards: Iterable[int]) -> dict[int, CommitRecord]:
        """Return the records of this job's passes that are there now, by shard, for some of its shards."""
        asked = [*shards]
        done = self.directory.commits(asked)
        passes = {shard: self.supplements[shard] for shard in asked if shard in done}
        return {shard: done[shard].records[n] for shard, n in passes.items() if n < len(done[shard].records)}

    def seconds_of(self, shard: int) -> float:
        """Return the seconds of audio of a shard."""
        rows = self.manifest.rows_of_shard(shard)
        return float(np.nansum(self.manifest.duration_s[rows.start : rows.stop]))

    @property
    def num_shards(self) -> int:
        """Number of shards that this process has to see to, pending or not."""
        return len(self.directory.shards_of(self.manifest.num_shards))

    @property
    def audio_s(self) -> float:
        """Seconds of audio in these shards."""
        return self._seconds(self.directory.shards_of(self.manifest.num_shards))

    @property
    def done_s(self) -> float:
        """Seconds of audio in those of these shards that are not pending."""
        return self.audio_s - self._seconds(self.pending)

    def _seconds(self, shards: Sequence[int]) -> float:
        return float(np.nansum(self.manifest.duration_s[np.isin(self.manifest.shard_of_row, shards)]))
