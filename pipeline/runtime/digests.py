"""SHA-256 of files and of plain values, and JSON files that hold a digest of themselves."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"
"""Key of the digest that a JSON file of ours holds of the rest of itself."""


def digest_of_json(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_of(source: Any) -> str:
    """SHA-256 of an open binary file, in hexadecimal."""
    return hashlib.file_digest(source, "sha256").hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a local file, in hexadecimal."""
    with open(path, "rb") as source:
        return sha256_of(source)


def sha256_files(paths: Sequence[Path]) -> str:
    """SHA-256 of one local file; of several, that of the lines `sha256sum` writes of them, in the order of their names.

    `(cd FOLDER; LC_ALL=C; sha256sum FILES | sort -k2 | sha256sum)` gives the same. A process reads the files once,
    until one of them changes.
    """
    found = [os.stat(path) for path in paths]
    # Whoever sets the time of the last write also sets that of the last change, `st_ctime_ns`, to now.
    return _read_files(tuple(paths), tuple((each.st_ino, each.st_size, each.st_ctime_ns) for each in found))


@lru_cache(maxsize=32)
def _read_files(paths: tuple[Path, ...], versions: tuple[tuple[int, ...], ...]) -> str:
    if len(paths) == 1:
        return sha256_file(paths[0])
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def encode_checked(content: Mapping[str, Any]) -> bytes:
    """JSON as it stands on disk, with a digest of itself, so that an edit shows."""
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return json.dumps({**rest, CHECKSUM: digest_of_json(rest)}, indent=1).encode()


def decode_checked(data: bytes) -> dict[str, Any]:
    """What `encode_checked` wrote, without the digest.

    Raises:
        ValueError: The bytes are not such a file, or they have been edited.
    """
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    checksum = content.pop(CHECKSUM, None)  # files of the first releases have none
    if checksum not in (None, digest_of_json(content)):
        raise ValueError("its checksum is not that of its content")
    return content
