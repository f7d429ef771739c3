"""Decides what is left to compute: whole shards, and the outputs that a committed shard lacks."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.runtime.terminal import counted
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import UNREADABLE
from pipeline.storage.identity import Identity, combined
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Pass:
    """A pass over some shards that computes the same outputs in each of them.

    Attributes:
        identity: What the pass computes.
        supplements: 0 for a shard that is computed whole, the number of the supplement for another one, by shard,
            ascending.
    """

    identity: Identity
    supplements: dict[int, int] = field(default_factory=dict)

    def over(self, shards: Container[int]) -> Pass:
        """Return the pass over those of its shards that are among some shards."""
        return replace(self, supplements={shard: n for shard, n in self.supplements.items() if shard in shards})

    def todo(self, num_shards: int) -> str:
        """Return what is to do of a number of shards: `4 of 9 shards to do (adds emissions, features of layer 6)`."""
        layers = ", ".join(map(str, self.identity.layers))
        named = {"features": f"features of layer{'s' * (len(self.identity.layers) > 1)} {layers}"}
        outputs = ", ".join(named.get(table, table) for table in self.identity.outputs)
        added = f" (adds {outputs})" if any(self.supplements.values()) else ""
        return f"{len(self.supplements):,} of {counted(num_shards, 'shard')} to do{added}"


def recover_passes(directory: RunDirectory, asked: Identity) -> dict[str, Identity]:
    """Return the identities of the passes over the shards, by fingerprint, for a run whose `run.json` is lost.

    A pass is found if what is asked for now includes its outputs, and the features of one of its shards can be read.
    """
    found: dict[str, Identity] = {}
    seen: set[str] = set()
    for record in directory.records():
        if record.fingerprint not in seen:
            layers = ()
            if "features" in record.files:
                try:
                    rows = directory.table("features", record.shard, record.supplement).read(["layer"])
                except UNREADABLE:
                    continue
                layers = tuple(sorted(rows["layer"].unique().to_pylist()))
            seen.add(record.fingerprint)
            for digests in (True, False):  # an earlier release may have begun the run
                made = replace(asked, audio_digests=digests).restricted({*record.files} - {"failures"}, layers)
                if made.fingerprint == record.fingerprint:
                    found[made.fingerprint] = made
    return found


def plan_passes(
    directory: RunDirectory,
    asked: Identity,
    known: Mapping[str, Identity],
    done: Mapping[int, CommittedShard],
    num_shards: int,
    again: Collection[int] = (),
) -> list[Pass]:
    """Return the passes after which each shard has all outputs that are asked for.

    A shard gets only what its counted passes lack. It also gets anew what its other passes had, because their files go
    when the shard is committed: damage to one file must not lose another output.

    Args:
        directory: The run.
        asked: What is asked for now.
        known: Identities of the earlier passes, by fingerprint.
        done: The shards that are done and are not to be computed again, by shard.
        num_shards: Number of shards of the manifest.
        again: Shards whose passes that are not in `done` are computed again, with outputs that are not asked for too.
    """
    everything = combined(known.values())
    has_more = everything.lacking([asked]) is not None
    files = {table: directory.last_passes(table) for table in (everything.outputs if has_more else ())}
    found: dict[tuple[tuple[str, ...], tuple[int, ...]], Pass] = {}
    for shard in range(num_shards):
        passes = [known[record.fingerprint] for record in done[shard].records] if shard in done else []
        wanted = asked.lacking(passes)
        if wanted is None and shard not in again:
            continue
        lacks = everything.lacking(passes) if has_more else None
        if lacks is not None:
            there = [table for table in lacks.outputs if files[table].get(shard, -1) >= len(passes)]
            wanted = lacks.restricted(there, lacks.layers) if wanted is None else wanted.with_outputs_of(lacks, there)
        assert wanted is not None
        planned = found.setdefault((wanted.outputs, wanted.layers), Pass(wanted))
        planned.supplements[shard] = len(passes)
    return list(found.values())


def before_failures(done: Mapping[int, CommittedShard]) -> dict[int, CommittedShard]:
    """Return the passes over each shard before its first one with failures, for the shards that have such passes."""
    kept = {
        shard: CommittedShard(tuple(takewhile(lambda record: not record.num_failures, each.records)))
        for shard, each in done.items()
    }
    return {shard: each for shard, each in kept.items() if each.records}


def attempts_to_retry(
    directory: RunDirectory, kept: Mapping[int, CommittedShard], failed: Iterable[int]
) -> dict[int, dict[str, int]]:
    """Return the attempts of each id that failed in the first pass with failures, by shard, for the shards `failed`.

    What failed in later passes is left out: it has a result of that pass, which must not be lost.

    Args:
        directory: The run.
        kept: The passes before that pass, by shard.
        failed: Shards that have failures.
    """
    attempts = {}
    for shard in sorted(failed):
        number = len(kept[shard].records) if shard in kept else 0
        ids, numbers = (directory.failures(shard, number, column) for column in ("id", "attempts"))
        attempts[shard] = dict(zip(ids, numbers, strict=True))
    return attempts


def failed_before(
    directory: RunDirectory, manifest: Manifest, done: Mapping[int, CommittedShard], supplements: Mapping[int, int]
) -> NDArray[np.bool_]:
    """Return whether each row of the manifest failed in a shard that gets a supplement, `(rows,)`."""
    failed = np.zeros(len(manifest), bool)
    for shard in (shard for shard, number in supplements.items() if number and done[shard].num_failures):
        rows = manifest.rows_of_shard(shard)
        ids = manifest.table["id"].slice(rows.start, len(rows))
        for record in done[shard].records:
            found = pc.is_in(ids, value_set=pa.array(directory.failures(shard, record.supplement, "id"), pa.string()))
            failed[rows.start : rows.stop] |= found.to_numpy()
    return failed
