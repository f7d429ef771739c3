"""The folder of a sample: what was drawn, the tasks for Label Studio, and what an estimate found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.formats import labelstudio
from pipeline.export.material import Exported
from pipeline.export.output import replacing_folder
from pipeline.export.reading import Reader
from pipeline.results import Run
from pipeline.runtime.errors import UserError
from pipeline.sample.design import Design
from pipeline.sample.estimating import Estimate
from pipeline.sample.frame import Frame
from pipeline.storage.files import UNREADABLE
from pipeline.storage.local_files import replacing
from pipeline.storage.tables import metadata_of, open_writer

SAMPLE, ESTIMATE, NEXT = "sample.parquet", "estimate.parquet", "next"
TASKS = "tasks.json"
SCHEMA = pa.schema([("id", pa.string()), ("stratum", pa.int32()), ("drawn", pa.bool_())])
"""Each utterance that had a transcript. The stratum is null for one that had a reference, which was not drawn from."""


@dataclass(frozen=True)
class Tasks:
    """Where audio is found.

    Attributes:
        run: The run.
        first_channel: Whether the run took the first channel of each recording.
        audio_prefix: What stands before the path of a recording in a URL.
    """

    run: Run
    first_channel: bool
    audio_prefix: str

    def write(self, ids: list[str], folder: Path) -> None:
        """Write the tasks of some utterances into a folder that exists."""
        reader = Reader(self.run.select(ids), self.first_channel)
        exported = Exported(self.run.recording_root, self.audio_prefix)
        labelstudio.write(reader.recordings(exported), folder, exported)


def write_sample(
    folder: Path, frame: Frame, population: np.ndarray, design: Design, tasks: Tasks, drawn_with: dict[str, Any]
) -> None:
    """Write a sample, whole or not at all.

    Args:
        folder: The folder, which does not exist.
        frame: The utterances of the run.
        population: Indices of the utterances that were drawn from.
        design: What was drawn of them.
        tasks: Writes the tasks.
        drawn_with: The settings of the draw.
    """
    stratum = np.full(len(frame), -1)
    stratum[population] = design.stratum
    drawn = np.zeros(len(frame), dtype=bool)
    drawn[population] = design.drawn
    columns = [frame.ids, pa.array(stratum, pa.int32(), mask=stratum < 0), pa.array(drawn)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as staged:
        with open_writer(staged / SAMPLE, SCHEMA, {"drawn_with": drawn_with}) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
        tasks.write(frame.ids.filter(pa.array(drawn)).to_pylist(), staged)


def read_sample(folder: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read a sample, and the settings that it was drawn with.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    path = folder / SAMPLE
    try:
        table = pq.read_table(path)
        drawn_with: dict[str, Any] = metadata_of(table.schema)["drawn_with"]
        return table.select(SCHEMA.names), drawn_with
    except FileNotFoundError:
        raise UserError(f"{path}: no sample there; draw one with --hours, or give its folder with --out") from None
    except UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({reason}); restore it, or draw a sample into another --out") from None


def write_estimate(folder: Path, estimate: Estimate, tasks: Tasks) -> None:
    """Write what an estimate found beside the sample: `estimate.parquet`, and the tasks of what to label next."""
    with replacing(folder / ESTIMATE) as staged, open_writer(staged, estimate.table.schema) as writer:
        writer.write_table(estimate.table)
    with replacing_folder(folder / NEXT) as staged:
        with open_writer(staged / "next.parquet", estimate.next.schema) as writer:
            writer.write_table(estimate.next)
        tasks.write(estimate.next["id"].to_pylist(), staged)
