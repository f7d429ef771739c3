"""Aligns the references of a run with its stored emissions, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.decoding.alignment.aligner import Aligner, Alignment
from pipeline.results.arrays import log_probabilities
from pipeline.runtime.digests import digest_of_json
from pipeline.stages.postprocessing.emissions import read_emissions
from pipeline.storage.commits import CommittedShard
from pipeline.storage.committing import commit_derived
from pipeline.storage.derived import DerivedRecord, DerivedTable, emissions_digest
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import ALIGNMENTS


@dataclass(frozen=True)
class ShardAligner:
    """Aligns shards of a run, whose lock the caller holds.

    Attributes:
        directory: The run.
        manifest: The manifest of the run, which has the references.
        records: The committed shards, by shard.
        table: The table of the alignments.
        fingerprint: Fingerprint of its settings.
        aligner: The aligner; `None` if nothing is aligned.
    """

    directory: RunDirectory
    manifest: Manifest
    records: Mapping[int, CommittedShard]
    table: DerivedTable
    fingerprint: str
    aligner: Aligner | None = None

    def __call__(self, shard: int) -> pa.Table:
        """Align a shard. Nothing is written, so a forked process can do it, which has no lock.

        Raises:
            UserError: The emissions are damaged.
        """
        assert self.aligner is not None, "an aligner"
        utterances = {row["id"]: row for row in self._rows(shard).to_pylist()}
        starts_s = {id_: row["start_s"] or 0.0 for id_, row in utterances.items()}
        rows = []
        for id_, emission in read_emissions(self.directory, self.records[shard], starts_s):
            assert emission.logits is not None, "stored emissions"
            reference = utterances[id_]["reference"]
            found = self.aligner(log_probabilities(emission.logits), reference, emission.start_s)
            rows.append({"id": id_, "reference": reference, **_columns(found)})
        return pa.Table.from_pylist(rows, schema=ALIGNMENTS)

    def sources(self, shard: int) -> dict[str, str]:
        """Return digests of what the alignments of a shard are made from: the emissions and the references."""
        references = self._rows(shard).select(["id", "reference"]).to_pydict()
        return {"emissions": emissions_digest(self.records[shard]) or "", "references": digest_of_json(references)}

    def commit(self, shard: int, rows: pa.Table) -> None:
        """Write and commit the alignments of a shard."""
        aligned = len(rows) - rows["reason"].combine_chunks().is_valid().true_count
        record = DerivedRecord(shard, self.fingerprint, self.sources(shard), {"aligned": aligned})
        commit_derived(self.directory, self.table, record, rows, {})

    def _rows(self, shard: int) -> pa.Table:
        mine = self.manifest.rows_of_shard(shard)
        return self.manifest.table.slice(mine.start, len(mine)).select(["id", "start_s", "reference"])


def _columns(found: Alignment | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"reason": found}
    words, characters = ([each._asdict() for each in parts] for parts in (found.words, found.characters))
    return found._asdict() | {"words": words, "characters": characters}
