"""`python -m pipeline.tune RUN_DIR` finds the weights of a decoder from stored emissions. Does not import torch."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

from pipeline.runtime.command import Parser, command
from pipeline.runtime.cores import available_cores
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import local_path, place
from pipeline.runtime.redaction import mask_tracebacks
from pipeline.runtime.stdout import console
from pipeline.runtime.terminal import counted, printable
from pipeline.storage.run_directory import RunDirectory

_USAGE = (
    "python -m pipeline.tune RUN_DIR [decoder.KEY=A,B,C ...] [--decoder NAME] [--random N] [--hours H] [--seed N] "
    "[--out FOLDER]"
)
_PAGE = """\
usage: python -m pipeline.tune RUN_DIR [decoder.KEY=A,B,C ...] [option ...]

Finds the weights of a decoder with which a run has the fewest word errors,
from its stored emissions and references. Two parts of the utterances are drawn
at random. Each setting decodes the first part, and the best setting there is
measured on the second part, beside decoder=greedy. Prints the rates, writes
them with a picture, and says with which command to decode the whole run.

  python -m pipeline.tune runs/voices/hubert_asr_large decoder.lm=lm.arpa \\
      decoder.lm_weight=0.5,1,2 decoder.word_score=-1,0,1

options
  decoder.KEY=A,B,C  values to try of a key of the decoder; one value is the
                     same in every setting (default: the values that the decoder
                     itself names). Files: 'decoder.lm=choice(A.arpa,B.arpa)'
  --decoder NAME     the decoder (default: beam)
  --random N         try N of the combinations, drawn at random (default: all)
  --hours H          the most hours of audio in each part (default: 1)
  --seed N           seed of what is drawn (default: 0)
  --out FOLDER       folder for tuning.csv and tuning.svg (default:
                     RUN_DIR-tuning beside RUN_DIR)
  -h, --help         this page

exit codes
  0    the weights are found
  1    a file could not be read or written
  2    the run cannot be tuned, or the options cannot be used"""


def main(arguments: Sequence[str]) -> int:
    """Find the weights and return the exit code."""
    return command(arguments, _PAGE, _tune, "nothing tuned")


def _tune(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    # These imports are slow, and the help page does not need them.
    from pipeline.config.run_config import load_decoders
    from pipeline.decoding import greedy as plain
    from pipeline.stages.postprocessing.emissions import describe_emissions
    from pipeline.tune import output
    from pipeline.tune.parts import draw_parts
    from pipeline.tune.search import difference, measure, search

    directory = RunDirectory(given.run_dir)
    directory.require_run()
    folder = given.out or directory.beside / f"{directory.name}-tuning"
    directory.require_outside("--out", folder, "folder")
    points = load_decoders(given.decoder, _with_usual_values(given.decoder, given.overrides))
    if len(points) < 2:
        raise UserError(f"--decoder={given.decoder}: one setting, so there is nothing to choose; write decoder.KEY=A,B")
    if given.random is not None and given.random < len(points):
        points = random.Random(given.seed).sample(points, given.random)
    records = directory.commits()
    stored = describe_emissions(directory, records)
    screen = console()
    with screen.status("reading emissions") as status:
        chosen, measured = draw_parts(directory, records, given.hours, given.seed)
        found = search(
            given.decoder,
            points,
            stored,
            chosen,
            available_cores(),
            lambda done: status.update(f"{done} of {counted(len(points), 'setting')}"),
        )
        best = min(range(len(points)), key=lambda point: found[point].wer)
        greedy, tuned = (
            measure("greedy", plain.Options(), stored, measured),
            measure(given.decoder, points[best], stored, measured),
        )
    usual, *settings = [
        {f"decoder.{key}": value for key, value in asdict(point).items()} for point in (type(points[0])(), *points)
    ]
    tried = output.Tried(settings, [each.wer for each in found])
    output.write(tried, folder)
    for picture in output.pictures(tried, chosen):
        screen.print(picture)
    for line in output.conclusion(greedy.wer, tuned.wer, *difference(greedy, tuned, measured)[1:], measured):
        screen.print(line, markup=False)
    screen.print(printable(f"{folder / output.TABLE} and {output.PICTURE} have all settings"), markup=False)
    screen.print(printable(output.command_of(given.decoder, settings[best], usual)), markup=False)
    return 0


def _with_usual_values(decoder: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides; if none has several values, with the values that the decoder names in `TUNED`.

    A key that the decoder does not take with the other options is left out.
    """
    from pipeline.config.run_config import load_decoders
    from pipeline.decoding import DECODERS

    if len(load_decoders(decoder, overrides)) > 1:
        return [*overrides]
    found, named = [*overrides], {text.partition("=")[0] for text in overrides}
    for key, values in getattr(DECODERS.load(decoder), "TUNED", {}).items():
        if f"decoder.{key}" not in named:
            with suppress(UserError):
                load_decoders(decoder, [*overrides, f"decoder.{key}={values[0]}"])
                found.append(f"decoder.{key}={','.join(map(str, values))}")
    return found


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    parser.add_argument("overrides", metavar="KEY=A,B,C", nargs="*")
    parser.add_argument("--decoder", metavar="NAME", default="beam")
    parser.add_argument("--random", metavar="N", type=int)
    parser.add_argument("--hours", metavar="H", type=float, default=1.0)
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--out", metavar="FOLDER", type=local_path)
    given = parser.parse_intermixed_args(arguments)
    if given.random is not None and given.random < 1:
        raise UserError(f"--random={given.random}: must be 1 or more, the number of settings to try")
    if not 0 < given.hours <= 1e6:
        raise UserError(f"--hours={given.hours}: must be above 0, the most hours of audio in each part")
    if given.seed < 0:
        raise UserError(f"--seed={given.seed}: must be 0 or a larger whole number")
    for text in given.overrides:
        if not text.startswith("decoder."):
            raise UserError(f"{text}: is no key of the decoder; write decoder.KEY=A,B,C; usage: {_USAGE}")
    return given


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
