"""`python -m pipeline.export RUN_DIR --format FORMAT` writes transcripts for other tools. Does not import torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError, one_of
from pipeline.runtime.places import local_path, place
from pipeline.runtime.redaction import mask_tracebacks
from pipeline.runtime.stdout import standard_output
from pipeline.runtime.terminal import printable

_USAGE = "python -m pipeline.export RUN_DIR --format FORMAT [--out PATH] [--text transcript|reference] [--rttm FILE]"
_PAGE = """\
usage: python -m pipeline.export RUN_DIR --format FORMAT [option ...]

Writes the transcripts of a run in a format of other tools. Times are those of
the original file. RUN_DIR is the folder that the run writes to, such as
runs/digits/digits. The run may be going on; what is committed is written.
For RUN_DIR/transcripts-NAME, the transcripts are those of the decoding NAME.
Nothing in RUN_DIR is changed.

formats
{formats}

options
  --out PATH        the file or the folder (default: beside RUN_DIR, with its
                    name and the format). A folder of an earlier export is
                    replaced
  --text reference  write the references instead of the transcripts;
                    utterances without one are left out
  --rttm FILE       who spoke when: each word gets its speaker. Without it,
                    the speaker is the dataset's, or the channel of a
                    recording whose channels are transcribed one by one
  --audio-url URL   of labelstudio: what stands before the path of a recording
                    below the folder of the recordings (default:
                    /data/local-files/?d=)
  -h, --help        this page

exit codes
  0    the export is written
  1    a file could not be read or written
  2    there is no run in that folder, or the options cannot be used"""


def main(arguments: Sequence[str]) -> int:
    """Export a run and return the exit code."""
    return command(arguments, _page, _perform, "nothing exported")


def _page() -> str:
    from pipeline.export.formats import load, names

    return _PAGE.format(formats="\n".join(f"  {name:<13} {load(name).DESCRIPTION}" for name in names()))


def _perform(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    from pipeline.export.exporting import export

    said = export(
        given.run_dir,
        given.format,
        out=given.out,
        references=given.text == "reference",
        rttm=given.rttm,
        audio_prefix=given.audio_url,
    )
    print(printable(said), file=standard_output())
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    from pipeline.export.formats import load

    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    parser.add_argument("--format", metavar="FORMAT", required=True)
    parser.add_argument("--out", metavar="PATH", type=local_path)
    parser.add_argument("--text", default="transcript")
    parser.add_argument("--rttm", metavar="FILE", type=local_path)
    parser.add_argument("--audio-url", metavar="URL", default="/data/local-files/?d=")
    given = parser.parse_args(arguments)
    one_of("--text", given.text, ("transcript", "reference"))
    if load(given.format).NEEDS_WORDS and given.text == "reference":
        raise UserError(
            f"--text=reference: references have no times of words, which {given.format} needs; "
            "leave --text out, or give another format"
        )
    return given


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
