"""`python -m pipeline.plot RUN_DIR ID` draws the emission and features of an utterance. Does not import torch."""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.results import Run, open_run
from pipeline.results.arrays import log_probabilities
from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Place, local_path, place
from pipeline.runtime.stdout import standard_output
from pipeline.runtime.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
VALUES = ("logits", "log-probabilities")
SHOWN_S = 60.0
"""Seconds shown of a longer utterance without --start and --end."""
MAX_SHOWN_S = 600.0
"""Maximum of seconds in a picture."""
_MAX_NAME = 100
_USAGE = (
    "python -m pipeline.plot RUN_DIR ID [--out FOLDER] [--layers N,N] [--start S] [--end S] [--values NAME] "
    "[--format NAME]; an ID that begins with -: [option ...] -- RUN_DIR ID"
)
_PAGE = """\
usage: python -m pipeline.plot RUN_DIR ID [option ...]

Draws one utterance as torchaudio's tutorial "Speech Recognition with Wav2Vec2"
does: one picture of the features of each stored layer, and one of the emission
with the names of its labels. Time runs to the right, in seconds of the
recording; the words stand above.
Prints the names of the files. RUN_DIR is the folder that the run writes to,
such as runs/digits/digits. ID is an id in its manifest.parquet; if the id
begins with -, write [option ...] -- RUN_DIR ID. The run may be going on;
only committed tables are read.

options
  --out FOLDER    folder for the pictures (default: RUN_DIR/report/plots; for a run in
                  an object store NAME-plots in the current folder)
  --layers N,N    only these layers, such as 1,6,12
  --start S       first second to draw, counted as the times of words are: from
                  the start of the file (default: start of the utterance)
  --end S         last second to draw (default: end of the utterance, at most
                  60 s after the start)
  --values NAME   values of the emission: logits or log-probabilities (default:
                  as they are stored, which are logits of most models)
  --format NAME   png (default), svg or pdf
  -h, --help      this page

exit codes
  0    the pictures are written
  2    there is no such run or utterance, or it has nothing to draw; the error
       message says what to do"""


@dataclass(frozen=True)
class _Window:
    """The part of an utterance to draw.

    Attributes:
        first, last: First frame and the frame after the last one, counted from the start of the utterance.
        start_s, end_s: The same in seconds of the file.
    """

    first: int
    last: int
    start_s: float
    end_s: float


def main(arguments: Sequence[str]) -> int:
    """Draw the pictures of an utterance and return the exit code."""
    return command(arguments, _PAGE, _draw, "not every picture is written")


def _draw(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    try:
        _plot(given)
    except (OSError, pa.ArrowException) as error:
        remedy = "python -m pipeline.verify says what is damaged"
        raise UserError(f"{given.run_dir}: cannot be read ({' '.join(str(error).split())}); {remedy}") from None
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--out", metavar="FOLDER", type=local_path)
    parser.add_argument("--layers", metavar="N,N")
    parser.add_argument("--start", metavar="S", type=float)
    parser.add_argument("--end", metavar="S", type=float)
    parser.add_argument("--values", metavar="NAME")
    parser.add_argument("--format", metavar="NAME", default=FORMATS[0])
    given = parser.parse_args(arguments)
    given.id = "--" if given.id == [] else given.id  # argparse of Python 3.11 drops an id `--`
    if given.format not in FORMATS:
        raise UserError(f"--format={given.format}: not a format; there are {', '.join(FORMATS)}")
    if given.values is not None and given.values not in VALUES:
        raise UserError(f"--values={given.values}: no values of an emission; there are {', '.join(VALUES)}")
    for name, value in (("start", given.start), ("end", given.end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise UserError(f"--{name}={value}: must be seconds, 0 or more")
    if given.layers is not None and not re.fullmatch(r"\d{1,4}(,\d{1,4})*", given.layers):
        raise UserError(f"--layers={given.layers}: must be numbers, such as 1,6,12")
    return given


def _plot(given: argparse.Namespace) -> None:
    """Write the pictures and print their names. Name missing tables on stderr.

    Raises:
        UserError: There is nothing to draw, or a file cannot be written.
    """
    run = _opened(given.run_dir, given.id)
    layers = _layers(run, given.id, given.layers)
    has_emissions = _has(lambda: run.emission(given.id, 0, 1))
    if not layers and not has_emissions:
        for failure in run.failures.itertuples():
            reason = f"{failure.error}: {failure.message}"
            raise UserError(
                f"{given.id}: failed ({reason}), so there is nothing to draw; retry_failed=true tries again"
            )
        raise UserError(f"{given.run_dir}: has neither emissions nor features; run with outputs=[emissions,features]")
    values = _values(run, given.values) if has_emissions else None
    for table, there in (("emissions", has_emissions), ("features", bool(layers))):
        if not there:
            print(f"no {table} of this utterance; outputs=[{table}] writes them", file=sys.stderr)
    window = _window(run, given.start, given.end)
    folder = given.out or _usual_folder(given.run_dir)
    out = standard_output()
    for name, figure in _figures(run, given.id, layers, values, window):
        path = folder / f"{file_name(given.id)}-{name}.{given.format}"
        _write(path, figure, given.format)
        print(printable(str(path)), file=out)


def _usual_folder(run_dir: Place) -> Path:
    """Return the folder for the pictures of a run: in the run, or in the current folder if that is in a store."""
    return run_dir / "report" / "plots" if isinstance(run_dir, Path) else Path(f"{run_dir.name}-plots")


def _opened(run_dir: Place, id: str) -> Run:
    """Open the run, restricted to one utterance, and check that its shard is committed."""
    try:
        run = open_run(run_dir).select([id])
    except (FileNotFoundError, KeyError) as error:
        raise UserError(error.args[0]) from None
    if not run.commits:
        raise UserError(f"{id}: its shard is not committed yet; run the same command again to continue")
    return run


def _has(read: Callable[[], object]) -> bool:
    """Whether the utterance has an array: it may have failed, or an output may have been added to other shards only."""
    try:
        read()
    except KeyError:
        return False
    return True


def _layers(run: Run, id: str, asked: str | None) -> tuple[int, ...]:
    if asked is None:
        return tuple(layer for layer in run.layers if _has(partial(run.feature, id, layer, 0, 1)))
    layers = tuple(dict.fromkeys(map(int, asked.split(","))))
    found = _layers(run, id, None)
    for layer in layers:
        if layer not in found:
            there = ", ".join(map(str, found)) or "none"
            raise UserError(f"--layers={asked}: no features of layer {layer} are stored of {id}; there are {there}")
    return layers


def _window(run: Run, start_s: float | None, end_s: float | None) -> _Window:
    """Return the part of the utterance between two times in seconds of the file."""
    [row] = run.manifest.fillna({"start_s": 0.0}).itertuples()
    # The header may give a wrong duration. Frames after the last one of the arrays are not read.
    ends_s = row.start_s + row.duration_s
    first_s = row.start_s if start_s is None else start_s
    last_s = min(ends_s, first_s + SHOWN_S) if end_s is None else min(ends_s, end_s)
    whole = f"{row.start_s:.2f} to {ends_s:.2f} s"
    if not row.start_s <= first_s < last_s:
        given = " ".join(
            f"--{name}={value:g}" for name, value in (("start", start_s), ("end", end_s)) if value is not None
        )
        raise UserError(f"{given}: the utterance has nothing there; give times within {whole} of its file")
    if last_s - first_s > MAX_SHOWN_S:
        raise UserError(
            f"--end={end_s:g}: {last_s - first_s:.0f} s are too long for a picture; "
            f"give at most {MAX_SHOWN_S:g} s after --start"
        )
    if (start_s, end_s) == (None, None) and last_s < ends_s:
        print(
            f"draws {first_s:.2f} to {last_s:.2f} s of {whole}; choose another part with --start and --end",
            file=sys.stderr,
        )
    stride_s = run.seconds_per_frame
    first = round((first_s - row.start_s) / stride_s)
    return _Window(first, max(first + 1, math.ceil((last_s - row.start_s) / stride_s)), first_s, last_s)


def _values(run: Run, asked: str | None) -> str:
    """Return which values of the emission to draw: those that are stored, unless others are asked for."""
    stored: str = run.emission_metadata["values"]
    if asked == "logits" != stored:
        raise UserError(f"--values=logits: the run stores {stored}, which cannot be turned into logits; leave it out")
    return asked or stored


def _figures(
    run: Run, id: str, layers: Sequence[int], values: str | None, window: _Window
) -> Iterator[tuple[str, Figure]]:
    """Yield each picture, with its name. `values` are those of the emission; `None` if there is no emission."""
    from pipeline.report.excerpts import read_excerpt  # importing matplotlib is slow
    from pipeline.report.figures import emission_figure, feature_figure

    frames, seconds = (window.first, window.last), (window.start_s, window.end_s)
    excerpt = read_excerpt(run, frames, seconds, has_emission=values is not None)
    for layer in layers:
        feature = run.feature(id, layer, window.first, window.last)
        _check_frames(len(feature), window)
        yield f"layer-{layer:02d}", feature_figure(feature, layer, excerpt)
    if values is not None:
        emission = run.emission(id, window.first, window.last)
        _check_frames(len(emission), window)
        if values != run.emission_metadata["values"]:
            emission = log_probabilities(emission.astype(np.float32))
        yield "emission", emission_figure(emission, values, excerpt)


def _check_frames(count: int, window: _Window) -> None:
    if count == 0:  # the last frame starts a little before the end
        raise UserError(f"--start={window.start_s:g}: no frame starts after this time; give an earlier one")


def _write(path: Path, figure: Figure, format_: str) -> None:
    from pipeline.report.figures import encode

    data = encode(figure, format_)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --out") from None


def file_name(id: str) -> str:
    """Return a file name for an id that can be typed. It is no path, is not hidden, and is not too long.

    Other characters than letters, digits, `.`, `-` and `_` are left out. A name that lacks some ends with a piece of
    the id's SHA-256, so that it differs from the names of other ids.

    >>> file_name("calls/2024 a.wav")
    'calls_2024_a.wav-f9a5e3'
    """
    plain = re.sub(r"[^\w.-]+", "_", id).lstrip(".-_").encode()[:_MAX_NAME].decode(errors="ignore")
    if plain and plain == id:
        return plain
    return f"{plain or 'id'}-{hashlib.sha256(id.encode(errors='surrogatepass')).hexdigest()[:6]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
