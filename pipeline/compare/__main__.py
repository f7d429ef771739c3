"""`python -m pipeline.compare RUN_A RUN_B` compares two runs of one corpus. Does not import torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pyarrow as pa

from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import unreadable
from pipeline.runtime.places import local_path, place
from pipeline.runtime.redaction import mask_tracebacks
from pipeline.runtime.stdout import console, standard_output
from pipeline.runtime.terminal import printable
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.summary import quoted

_USAGE = (
    "python -m pipeline.compare RUN_A RUN_B [--by COLUMNS] [--html] [--out FOLDER]"
    "; or python -m pipeline.compare --night RUN --since DATE [--by COLUMNS] [--fail-if CONDITION]"
)
FAILED_IF = 4
"""Exit code if a condition of `--fail-if` holds."""
_PAGE = """\
usage: python -m pipeline.compare RUN_A RUN_B [option ...]
       python -m pipeline.compare --night RUN --since DATE [option ...]

Compares two runs of one corpus, for example with two models. With references,
prints both word error rates, their difference with a 95 % interval, who is
better in which group, and the words that only one run has right. Without
references, prints how far the texts of B differ from those of A. Utterances
are matched by id. RUN_DIR/transcripts-NAME is a run with the transcripts of
its decoding NAME. The runs may be going on; only committed tables are read,
and nothing in a run directory is changed.

With --night, compares the shards of RUN that were committed since DATE with
those that were there before: kinds of failures that are new, word error rate
and log-probability by group, and speed.

options
  --by COLUMNS    columns of RUN_A to group by, such as room,speaker or
                  room+mic (default: the groups of RUN_A's scores)
  --html          also write comparison.html, one file with audio
  --out FOLDER    folder for the tables and the page (default: RUN_A-vs-RUN_B
                  beside RUN_A)
  --since DATE    a date or a time in ISO 8601, such as 2026-11-26 or
                  2026-11-26T20:00; local time unless it has an offset. Or a
                  generation of a corpus that grows: 2, 3, ... or last
  --fail-if 'wer>+1.0'
                  end with exit code 4 if the word error rate has risen by
                  more than 1.0 points. Instead of wer: cer (points), failures
                  (points of the share that failed), avg_logprob (nats a
                  frame) or speed (per cent). Instead of >: <. The number has
                  a sign. May be given several times
  -h, --help      this page

exit codes
  0    the runs are compared
  1    a file could not be read or written
  2    there is no run in a folder, the runs have no utterance in common, or
       the options cannot be used
  4    a condition of --fail-if holds"""


def main(arguments: Sequence[str]) -> int:
    """Compare two runs and return the exit code."""
    return command(arguments, _PAGE, _perform, "not everything is compared")


def _perform(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    try:
        return _compare(given) if given.night is None else _night(given)
    except pa.ArrowException as error:
        raise unreadable(" and ".join(map(str, given.runs or [given.night])), error) from error


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("runs", metavar="RUN_DIR", type=place, nargs="*")
    parser.add_argument("--by", metavar="COLUMNS", type=lambda given: given.split(","))
    parser.add_argument("--html", action="store_true")
    parser.add_argument("--out", metavar="FOLDER", type=local_path)
    parser.add_argument("--night", metavar="RUN", type=place)
    parser.add_argument("--since", metavar="DATE")
    parser.add_argument("--fail-if", metavar="CONDITION", action="append", default=[])
    given = parser.parse_args(arguments)
    if given.night is None:
        if len(given.runs) != 2:
            parser.error(f"two run directories are needed, not {len(given.runs)}")
        if given.since is not None or given.fail_if:
            parser.error("--since and --fail-if need --night")
    elif given.runs or given.html or given.out is not None or given.since is None:
        parser.error(
            "--night takes one run and needs --since; it writes no files, so it takes neither --html nor --out"
        )
    return given


def _compare(given: argparse.Namespace) -> int:
    # These imports are slow, and the help page does not need them.
    from pipeline.compare import output
    from pipeline.compare.matching import Match, TranscribedRun
    from pipeline.compare.terminal import pictures

    run_a, run_b = given.runs
    directory_a, directory_b = RunDirectory.at(run_a), RunDirectory.at(run_b)
    folder = given.out or output.default_folder(directory_a, directory_b)
    for directory in (directory_a, directory_b):
        directory.require_outside("--out", folder, "folder")
    match = Match(TranscribedRun.of(directory_a), TranscribedRun.of(directory_b))
    comparison, logprobs = output.write_tables(match, given.by, folder)
    if given.html:
        from pipeline.compare.page import build_page
        from pipeline.storage.local_files import replacing

        with replacing(folder / output.PAGE) as path:
            path.write_text(build_page(comparison, logprobs), encoding="utf-8")
    screen = console()
    for picture in pictures(comparison, logprobs, screen.width):
        screen.print(picture)
    screen.print(printable(f"tables in {folder}"), markup=False)
    if given.html:
        screen.print(printable(f"page in {folder / output.PAGE}"), markup=False)
    screen.print(f"pandas.read_parquet({quoted(folder / output.TABLE)})", markup=False)
    return 0


def _night(given: argparse.Namespace) -> int:
    from pipeline.compare.conditions import Condition
    from pipeline.compare.night import read_night, since_of
    from pipeline.compare.night_terminal import pictures

    conditions = [Condition.parse(text) for text in given.fail_if]
    directory = RunDirectory(given.night)
    night = read_night(directory, since_of(directory, given.since), given.by)
    screen = console()
    for picture in pictures(night, screen.width):
        screen.print(picture)
    judged = [condition.judge(night.changes()) for condition in conditions]
    for holds, said in judged:
        print(f"--fail-if {said}", file=sys.stderr if holds else standard_output())
    return FAILED_IF if any(holds for holds, _ in judged) else 0


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
