"""Reads the texts of a language model: text files, tables, and the references of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Place, Url
from pipeline.scoring.normalisers import standard

_TABLES = (".csv", ".tsv", ".parquet")
_COLUMNS = ("reference", "text", "transcript", "sentence")


def read_texts(path: Place) -> Iterator[str]:
    """Yield the texts of a file or of a run, normalised as references are before they are scored.

    Args:
        path: A text file with a sentence on each line, a table (.csv, .tsv, .parquet) with a column `reference`,
            `text`, `transcript` or `sentence`, or the directory of a run, which may be in an object store.

    Raises:
        UserError: There is nothing of these.
        OSError: The file cannot be read.
    """
    if isinstance(path, Url) or path.is_dir():
        yield from map(standard, _references(path))
    elif path.suffix.lower() in _TABLES:
        yield from map(standard, _column(path))
    else:
        with open(path, encoding="utf-8-sig") as file:
            try:
                yield from map(standard, file)
            except UnicodeDecodeError:
                raise UserError(f"{path}: is not text in UTF-8; convert it, or name another file") from None


def _references(run_dir: Place) -> list[str]:
    from pipeline.results import open_run

    try:
        run = open_run(run_dir)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    references: list[str] = run.manifest["reference"].dropna().tolist()
    return references


def _column(path: Path) -> list[str]:
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", dtype=str)
    except ValueError as error:  # what pandas and pyarrow raise of a file that is no table
        raise UserError(f"{path}: is no table ({str(error).splitlines()[0]}); name another file") from None
    column = next((name for name in _COLUMNS if name in frame), None)
    if column is None:
        raise UserError(f"{path}: has none of the columns {', '.join(_COLUMNS)}; rename the one that has the texts")
    texts: list[str] = frame[column].dropna().astype(str).tolist()
    return texts
