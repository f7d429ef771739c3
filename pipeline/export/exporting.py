"""Exports a run: opens it, reads its recordings and hands them to the format."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.export.formats import load
from pipeline.export.material import Exported
from pipeline.export.output import beside, check_output, replacing_folder
from pipeline.export.reading import Reader, open_transcribed
from pipeline.results import Run
from pipeline.results.speakers import read_speakers
from pipeline.runtime.errors import unreadable
from pipeline.runtime.terminal import counted
from pipeline.storage.local_files import replacing


def export(
    run_dir: Path,
    format: str,
    *,
    out: Path | None = None,
    references: bool = False,
    rttm: Path | None = None,
    audio_prefix: str = "",
) -> str:
    """Export a run and return one line that says what is written, and what is left out.

    Args:
        run_dir: The run directory, or `RUN_DIR/transcripts-NAME` for a decoding.
        format: Name of the format.
        out: The file or folder; `None` takes a place beside the run directory.
        references: Whether to write references instead of transcripts.
        rttm: An RTTM file with the speakers; `None` for none.
        audio_prefix: See `Exported`.

    Raises:
        UserError: There is no run, it has no transcripts, or the place cannot be used.
        OSError: A file cannot be written.
    """
    directory, run, first_channel = open_transcribed(run_dir)
    folder = not load(format).SUFFIX
    path = out or beside(directory, f"-{format}" if folder else load(format).SUFFIX)
    check_output("--out", path, directory, folder=folder)
    speakers = None if rttm is None else read_speakers(rttm, run.manifest["path"].unique())
    reader = Reader(run, first_channel, references, speakers)
    try:
        exported = write(reader, format, path, audio_prefix)
    except pa.ArrowException as error:
        raise unreadable(run_dir, error) from error
    return _said(run, exported, path, references=references)


def write(reader: Reader, format: str, path: Path, audio_prefix: str = "") -> Exported:
    """Write the recordings of a reader to a file or a folder, whole or not at all.

    Raises:
        OSError: A file cannot be written.
    """
    chosen = load(format)
    exported = Exported(reader.run.recording_root, audio_prefix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) if chosen.SUFFIX else replacing_folder(path) as staged:
        chosen.write(reader.recordings(exported), staged, exported)
    return exported


def _said(run: Run, exported: Exported, path: Path, *, references: bool) -> str:
    without = exported.left_out.total()
    failed = sum(shard.num_failures for shard in run.commits.values())
    done = sum(shard.utterances for shard in run.commits.values())
    kinds = {
        "failed": failed,
        "pending": len(run.manifest) - done,
        "without a reference": done - failed - exported.utterances if references else 0,
        **exported.left_out,
    }
    left = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)
    written = counted(exported.utterances - without, "utterance")
    said = f"{written} of {counted(exported.recordings, 'recording')} in {path}"
    if exported.overlapping:
        said += f"; {counted(exported.overlapping, 'word')} during which somebody else speaks"
    return said + (f"; left out: {left}" if left else "")
