"""SHA-256 of files that may change while a process runs."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from pipeline.runtime import digests
from pipeline.runtime.digests import sha256_files


def test_files_are_read_again_for_their_digest_when_they_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    digest = digests.sha256_file
    monkeypatch.setattr(digests, "sha256_file", lambda path: read.append(path) or digest(path))
    weights, other = tmp_path / "weights", tmp_path / "other"

    def seen(content: bytes) -> int:
        assert sha256_files([weights]) == hashlib.sha256(content).hexdigest()
        return len(read)

    weights.write_bytes(b"first")
    assert seen(b"first") == seen(b"first") == 1
    written = weights.stat()
    other.write_bytes(b"other")
    changes = (lambda: os.replace(other, weights), lambda: weights.write_bytes(b"third"))
    for count, change in enumerate(changes, start=2):
        time.sleep(0.02)  # the clock of a file system may stand still for some milliseconds
        change()
        os.utime(weights, ns=(written.st_atime_ns, written.st_mtime_ns))  # as a copy that keeps times
        content = weights.read_bytes()
        assert seen(content) == seen(content) == count
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="weights"):
        sha256_files([weights])
