"""`python -m pipeline.duplicates RUN_DIR` lists recordings with identical audio. Does not import torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import unreadable
from pipeline.runtime.places import local_path, place
from pipeline.runtime.redaction import mask_tracebacks
from pipeline.runtime.stdout import console
from pipeline.runtime.terminal import counted, printable
from pipeline.storage.run_directory import RunDirectory

_USAGE = "python -m pipeline.duplicates RUN_DIR [--by COLUMNS] [-o FILE]"
_PAGE = """\
usage: python -m pipeline.duplicates RUN_DIR [option ...]

Lists utterances whose decoded audio is identical: files that are in the
corpus twice, also in another format or under another name. Prints how many
there are, the sounds that occur most often, sounds with different references,
and leakage: sounds that have several values of a column, such as train and
test, or two speakers. RUN_DIR is the folder that the run writes to, such as
runs/digits/digits. The run needs transcripts; it may be going on, and only
committed utterances are compared. Nothing in the folder is changed.

options
  --by COLUMNS      columns to search for leakage, such as split,speaker or
                    room+mic (default: columns with the split or the speaker,
                    and those of the scores)
  -o, --out FILE    also write a list of these utterances, as .csv or .parquet
  -h, --help        this page

exit codes
  0    the duplicates are listed, or there are none
  1    a file could not be read or written
  2    there is no run in that folder, its transcripts have no digests of the
       audio, or the options cannot be used"""


def main(arguments: Sequence[str]) -> int:
    """List the duplicates of a run and return the exit code."""
    return command(arguments, _PAGE, _list, "no duplicates listed")


def _list(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    # These imports are slow, and the help page does not need them.
    import pyarrow as pa

    from pipeline.duplicates.analysis import analyse, require_digests
    from pipeline.duplicates.listing import check_list, write_list
    from pipeline.duplicates.terminal import pictures

    directory = RunDirectory(given.run_dir)
    directory.require_run()
    require_digests(directory, directory.read_record())
    if given.out is not None:
        check_list(given.out, directory)
    try:
        analysis = analyse(directory, directory.commits(), given.by)
    except pa.ArrowException as error:
        raise unreadable(directory.root, error) from error
    screen = console()
    for picture in pictures(analysis, screen.width):
        screen.print(picture)
    if pending := len(analysis.manifest) - analysis.heard:
        screen.print(f"{counted(pending, 'utterance')} without a transcript could not be compared", markup=False)
    if given.out is not None:
        write_list(given.out, directory, analysis)
        screen.print(printable(f"list in {given.out}"), markup=False)
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    parser.add_argument("--by", metavar="COLUMNS", type=lambda given: given.split(","))
    parser.add_argument("-o", "--out", metavar="FILE", type=local_path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
