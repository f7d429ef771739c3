"""`python -m pipeline.sample RUN_DIR` draws utterances to label, and estimates error rates. Does not import torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError, unreadable
from pipeline.runtime.places import local_path, place
from pipeline.runtime.redaction import mask_tracebacks
from pipeline.runtime.stdout import console
from pipeline.runtime.terminal import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.results import Run
    from pipeline.sample.folder import Tasks
    from pipeline.sample.frame import Frame
    from pipeline.scoring.groups import Group
    from pipeline.storage.run_directory import RunDirectory

_USAGE = "python -m pipeline.sample RUN_DIR [--hours H] [--by COLUMNS] [--seed N] [--estimate] [--out FOLDER]"
_PAGE = """\
usage: python -m pipeline.sample RUN_DIR [option ...]

Draws utterances without a reference at random, as tasks of Label Studio. The
utterances are divided into strata by group, by the model's certainty and by
duration, and more are drawn where more errors are expected. When they are
labelled and python -m pipeline.import has taken the references into RUN_DIR,
--estimate gives the word error rate of the whole corpus and of each group,
with a 95 % interval, and lists what is worth labelling next. For
RUN_DIR/transcripts-NAME, this is done for the decoding NAME.

options
  --hours H         hours of audio to draw, or to list next (default 1)
  --by COLUMNS      columns to group by, such as room,speaker or room+mic
                    (default: the columns that the dataset is scored by). The
                    strata are those of the first
  --seed N          seed of the draw (default 0)
  --estimate        estimate error rates from the sample
  --out FOLDER      folder of the sample (default: RUN_DIR-sample)
  --audio-url URL   what stands before the path of a recording below the
                    folder of the recordings (default: /data/local-files/?d=)
  -h, --help        this page

exit codes
  0    the sample is drawn, or the rates are estimated
  1    a file could not be read or written
  2    there is no run or no sample in that folder, or the options cannot be
       used"""


def main(arguments: Sequence[str]) -> int:
    """Draw a sample or estimate error rates, and return the exit code."""
    return command(arguments, _PAGE, _perform, "nothing written")


def _perform(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    # These imports are slow, and the help page does not need them.
    import pyarrow as pa

    from pipeline.export.output import beside
    from pipeline.export.reading import open_transcribed
    from pipeline.sample.folder import Tasks

    directory, run, first_channel = open_transcribed(given.run_dir)
    folder = given.out or beside(directory, "-sample")
    tasks = Tasks(run, first_channel, given.audio_url)
    try:
        (_estimate if given.estimate else _draw)(given, directory, run, folder, tasks)
    except pa.ArrowException as error:
        raise unreadable(given.run_dir, error) from error
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    parser.add_argument("--hours", metavar="H", type=float, default=1.0)
    parser.add_argument("--by", metavar="COLUMNS", type=lambda given: given.split(","))
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--out", metavar="FOLDER", type=local_path)
    parser.add_argument("--audio-url", metavar="URL", default="/data/local-files/?d=")
    given = parser.parse_args(arguments)
    if not 0 < given.hours < 1e6:
        raise UserError(f"--hours={given.hours}: must be a number of hours above 0")
    if given.seed < 0:
        raise UserError(f"--seed={given.seed}: must be 0 or a larger whole number")
    return given


def _frame(directory: RunDirectory, run: Run, by: Sequence[str] | None) -> Frame:
    from pipeline.datasets import usual_groups
    from pipeline.sample.frame import read_frame
    from pipeline.scoring.groups import choose_groups
    from pipeline.storage.tables import metadata_of, own_columns

    schema = directory.manifest.schema()
    usual = usual_groups(str((metadata_of(schema).get("made_with") or {}).get("dataset")))
    groups: list[Group] = choose_groups(by, own_columns(schema), usual, "--by")
    return read_frame(run, groups)


def _draw(given: argparse.Namespace, directory: RunDirectory, run: Run, folder: Path, tasks: Tasks) -> None:
    import numpy as np

    from pipeline.export.output import check_output
    from pipeline.runtime.progress import format_hours
    from pipeline.sample.design import draw
    from pipeline.sample.folder import SAMPLE, TASKS, write_sample

    if (folder / SAMPLE).exists():
        raise UserError(f"--out={folder}: has a sample already; --estimate reads it, and --out names another folder")
    check_output("--out", folder, directory, folder=True)
    frame = _frame(directory, run, given.by)
    if not len(frame):
        raise UserError(f"{given.run_dir}: no utterance has a transcript yet; nothing to draw")
    population = np.flatnonzero(~frame.labelled)
    if not len(population):
        raise UserError(f"{given.run_dir}: each utterance with a transcript has a reference; nothing to draw")
    expected = 3600 * given.hours / max(float(frame.duration_s[population].mean()), 1e-9)
    by = _first_group(frame, given.by, min(expected, len(population)))
    codes = frame.codes(by) if by else np.zeros(len(frame), dtype=np.int64)
    design = draw(frame, population, codes[population], 3600 * given.hours, given.seed)
    names = list(dict.fromkeys(each.group for each in frame.groups)) if given.by is None else given.by
    settings = {"seed": given.seed, "hours": given.hours, "by": names, "strata_by": by}
    write_sample(folder, frame, population, design, tasks, settings)
    taken = population[design.drawn]
    certainty, duration = design.parts
    kinds = [by or "", f"certainty in {certainty} parts" * (certainty > 1), f"duration in {duration}" * (duration > 1)]
    said = ", ".join(filter(None, kinds))
    print_ = _printer()
    print_(
        f"{counted(len(taken), 'utterance')} ({format_hours(float(frame.duration_s[taken].sum()))}) of "
        f"{len(population):,} drawn with seed {given.seed}; strata: {design.strata}" + (f" ({said})" if said else "")
    )
    print_(f"tasks in {folder / TASKS}; serve the audio below {run.recording_root}")


def _first_group(frame: Frame, by: Sequence[str] | None, utterances: float) -> str | None:
    """Return the group whose values are strata; `None` for none.

    Raises:
        UserError: The user's group has too many values for a sample of this size.
    """
    from pipeline.sample.design import fits

    for name in dict.fromkeys(each.group for each in frame.groups):
        values = sum(each.group == name for each in frame.groups)
        if fits(values, utterances):
            return name
        if by is not None:
            raise UserError(
                f"--by={name}: has {values} values, too many for about {utterances:.0f} utterances; give more --hours, "
                "or put a column with fewer values first"
            )
    return None


def _estimate(given: argparse.Namespace, directory: RunDirectory, run: Run, folder: Path, tasks: Tasks) -> None:
    from pipeline.runtime.progress import format_hours
    from pipeline.sample.estimating import estimate
    from pipeline.sample.folder import ESTIMATE, NEXT, TASKS, read_sample, write_estimate
    from pipeline.sample.terminal import pictures

    sample, drawn_with = read_sample(folder)
    frame = _frame(directory, run, given.by or drawn_with["by"])
    if not frame.labelled.any():
        raise UserError(
            f"{folder}: no utterance of the run has a reference yet; label {folder / TASKS}, then python -m "
            f"pipeline.import {directory.root} FILE"
        )
    found = estimate(frame, sample, 3600 * given.hours)
    write_estimate(folder, found, tasks)
    screen = console()
    for picture in pictures(found, sample, frame, screen.width):
        screen.print(picture)
    print_ = _printer()
    print_(f"estimates in {folder / ESTIMATE}")
    if found.next.num_rows:
        audio, errors = (sum(found.next[name].to_pylist()) for name in ("duration_s", "expected_errors"))
        print_(
            f"next worth labelling: {counted(found.next.num_rows, 'utterance')}, {format_hours(audio)}, with about "
            f"{counted(round(errors), 'error')}, in {folder / NEXT / TASKS}"
        )


def _printer() -> Callable[[str], None]:
    screen = console()
    return lambda line: screen.print(printable(line), markup=False)


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
