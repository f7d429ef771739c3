"""An object store in the memory of this process, which creates an object once. For tests of many small steps."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.storage import object_files


class MemoryStore(MemoryFileSystem):  # type: ignore[misc]
    """It tells contents apart by their `ETag`, as S3 does."""

    cachable = False
    creates_once = True

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.pseudo_dirs: list[str] = [""]
        self._lock = threading.RLock()

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        with self._lock:
            return self._tagged(super().info(path, **options))

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        with self._lock:
            found = super().ls(path, detail=detail)
            return [self._tagged(each) for each in found] if detail else found

    def _tagged(self, found: dict[str, Any]) -> dict[str, Any]:
        if found["type"] == "file":
            found["ETag"] = hashlib.md5(self.store[found["name"]].getvalue()).hexdigest()
        return found

    def cat_file(self, *asked: Any, **options: Any) -> Any:
        with self._lock:
            return super().cat_file(*asked, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        with self._lock:  # an object is there when it is complete
            super().pipe_file(path, value, mode=mode if self.creates_once else "overwrite")

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())


def use_memory(patch: pytest.MonkeyPatch, scratch: Path) -> MemoryStore:
    """Let every store be one in memory, and files be written in `scratch` before they go there."""
    store = MemoryStore()
    patch.setattr(object_files, "filesystem", lambda _: store)
    patch.setattr(object_files.tempfile, "gettempdir", lambda: str(scratch))
    return store
