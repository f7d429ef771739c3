"""What a check of a run directory compares with, and what it finds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord, CommittedShard
from pipeline.storage.identity import Identity
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_record import RunRecord

State = Literal["sound", "damaged", "pending"]


@dataclass(frozen=True)
class Problem:
    """A difference from what was committed.

    Attributes:
        path: The file, relative to the run directory.
        what: What was found and what was expected.
        remedy: How to repair the file; empty for a file of a shard, which a rerun computes again.
        shard: The shard that the file belongs to; `None` for a file of the whole run.
        supplement: Number of the pass over the shard that wrote the file.
    """

    path: str
    what: str
    remedy: str = ""
    shard: int | None = None
    supplement: int = 0


@dataclass(frozen=True)
class Work:
    """What a run computes.

    Attributes:
        fingerprints: Fingerprints that its commit records may have.
        manifest: The manifest; `None` if it is missing or damaged.
        recorded: `run.json`; `None` if it is missing or damaged.
    """

    fingerprints: Collection[str]
    manifest: Manifest | None
    recorded: RunRecord | None

    @property
    def identity(self) -> Identity | None:
        """All settings that change results, with all outputs; `None` without a sound `run.json`."""
        return None if self.recorded is None else self.recorded.combined

    @property
    def tables(self) -> set[str] | None:
        """Tables that committed shards may have; `None` without a sound `run.json`."""
        return None if self.identity is None else {*self.identity.outputs, "failures"}

    def identity_of(self, record: CommitRecord) -> Identity | None:
        """Return what a pass computed; `None` without a sound `run.json`."""
        return None if self.recorded is None else self.recorded.passes.get(record.fingerprint)

    def schema(self, table: str) -> pa.Schema | None:
        """Return the schema of a table, which is the same in each shard; `None` if it is unknown."""
        if table == "failures":
            return tables.FAILURES
        if table == "transcripts":
            if self.manifest is None or self.identity is None:
                return None
            return tables.transcripts_schema(self.manifest.schema, self.identity.audio_digests, self.identity.nbest)
        if self.identity is None:
            return None
        make = tables.emissions_schema if table == "emissions" else tables.features_schema
        return make(str(self.identity.dtype(table)), self.identity.layout(table))


@dataclass(frozen=True)
class ShardAudit:
    """The state of one shard.

    Attributes:
        shard: Number of the shard.
        state: Whether the shard is sound, damaged or pending.
        committed: The passes that are sound; `None` if the first pass is not.
        problems: Everything that differs from what was committed.
        notes: Observations that are no problems.
    """

    shard: int
    state: State
    committed: CommittedShard | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, without the path."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, KeyError):
        said = f"lacks {said}"
    return str(said).splitlines()[0]
