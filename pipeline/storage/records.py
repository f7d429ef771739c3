"""The records in a folder, such as commit records. Each is read once, and again only if its file has been replaced.

In an object store each record takes a request, and there may be ten thousand. So the processes that write records also
write an index: a copy of the records, each with the version of its object. A record is taken from the index only if the
store lists an object with that name, that size and that version. So an index that is old, lost or damaged costs
requests, and is never wrong. It may be written at any moment, by several processes, and before or after a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import StoreError, UserError
from pipeline.storage.files import UNREADABLE, Entry, Files

INDEX = "index.parquet"
"""The name of the index in the folder of the records."""
_MANY = 500
"""New records that are worth an index. One request for each of fewer takes a second."""
_SCHEMA = pa.schema(
    [("name", pa.string()), ("size", pa.int64()), ("version", pa.string()), ("content", pa.binary())],
)
T = TypeVar("T")


class _Known(NamedTuple, Generic[T]):
    """A record that has been read; `record` is `None` if it is damaged."""

    entry: Entry
    content: bytes | None
    record: T | None


class Records(Generic[T]):
    """The records in one folder of a run."""

    def __init__(self, files: Files, folder: str, parse: Callable[[str, bytes], T | None]) -> None:
        """Read nothing yet.

        Args:
            files: The files of the run.
            folder: The folder of the records.
            parse: Returns the record in a file, given its name and its content; `None` if it is damaged.
        """
        self._files = files
        self._folder = folder
        self._parse = parse
        self._known: dict[str, _Known[T]] = {}
        self._unindexed = self._committed = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets of this object: no record."""
        return {**self.__dict__, "_known": {}, "_unindexed": 0, "_committed": 0}

    def read(self) -> dict[str, T | None]:
        """Return each record by the name of its file; `None` for one that cannot be read."""
        listed = {name: entry for name, entry in self._files.entries(self._folder).items() if is_record(name)}
        new = self._new(listed)
        if len(new) >= _MANY and not self._files.on_disk:
            self._take_from_index({name: listed[name] for name in new})
            new = self._new(listed)
        contents = self._files.read_each(f"{self._folder}/{name}" for name in new)
        for name, (_, content) in zip(new, contents, strict=True):
            self._known[name] = self._parsed(name, listed[name], content)
        self._known = {name: self._known[name] for name in listed}
        self._unindexed += len(new)
        return {name: known.record for name, known in self._known.items()}

    def _new(self, listed: Mapping[str, Entry]) -> list[str]:
        return [name for name, entry in listed.items() if name not in self._known or self._known[name].entry != entry]

    def _parsed(self, name: str, entry: Entry, content: bytes | None) -> _Known[T]:
        return _Known(entry, content, None if content is None else self._parse(name, content))

    def _take_from_index(self, listed: Mapping[str, Entry]) -> None:
        """Take over the records that the index has as the store lists them."""
        with suppress(*UNREADABLE):  # there is none, or it is damaged
            index = pq.read_table(pa.BufferReader(self._files.read(f"{self._folder}/{INDEX}")), schema=_SCHEMA)
            for name, size, version, content in zip(*index.to_pydict().values(), strict=True):
                entry = listed.get(name)
                if entry is None or entry.version is None or (entry.size, str(entry.version)) != (size, version):
                    continue
                known = self._parsed(name, entry, content)
                if known.record is not None:
                    self._known[name] = known

    def committed(self) -> None:
        """Note that this process has written a record. Now and then it writes the index too."""
        self._committed += 1
        if self._committed % _MANY == 0 and not self._files.on_disk:
            self.read()
            self.write_index()

    def write_index(self) -> None:
        """Write the index if it lacks many records that this object has read. A failure does not matter."""
        if self._files.on_disk or self._unindexed < _MANY:
            return
        rows = [
            {"name": name, "size": entry.size, "version": str(entry.version), "content": content}
            for name, (entry, content, _) in self._known.items()
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="zstd")
        with suppress(OSError, StoreError, UserError):
            self._files.write(f"{self._folder}/{INDEX}", memoryview(sink.getvalue()))
            self._unindexed = 0


def is_record(name: str) -> bool:
    """Whether a file with this name is the record of a shard."""
    return name.startswith("shard-") and name.endswith(".json")
