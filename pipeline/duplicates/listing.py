"""Writes the list of duplicates: one row for each utterance that shares its audio with another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.duplicates.analysis import Analysis
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.storage.files import replacing
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import SAME_AS, own_columns

SUFFIXES = (".csv", ".parquet")
SOUND = pa.field("sound", pa.int64())
_COLUMNS = ("path", "start_s", "end_s", "duration_s", "reference")


def check_list(path: Path, directory: RunDirectory) -> None:
    """Refuse a list that cannot be written.

    Raises:
        UserError: The name has another ending than `.csv` and `.parquet`, or the file would be in the run directory.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out={encode_path(str(path))}: must end in {' or '.join(SUFFIXES)}, which says the format")
    directory.require_outside("--out", path, "file")


def write_list(path: Path, directory: RunDirectory, analysis: Analysis) -> None:
    """Write the list as CSV or Parquet.

    The column `sound` numbers the sounds; 1 has most utterances. `same_as` is null for the first utterance of each
    sound. The dataset's own columns come last.

    Raises:
        OSError: The file cannot be written.
    """
    manifest = directory.manifest.read()
    sounds = analysis.sounds()
    rows = np.concatenate([np.empty(0, np.int64), *sounds])
    numbers = np.repeat(np.arange(1, len(sounds) + 1), [len(each) for each in sounds])
    names = [*_COLUMNS, *(field.name for field in own_columns(manifest.schema))]
    taken = manifest.replace_schema_metadata(None).take(pa.array(rows))
    table = taken.select(["id"]).append_column(SAME_AS, analysis.duplicates.same_as(rows, manifest["id"]))
    for name in names:
        table = table.append_column(name, taken[name])
    while SOUND.name in table.column_names:  # a column of the dataset keeps its values under another name
        table = table.rename_columns([f"meta_{name}" if name == SOUND.name else name for name in table.column_names])
    table = table.add_column(0, SOUND, pa.array(numbers))
    with replacing(path) as staged:
        if path.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, staged)
        else:
            pq.write_table(table, staged, compression="zstd")
