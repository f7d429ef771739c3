"""Writes the files of a comparison into a folder. After a crash, either the old or the new file is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.compare.comparison import Comparison, compare, groups_of
from pipeline.compare.emissions import Logprobs, read_logprobs, table_of
from pipeline.compare.matching import Match, TranscribedRun
from pipeline.compare.schemas import comparison_schema
from pipeline.runtime.paths import encode_path
from pipeline.scoring.counting import COUNTED_AFTER
from pipeline.storage.local_files import replacing
from pipeline.storage.names import COMPARISON, VERSUS
from pipeline.storage.stored_run import StoredRun
from pipeline.storage.tables import open_writer

TABLE = "comparison.parquet"
GROUPS, WORDS, LOGPROBS = (f"comparison_{name}.parquet" for name in ("groups", "words", "logprobs"))
PAGE = COMPARISON


def default_folder(run_a: StoredRun, run_b: StoredRun) -> Path:
    """Return the folder of a comparison without `--out`: beside the first run, with the names of both."""
    return run_a.beside / f"{run_a.name}{VERSUS}{run_b.name}"


def write_tables(match: Match, by: Sequence[str] | None, folder: Path) -> tuple[Comparison, dict[int, Logprobs]]:
    """Compare two runs and write the tables. A table of an earlier comparison that has no rows now is removed.

    Args:
        match: The utterances that both have.
        by: Columns to group by; `None` for the groups of the first run's scores.
        folder: Folder to write to, which is created.

    Raises:
        UserError: The first run has no such column.
        OSError: A file cannot be written.
    """
    groups = groups_of(match.a.directory, by)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {**COUNTED_AFTER, "run_a": _name(match.a), "run_b": _name(match.b)}
    with (
        replacing(folder / TABLE) as path,
        open_writer(path, comparison_schema(match.a.own), metadata) as writer,
    ):
        comparison = compare(match, groups, writer.write_table)
    logprobs = read_logprobs(comparison)
    metadata["resampled"] = comparison.resampled
    tables = {GROUPS: comparison.groups, WORDS: comparison.words, LOGPROBS: table_of(match, logprobs)}
    for name, table in tables.items():
        if table.num_rows:
            _write_table(folder / name, table, metadata)
        else:
            (folder / name).unlink(missing_ok=True)
    (folder / PAGE).unlink(missing_ok=True)  # it would show an earlier comparison
    return comparison, logprobs


def _name(run: TranscribedRun) -> str:
    return encode_path(str(run.directory.place))


def _write_table(path: Path, table: pa.Table, metadata: dict[str, str]) -> None:
    with replacing(path) as staged, open_writer(staged, table.schema, metadata) as writer:
        writer.write_table(table)
