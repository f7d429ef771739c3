"""`python -m pipeline.report RUN_DIR` writes the HTML report of a run. Does not import torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.config.schema import MAX_SHOWN, ReportSettings
from pipeline.report import write_report
from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import place
from pipeline.runtime.redaction import mask_tracebacks
from pipeline.runtime.stdout import standard_output
from pipeline.runtime.terminal import printable
from pipeline.storage.run_directory import RunDirectory

_USAGE = "python -m pipeline.report RUN_DIR [--utterances N] [--layers 1,6,12] [--metadata FILE] [--on id|path]"
_PAGE = """\
usage: python -m pipeline.report RUN_DIR [option ...]

Writes RUN_DIR/report/index.html, one file that needs no network. The page
shows how the run went, its scores, and its worst, typical and best utterances
with sound and pictures. RUN_DIR is the folder that the run writes to, such as
runs/digits/digits. The run may be going on; the page shows what is committed.
For RUN_DIR/transcripts-NAME, the page is that of the decoding NAME.

options
  --utterances N    number of worst, of typical and of best utterances, 1 to
                    20 (default 4)
  --layers 1,6,12   layers whose features are shown (default: the first, the
                    middle and the last of those stored)
  --metadata FILE   a CSV, TSV, JSON lines or Parquet file with a row for each
                    utterance, whose columns the page shows and scores by
  --on id|path      what a row of that file names its utterance by: its id
                    (default), or the path of its recording
  -h, --help        this page

exit codes
  0    the report is written
  1    the report could not be written
  2    there is no run in that folder, or the options cannot be used"""


def main(arguments: Sequence[str]) -> int:
    """Write the report of a run directory and return the exit code."""
    return command(arguments, _PAGE, _write, "no report written")


def _write(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    directory, joined = RunDirectory.at(given.run_dir), None
    settings = ReportSettings(utterances=given.utterances, layers=given.layers)
    if given.metadata is not None:
        from pipeline.results.joining import join  # imports pandas

        directory.require_run()
        joined = join(directory, given.metadata, given.on)
        print(printable(joined.said), file=sys.stderr)
    path = write_report(directory, settings, joined)
    print(printable(f"report in {path}"), file=standard_output())
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    parser.add_argument("--utterances", metavar="N", type=int, default=ReportSettings().utterances)
    parser.add_argument("--layers", metavar="LIST")
    parser.add_argument("--metadata", metavar="FILE")
    parser.add_argument("--on", choices=("id", "path"))
    given = parser.parse_args(arguments)
    if not 1 <= given.utterances <= MAX_SHOWN:
        raise UserError(f"--utterances={given.utterances}: must be 1 to {MAX_SHOWN}, the number of each kind")
    if given.on is not None and given.metadata is None:
        raise UserError(f"--on={given.on}: says how the rows of --metadata name utterances; give --metadata FILE too")
    given.on = given.on or "id"
    if given.layers is not None:
        try:
            given.layers = [int(number) for number in given.layers.split(",")]
        except ValueError:
            raise UserError(f"--layers={given.layers}: must be numbers of layers with commas, such as 1,6,12") from None
    return given


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
