"""What is to be computed, as plain values: made by the stage `infer`, handed by an executor to whoever computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline import decoding
from pipeline.decoding import Decoder
from pipeline.inference.planning import Chunking
from pipeline.inference.shard_tables import TableSettings
from pipeline.models.facts import ModelFacts
from pipeline.models.sources import ModelSource
from pipeline.storage.commits import CommitRecord
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import Identity


@dataclass(frozen=True)
class Computation:
    """Everything that decides the answers for a recording. Two equal computations give equal tables.

    Attributes:
        source: Where the model comes from.
        weights_sha256: SHA-256 of its weights.
        precision: fp32, bf16 or fp16.
        channels: mix, first or each.
        chunking: How long recordings are cut.
        layers: Layers whose features are wanted.
        feature_dtype: float16 or float32.
        wants_logits: Whether logits travel to the host.
        decoder: `None` where no transcripts are wanted.
    """

    source: ModelSource
    weights_sha256: str
    precision: str
    channels: str
    chunking: Chunking
    layers: tuple[int, ...]
    feature_dtype: str
    wants_logits: bool
    decoder: Decoder | None

    @classmethod
    def of(cls, identity: Identity, source: ModelSource) -> Computation:
        """The computation that a run's identity describes."""
        facts, decoder = source.facts, None
        if identity.decoder is not None:
            decoder = decoding.make(identity.decoder, identity.options, facts.ctc_labels, facts.seconds_per_frame)
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
            wants_logits="emissions" in identity.outputs or (decoder is not None and decoder.wants_logits),
            decoder=decoder,
        )

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model."""
        return self.source.facts


@dataclass(frozen=True)
class Job:
    """The shards of a run that are not committed, and the limits to keep.

    Attributes:
        directory: The run, locked by this process.
        manifest: Its manifest.
        computation: What is computed of each recording.
        tables: What is written of it.
        pending: The shards to do, ascending.
        done: The shards that are committed already.
        attempts: Of shards that are done again for the sake of their failures: how often each failure was tried.
        device: Where the model runs, as torch names it.
        max_batch_s: Budget of padded seconds in a batch; `None` takes it from the device's memory.
        workers: Processes that load; `None` takes the number from the device.
        timeout_s: A recording whose loading takes longer is a failure.
        max_failures: The run stops beyond this many failures; `None` for never.
    """

    directory: RunDirectory
    manifest: Manifest
    computation: Computation
    tables: TableSettings
    pending: tuple[int, ...]
    done: Mapping[int, CommitRecord]
    attempts: Mapping[int, Mapping[str, int]]
    device: str
    max_batch_s: float | None
    workers: int | None
    timeout_s: float
    max_failures: int | None

    @property
    def failures_before(self) -> int:
        """Failures in shards that are committed already."""
        return sum(record.num_failures for record in self.done.values())

    @property
    def audio_s(self) -> float:
        """Seconds of audio in the whole manifest."""
        return float(np.nansum(self.manifest.duration_s))

    @property
    def done_s(self) -> float:
        """Seconds of audio in shards that are not to be done."""
        return float(np.nansum(self.manifest.duration_s[~np.isin(self.manifest.shard_of_row, self.pending)]))
