"""Decodes stored emissions shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.decoding import Decoder
from pipeline.records import UtteranceEmission
from pipeline.scoring.counting import COUNTED_AFTER, transcripts_table
from pipeline.stages.postprocessing.emissions import read_emissions, unreadable
from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.committing import commit_derived
from pipeline.storage.derived import DerivedRecord, DerivedTable, emissions_digest
from pipeline.storage.files import UNREADABLE
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import DECODED
from pipeline.storage.run_directory import RunDirectory

_FRAMES_AT_ONCE = 50_000
"""Frames that are decoded together: about a quarter of an hour."""


class Decoded(NamedTuple):
    """What was decoded of a shard.

    Attributes:
        transcripts: The rows of `transcripts/`.
        counts: Sums over the rows, as in `CommitRecord`.
    """

    transcripts: pa.Table
    counts: dict[str, int]


@dataclass(frozen=True)
class ShardDecoder:
    """Decodes shards of a run, whose lock the caller holds.

    Attributes:
        directory: The run.
        manifest: The manifest of the run.
        records: The committed shards, by shard.
        name: Name of the decoding.
        fingerprint: Fingerprint of its settings.
        decoder: The decoder; `None` if nothing is decoded, but only described again.
    """

    directory: RunDirectory
    manifest: Manifest
    records: Mapping[int, CommittedShard]
    name: str
    fingerprint: str
    decoder: Decoder | None

    @cached_property
    def table(self) -> DerivedTable:
        """The table of the transcripts."""
        return self.directory.derived(f"{DECODED}{self.name}")

    def __call__(self, shard: int) -> Decoded:
        """Decode a shard. Nothing is written, so a forked process can do it, which has no lock.

        Raises:
            UserError: The emissions, or what describes them, are damaged.
        """
        assert self.decoder is not None, "a decoder"
        mine = self.manifest.rows_of_shard(shard)
        rows = self.manifest.table.slice(mine.start, len(mine)).select(["id", "start_s"]).to_pydict()
        starts_s = {id_: start_s or 0.0 for id_, start_s in zip(*rows.values(), strict=True)}
        ids: list[str] = []
        parts: list[pa.Table] = []
        for batch in _batches(read_emissions(self.directory, self.records[shard], starts_s)):
            ids += [id_ for id_, _ in batch]
            parts.append(tables.transcript_columns(self.decoder([emission for _, emission in batch])))
        decoded = pa.concat_tables(parts) if parts else self._schema.empty_table().select(self._decoded())
        return self._joined(shard, pa.array(ids, pa.string()), decoded)

    def describe_again(self, shard: int) -> None:
        """Commit a decoded shard again with the references, the other columns and the counts that it has now.

        Raises:
            UserError: What describes the shard is damaged.
        """
        stored = self.table.table(shard).read()
        self.commit(shard, self._joined(shard, stored["id"], stored.select(self._decoded())))

    def sources(self, shard: int) -> dict[str, str]:
        """Return digests of what the transcripts of a shard are made from: the emissions, and what describes them."""
        committed = self.records[shard]
        described = next((record.files["transcripts"].sha256 for record in committed.having("transcripts")), None)
        return {"emissions": emissions_digest(committed) or "", "described": described or self.manifest.content}

    def _joined(self, shard: int, ids: pa.Array | pa.ChunkedArray, decoded: pa.Table) -> Decoded:
        """Return the transcripts of a shard. Row i of `decoded` belongs to the utterance `ids[i]`."""
        described = self._described(shard)
        described = described.take(pc.index_in(ids, value_set=described["id"].combine_chunks()))
        return Decoded(*transcripts_table(described, decoded, self._schema))

    @cached_property
    def _schema(self) -> pa.Schema:
        return self.directory.of_decoding(self.name).transcripts_schema(self.manifest.schema)

    def _decoded(self) -> list[str]:
        return [name for name in self._schema.names if name in tables.DECODED]

    def _described(self, shard: int) -> pa.Table:
        """Return the columns of the transcripts of a shard that do not come from the decoder, a row for each id.

        Those that the stage `infer` has written come first, because the manifest has no digests of the audio.
        """
        for stored in self.directory.tables(self.records[shard], "transcripts"):
            try:
                return stored.read([name for name in self._schema.names if name not in tables.DECODED])
            except UNREADABLE as error:
                raise unreadable(stored, error) from None
        mine = self.manifest.rows_of_shard(shard)
        return self.manifest.table.slice(mine.start, len(mine))

    def commit(self, shard: int, decoded: Decoded) -> None:
        """Write and commit the transcripts of a shard."""
        record = DerivedRecord(shard, self.fingerprint, self.sources(shard), decoded.counts)
        commit_derived(self.directory, self.table, record, decoded.transcripts, COUNTED_AFTER)


def _batches(
    emissions: Iterable[tuple[str, UtteranceEmission]],
) -> Iterator[list[tuple[str, UtteranceEmission]]]:
    """Yield utterances together until they have `_FRAMES_AT_ONCE` frames."""
    batch: list[tuple[str, UtteranceEmission]] = []
    frames = 0
    for id_, emission in emissions:
        batch.append((id_, emission))
        frames += len(emission.path.labels)
        if frames >= _FRAMES_AT_ONCE:
            yield batch
            batch, frames = [], 0
    if batch:
        yield batch
