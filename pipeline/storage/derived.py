"""Tables that are made from the committed tables of a run, shard by shard, without the model.

Such a table has a folder, for example `transcripts-beam/`, with one file for each shard. The commit record of a file
lies in `commits-transcripts-beam/`. It says from which contents the file was made. If a shard is computed again with
other emissions, the file is removed. If a reference is corrected, the file is out of date. Then the same command makes
it again. `identity.json` beside the records says with which settings all files of the table were made.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.runtime.clock import timestamp
from pipeline.runtime.digests import decode_checked, digest_of_json, encode_checked
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import CommittedFile, CommittedShard, staged_file
from pipeline.storage.files import Files, StoredTable
from pipeline.storage.names import COMMITS, DECODED, name_of_pass, pass_of_name
from pipeline.storage.records import Records


@dataclass(frozen=True, slots=True)
class DerivedRecord:
    """The commit record of one file of a derived table.

    Attributes:
        shard: Number of the shard.
        fingerprint: SHA-256 of the settings that the file was made with.
        sources: Digest of each content that the file was made from, by a name such as `emissions`.
        counts: Sums over the rows, as in `CommitRecord`.
        file: The file; `None` before it is committed.
        committed_at: Time of the commit in UTC, as ISO 8601.
    """

    shard: int
    fingerprint: str
    sources: Mapping[str, str]
    counts: Mapping[str, int]
    file: CommittedFile | None = None
    committed_at: str = ""


class DerivedTable:
    """One derived table of a run. Who writes holds the lock of the run.

    Attributes:
        folder: The folder of its files, such as `transcripts-beam`.
        commits: The folder of its commit records.
        decoding: Name of the decoding whose transcripts it has; `None` if it has something else.
    """

    def __init__(self, files: Files, folder: str) -> None:
        """Read and write nothing yet.

        Args:
            files: The files of the run directory.
            folder: The folder of the table.
        """
        self._files = files
        self.folder = folder
        self.commits = f"{COMMITS}-{folder}"
        self._records = Records(files, self.commits, _parsed)
        self.decoding = folder.removeprefix(DECODED) if folder.startswith(DECODED) else None

    def table(self, shard: int) -> StoredTable:
        """Return the file of a shard."""
        return StoredTable(self._files, f"{self.folder}/{name_of_pass(shard)}.parquet")

    def commit_name(self, shard: int) -> str:
        """Return the name of the commit record of a shard."""
        return f"{self.commits}/{name_of_pass(shard)}.json"

    def identity(self) -> dict[str, Any] | None:
        """Return the settings that the table was made with; `None` if the table does not exist."""
        with suppress(OSError, ValueError, RecursionError):
            return decode_checked(self._files.read(f"{self.commits}/identity.json"))
        return None

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Write the settings of the table. Files that were made with other settings are removed before.

        So who reads the folder never finds files of two settings.
        """
        for folder, ending in ((self.commits, "json"), (self.folder, "parquet")):
            for shard in {written[0] for name in self._files.names(folder) if (written := pass_of_name(name, ending))}:
                self.remove(shard)
        self._files.write(f"{self.commits}/identity.json", encode_checked(identity))

    def records(self) -> dict[int, DerivedRecord]:
        """Return the commit record of each file that is there with the recorded size, by shard."""
        identity = self.identity()
        if identity is None:
            return {}
        fingerprint = digest_of_json(identity)
        records = sorted((each for each in self._records.read().values() if each is not None), key=lambda r: r.shard)
        sizes = {f"{self.folder}/{name}": entry.size for name, entry in self._files.entries(self.folder).items()}
        return {
            record.shard: record
            for record in records
            if record.fingerprint == fingerprint
            and record.file is not None
            and record.file.path == self.table(record.shard).name
            and sizes.get(record.file.path) == record.file.size
        }

    def read_record(self, shard: int) -> DerivedRecord | None:
        """Read the commit record of a shard; return `None` if it is missing or damaged."""
        with suppress(OSError):
            return _parsed(f"{name_of_pass(shard)}.json", self._files.read(self.commit_name(shard)))
        return None

    def commit(self, record: DerivedRecord, staged: Path) -> DerivedRecord:
        """Move a staged file to its final name, and write the commit record last.

        Args:
            record: The record without `file` and `committed_at`.
            staged: The file, on the same file system.

        Returns:
            The record as it is written.
        """
        stored, shard = self.table(record.shard), record.shard
        file = staged_file(stored, staged, shard)
        failpoint("staged", shard)
        self.retract(shard)  # an old record goes before its file changes
        self._files.publish({stored.name: staged}, shard)
        failpoint("renamed", shard)
        self._files.check()
        done = replace(record, file=file, committed_at=timestamp())
        self._files.write(self.commit_name(shard), encode_checked(asdict(done)), shard)
        failpoint("committed", shard)
        self._records.committed()
        return done

    def renew(self, shard: int, counts: Mapping[str, int], staged: Path) -> None:
        """Replace the committed file of a shard by one whose errors are counted anew."""
        before = self.read_record(shard)
        assert before is not None, "a committed shard"
        self.commit(replace(before, counts=counts), staged)

    def retract(self, shard: int) -> None:
        """Remove the commit record of a shard, so that its file is made again."""
        if self._files.size(self.commit_name(shard)) is not None:
            self._files.remove(self.commit_name(shard), durable=True)

    def remove(self, shard: int) -> None:
        """Remove the file of a shard, its commit record first."""
        self.retract(shard)
        self._files.remove(self.table(shard).name)

    def in_place_of_transcripts(self, done: Mapping[int, CommittedShard]) -> dict[int, CommittedShard]:
        """Return the committed shards that this table has too, with its files in place of their transcripts.

        Args:
            done: The committed shards of the run, by shard.
        """
        records = self.records()
        return {
            shard: found
            for shard, committed in done.items()
            if shard in records and (found := _with_transcripts(committed, records[shard])) is not None
        }


def emissions_digest(committed: CommittedShard) -> str | None:
    """Return the SHA-256 of the emissions of a committed shard; `None` if the shard has none."""
    return next((record.files["emissions"].sha256 for record in committed.having("emissions")), None)


def _parsed(name: str, content: bytes) -> DerivedRecord | None:
    """Return the record in a file; `None` if it is damaged or has the name of another shard's."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        fields = decode_checked(content)
        record = DerivedRecord(**(fields | {"file": CommittedFile(**fields["file"])}))
        return record if name == f"{name_of_pass(record.shard)}.json" else None
    return None


def _with_transcripts(committed: CommittedShard, record: DerivedRecord) -> CommittedShard | None:
    """Return a committed shard with other transcripts; `None` if they are not those of its emissions."""
    if record.file is None or record.sources.get("emissions") != emissions_digest(committed):
        return None
    first, *others = committed.records
    first = replace(first, files={**first.files, "transcripts": record.file}, counts=dict(record.counts))
    others = [
        replace(each, files={table: file for table, file in each.files.items() if table != "transcripts"}, counts={})
        for each in others
    ]
    return CommittedShard((first, *others))
