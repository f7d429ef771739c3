"""Commit records. A shard is done when its commit record exists; the tables are checked before it is written.

The first pass over a shard writes `commits/shard-00017.json`. Outputs that are requested later are computed in further
passes, called supplements: `commits/shard-00017-1.json`, `commits/shard-00017-2.json` and so on, with tables of their
own. An utterance that failed in one pass is not computed in the passes after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.runtime.digests import decode_checked, encode_checked, sha256_of
from pipeline.runtime.errors import naming
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.files import StoredTable
from pipeline.storage.local_files import fsync

IN_PARTS = ("emissions", "features")
"""Tables in which a long utterance has several rows, called parts."""


@dataclass(frozen=True, slots=True)
class CommittedFile:
    """The file of a table, as the commit record lists it."""

    path: str
    size: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """The content of `commits/shard-00017.json`, the record of one pass over a shard.

    Attributes:
        shard: Number of the shard.
        fingerprint: Fingerprint of what the pass computed.
        files: File of each table, by table name.
        utterances: Number of utterances that the pass was to compute: all rows of the shard; in a supplement, those
            that had not failed before.
        audio_s: Seconds of audio that have a result in this pass.
        failures: Number of failures of this pass, by error name.
        counts: Sums such as the number of word errors, so that summaries need not open the tables.
        committed_at: Time of the commit in UTC, as ISO 8601.
        supplement: 0 for the first pass; 1, 2, ... for supplements.
    """

    shard: int
    fingerprint: str
    files: dict[str, CommittedFile]
    utterances: int
    audio_s: float
    failures: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)
    committed_at: str = ""
    supplement: int = 0

    @property
    def num_failures(self) -> int:
        """Number of utterances that failed in this pass."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class CommittedShard:
    """A shard that is done: its first pass, and its supplements.

    Attributes:
        records: Commit record of the first pass, then those of the supplements, in order.
    """

    records: tuple[CommitRecord, ...]

    @property
    def shard(self) -> int:
        """Number of the shard."""
        return self.records[0].shard

    @property
    def utterances(self) -> int:
        """Number of manifest rows in this shard."""
        return self.records[0].utterances

    @property
    def audio_s(self) -> float:
        """Seconds of audio in this shard that did not fail in any pass."""
        return self.records[-1].audio_s

    @property
    def failures(self) -> Counter[str]:
        """Number of failures, by error name."""
        return sum((Counter(record.failures) for record in self.records), Counter())

    @property
    def num_failures(self) -> int:
        """Number of utterances that failed in any pass."""
        return self.failures.total()

    @property
    def counts(self) -> Counter[str]:
        """Sums over the tables of all passes."""
        return sum((Counter(record.counts) for record in self.records), Counter())

    @property
    def committed_at(self) -> str:
        """Time of the first pass's commit in UTC, as ISO 8601."""
        return self.records[0].committed_at

    @property
    def new_since(self) -> datetime:
        """Time at which the transcripts were committed; without transcripts, that of the first pass.

        Other outputs that were added to an old shard do not make its utterances new.
        """
        record = (self.having("transcripts") or self.records)[0]
        try:
            return datetime.fromisoformat(record.committed_at).astimezone(UTC)
        except (ValueError, OverflowError):
            return datetime.min.replace(tzinfo=UTC)

    def having(self, table: str) -> tuple[CommitRecord, ...]:
        """Return the records of the passes that wrote a table. Only `failures` and `features` can have several."""
        return tuple(record for record in self.records if table in record.files)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "shard": int,
    "fingerprint": str,
    "utterances": int,
    "audio_s": (int, float),
    "failures": dict,
    "counts": dict,
    "supplement": int,
}
"""The type that each field of a record must have after JSON is parsed."""


def staged_file(stored: StoredTable, staged: Path, shard: int) -> CommittedFile:
    """Sync a staged file, and return it as a commit record lists it.

    Args:
        stored: The file under its final name.
        staged: The file in staging.
        shard: The shard that it belongs to.
    """
    with naming(stored):
        failpoint("sync", shard)
        fsync(staged)
    with open(staged, "rb") as source:
        return CommittedFile(stored.name, staged.stat().st_size, sha256_of(source), pq.read_metadata(staged).num_rows)


def encode_record(record: CommitRecord) -> bytes:
    """Return the bytes of a commit record's file. The record of a first pass does not say that it is no supplement."""
    return encode_checked({name: value for name, value in asdict(record).items() if name != "supplement" or value})


def check_accounting(staged: Mapping[str, Path], expected_ids: Sequence[str], rows_per_id: Mapping[str, int]) -> None:
    """Check that each id is either in all requested tables or in failures.

    Args:
        staged: File of each table, by table name.
        expected_ids: Every id that the pass was to compute.
        rows_per_id: Number of rows that an utterance with a result has in a table, by table name.

    Raises:
        AssertionError: An id is in both, in neither, or in a table too often.
    """
    expected = Counter(expected_ids)
    failed = Counter(pq.read_table(staged["failures"], columns=["id"])["id"].to_pylist())
    unknown = failed - expected
    for table, rows in rows_per_id.items():
        found = Counter(_ids(staged[table], in_parts=table in IN_PARTS))
        wanted = Counter({id_: rows for id_ in expected if id_ not in failed})
        if unknown or not dict.__eq__(found, wanted):  # counters take longer to compare than dicts
            odd = sorted((found - wanted) + (wanted - found) + unknown)[:3]
            raise AssertionError(f"{table} and failures do not account for every id once: {odd}")


def _ids(path: Path, in_parts: bool) -> list[str]:
    """Return the id of every row. If the table has parts, return only the ids of first parts."""
    table = pq.read_table(path, columns=["id", "part"] if in_parts else ["id"])
    ids: list[str] = (table.filter(pc.equal(table["part"], 0)) if in_parts else table)["id"].to_pylist()
    return ids


def read_record(data: bytes) -> CommitRecord | None:
    """Parse a commit record. Return `None` if the bytes are damaged; the shard is then computed again."""
    try:
        return decode_record(data)
    except ValueError:
        return None


def decode_record(data: bytes) -> CommitRecord:
    """Parse the bytes of a commit record's file.

    Raises:
        ValueError: The bytes are not a commit record, or they have been edited.
    """
    try:
        content = decode_checked(data)
        content["files"] = {table: CommittedFile(**file) for table, file in content["files"].items()}
        record = CommitRecord(**content)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a commit record ({error})") from None
    for name, type_ in _TYPES.items():
        if not isinstance(getattr(record, name), type_):
            raise ValueError(f"not a commit record ({name} is {getattr(record, name)!r})")
    return record
