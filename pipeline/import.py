"""`python -m pipeline.import RUN_DIR FILE` takes corrected references into a run. Does not import torch.

Python code cannot import a module of this name by a statement; `pipeline.stages.corrections` has what it does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pipeline.runtime import failpoints
from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError, unreadable
from pipeline.runtime.places import local_path, place
from pipeline.runtime.redaction import mask_tracebacks
from pipeline.runtime.stdout import console
from pipeline.runtime.terminal import printable

_USAGE = "python -m pipeline.import RUN_DIR FILE"
_PAGE = """\
usage: python -m pipeline.import RUN_DIR FILE

Takes corrected references into a run, and makes its scores and its report
anew. Nothing is computed by the model. FILE is one of these, or a folder with
several of them:

  .json             Label Studio's export as JSON
  .TextGrid         tiers of Praat; the file has the name of the recording
  .eaf              tiers of ELAN; the file has the name of the recording
  .csv .tsv .jsonl .parquet
                    a column id, or path (and start, end, channel), and a
                    column reference

Utterances are found by id, or by the recording and the time. The corrections
are kept in RUN_DIR/references.parquet, and override the references of the
corpus in later runs too. No run may be going on in RUN_DIR.

options
  -h, --help        this page

exit codes
  0    the references are corrected
  1    a file could not be read or written; the same command continues
  2    there is no run in that folder, a process is at work in it, or the file
       has no correction of one of its utterances"""


def main(arguments: Sequence[str]) -> int:
    """Import corrections and return the exit code."""
    return command(arguments, _PAGE, _perform, "not everything is imported; the same command continues")


def _perform(arguments: Sequence[str]) -> int:
    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    parser.add_argument("file", metavar="FILE", type=local_path)
    given = parser.parse_args(arguments)
    # These imports are slow, and the help page does not need them.
    import pyarrow as pa

    from pipeline.scoring.terminal import pictures
    from pipeline.stages.corrections.importing import import_corrections
    from pipeline.storage.run_directory import RunDirectory

    directory, screen = RunDirectory.at(given.run_dir), console()
    if directory.decoded is not None:
        run = directory.root
        raise UserError(f"{given.run_dir}: is a decoding, and references belong to the whole run; give {run}")

    def say(line: str) -> None:
        screen.print(printable(line), markup=False)

    try:
        scores = import_corrections(directory, given.file, say)
    except pa.ArrowException as error:
        raise unreadable(given.run_dir, error) from error
    if scores is not None:
        for picture in pictures(scores, screen.width):
            screen.print(picture)
        say(f"scores in {directory.scores}")
    return 0


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
