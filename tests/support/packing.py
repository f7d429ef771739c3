"""Archives for tests, made of files in memory."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from running import SHIPPED

DIGITS = SHIPPED / "digits"
NAMES = sorted(path.name for path in DIGITS.glob("*-1digits-*.flac"))[:6]
"""Short shipped recordings of one digit."""


def recordings(number: int = len(NAMES)) -> dict[str, bytes]:
    """The first shipped recordings by their names."""
    return {name: (DIGITS / name).read_bytes() for name in NAMES[:number]}


def write_tar(path: Path, members: Mapping[str, bytes | tarfile.TarInfo], **options: Any) -> Path:
    """Write a tar file. A member is given by its bytes, or is written as it is, without data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                tar.addfile(data)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def link(name: str, target: str, type_: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link in a tar file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type_, target
    return info


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip file."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], group: int = 2) -> Path:
    """Write a Parquet file with so many rows in a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path
