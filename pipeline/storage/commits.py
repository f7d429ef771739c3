"""Commit records: what makes a shard done, and the checks that come before one is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.runtime.digests import decode_checked, encode_checked

IN_PARTS = ("emissions", "features")
"""Tables in which an utterance may go on in further rows."""


@dataclass(frozen=True, slots=True)
class CommittedFile:
    """A table's file as the commit record lists it."""

    path: str
    size: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """`commits/shard-00017.json`: what makes a shard done.

    Attributes:
        shard: Number of the shard.
        fingerprint: Of the run that wrote it.
        files: Table name to file.
        utterances: Rows of the manifest in this shard.
        audio_s: Seconds of audio in this shard that were transcribed.
        failures: Error name to count.
        counts: Sums that summaries need without opening the tables (word errors and the like).
        committed_at: UTC, ISO 8601.
    """

    shard: int
    fingerprint: str
    files: dict[str, CommittedFile]
    utterances: int
    audio_s: float
    failures: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)
    committed_at: str = ""

    @property
    def num_failures(self) -> int:
        """Utterances of this shard without a result."""
        return sum(self.failures.values())


_TYPES: dict[str, type | tuple[type, ...]] = {
    "shard": int,
    "fingerprint": str,
    "utterances": int,
    "audio_s": (int, float),
    "failures": dict,
    "counts": dict,
}
"""What JSON must have given for the fields of a record."""


def encode_record(record: CommitRecord) -> bytes:
    """A commit record as it stands on disk."""
    return encode_checked(asdict(record))


def check_accounting(staged: Mapping[str, Path], expected_ids: Sequence[str], rows_per_id: Mapping[str, int]) -> None:
    """Every id is in all requested tables or in failures, never both, never neither."""
    failed = Counter(pq.read_table(staged["failures"], columns=["id"])["id"].to_pylist())
    for table, rows in rows_per_id.items():
        found = Counter(_ids(staged[table], in_parts=table in IN_PARTS))
        wanted = Counter({id_: rows for id_ in expected_ids if id_ not in failed})
        if found != wanted or not failed <= Counter(expected_ids):
            odd = sorted((found - wanted) + (wanted - found) + (failed - Counter(expected_ids)))[:3]
            raise AssertionError(f"{table} and failures do not account for every id once: {odd}")


def _ids(path: Path, in_parts: bool) -> list[str]:
    """The id of every row, of the first part alone where an utterance goes on in further rows."""
    table = pq.read_table(path, columns=["id", "part"] if in_parts else ["id"])
    ids: list[str] = (table.filter(pc.equal(table["part"], 0)) if in_parts else table)["id"].to_pylist()
    return ids


def read_record(data: bytes) -> CommitRecord | None:
    """A commit record, or `None` where the bytes are damaged: then the shard is done again."""
    try:
        return decode_record(data)
    except ValueError:
        return None


def decode_record(data: bytes) -> CommitRecord:
    """A commit record of the bytes on disk.

    Raises:
        ValueError: They are not a commit record, or have been edited.
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
