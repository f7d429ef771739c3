"""Reads the corrections of a file, or of all files in a folder. The ending of a file says what it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.datasets.formats.source import Source
from pipeline.runtime.errors import UserError
from pipeline.stages.corrections import elan, label_studio, table, textgrid
from pipeline.stages.corrections.correction import Correction

_READERS: dict[str, Callable[[Source], Iterator[Correction]]] = {
    ".json": label_studio.read,
    ".textgrid": textgrid.read,
    ".eaf": elan.read,
    **dict.fromkeys((".csv", ".tsv", ".jsonl", ".parquet"), table.read),
}


def read(path: Path) -> Iterator[Correction]:
    """Yield the corrections of a file, or of the files in a folder, by name.

    Raises:
        UserError: The file is of no known kind or cannot be read, or a folder has no file of a known kind.
    """
    if not path.is_dir():
        yield from _read_file(path)
        return
    files = sorted(each for each in path.iterdir() if each.suffix.lower() in _READERS and not each.name.startswith("."))
    if not files:
        raise UserError(f"{path}: has no file that ends in {_endings()}; give such a file, or a folder with some")
    for file in files:
        yield from _read_file(file)


def _read_file(path: Path) -> Iterator[Correction]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: the ending {path.suffix or 'is missing and'} is not one of {_endings()}; rename it")
    return reader(Source(os.path.abspath(path), os.fspath(path)))


def _endings() -> str:
    return ".json (Label Studio), .TextGrid, .eaf (ELAN), .csv, .tsv, .jsonl, .parquet"
