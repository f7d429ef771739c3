"""The headers that an unfinished listing has read, as files in staging, so that a kill costs about half a minute.

A recording is known again by its path and the version of its file. The files are removed once the manifest is there.
"""

from __future__ import annotations

import time
from contextlib import suppress
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from pipeline.audio.headers import Probed
from pipeline.records import AudioHeader
from pipeline.storage.files import UNREADABLE
from pipeline.storage.names import HEADERS
from pipeline.storage.run_directory import RunDirectory

STORED_EVERY_S = 30.0
"""Seconds after which the headers that were read meanwhile are written."""
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("num_channels", pa.int16(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("file_size", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
    ]
)


class ProbedHeaders:
    """The headers that were read before, in the files of `HEADERS`; further ones are written as they come.

    Memory holds twelve bytes of each header, and the headers of one file and those that are not written yet.
    """

    def __init__(self, directory: RunDirectory) -> None:
        """Index what there is. A file that cannot be read counts as not there. The caller holds the lock."""
        self._directory = directory
        self._names = directory.names(HEADERS)
        self._new: dict[bytes, Probed] = {}
        self._open: tuple[int, dict[bytes, Probed]] = (-1, {})
        self._written = time.monotonic()
        keys, files = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for number in range(len(self._names)):
            with suppress(*UNREADABLE):
                paths = directory.stored(f"{HEADERS}/{self._names[number]}").read(["path"])["path"].to_pylist()
                keys.append(np.array([*map(_key, paths)], np.uint64))
                files.append(np.full(len(paths), number, np.int32))
        order = np.argsort(np.concatenate(keys), kind="stable")
        self._keys, self._files = np.concatenate(keys)[order], np.concatenate(files)[order]

    def find(self, path: str) -> Probed | None:
        """Return what was read of a recording last; `None` if nothing was."""
        name = _encoded(path)
        key = np.uint64(_key(name))
        last = int(np.searchsorted(self._keys, key, "right")) - 1
        return None if last < 0 or self._keys[last] != key else self._file(int(self._files[last])).get(name)

    def _file(self, number: int) -> dict[bytes, Probed]:
        """Return the headers of a file; none if it cannot be read. One file stays in memory."""
        if self._open[0] != number:
            found: dict[bytes, Probed] = {}
            with suppress(*UNREADABLE):
                for row in self._directory.stored(f"{HEADERS}/{self._names[number]}").read(_SCHEMA.names).to_pylist():
                    path, version = row.pop("path"), row.pop("version")
                    found[path] = Probed(AudioHeader(**row), row["file_size"], version)
            self._open = number, found
        return self._open[1]

    def keep(self, path: str, probed: Probed) -> None:
        """Keep the header of a recording. The caller holds the lock."""
        self._new[_encoded(path)] = probed
        if time.monotonic() - self._written >= STORED_EVERY_S:
            rows = [
                {"path": path, **each.header._asdict(), "version": each.version}
                for path, each in self._new.items()
                if each.header is not None
            ]
            name = f"{HEADERS}/batch-{len(self._names):05d}.parquet"
            self._directory.write_table(name, pa.Table.from_pylist(rows, schema=_SCHEMA))
            self._names.append(name.rpartition("/")[2])
            self._new, self._written = {}, time.monotonic()


def _encoded(path: str) -> bytes:
    """Return the bytes of a path. Other paths have other bytes, also those with bytes that are not UTF-8."""
    return path.encode(errors="surrogatepass")


def _key(path: bytes) -> int:
    return int.from_bytes(blake2b(path, digest_size=8).digest(), "little")
