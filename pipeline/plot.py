"""`python -m pipeline.plot RUN_DIR ID`: pictures of one utterance's emission and features. Does not import torch."""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pyarrow as pa

from pipeline.results import Run, open_run
from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError
from pipeline.runtime.stdout import standard_output
from pipeline.runtime.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
SHOWN_S = 60.0
"""Of a longer utterance so much is shown, where nothing else is asked for."""
MAX_SHOWN_S = 600.0
"""No picture can show more frames than this has."""
_MAX_NAME = 100
_USAGE = (
    "python -m pipeline.plot RUN_DIR ID [--out FOLDER] [--layers N,N] [--start S] [--end S] [--format NAME]"
    "; an ID that begins with -: [option ...] -- RUN_DIR ID"
)
_PAGE = """\
usage: python -m pipeline.plot RUN_DIR ID [option ...]

Pictures of one utterance, as in torchaudio's tutorial "Speech Recognition with
Wav2Vec2": the features of every layer that is stored, one picture a layer, and
the emission with the names of its labels; time runs to the right, with the
words above. Prints the files that were written. RUN_DIR is the folder that the
run writes to, such as runs/digits/digits; ID stands in the column id of its
manifest.parquet; of one that begins with -, write [option ...] -- RUN_DIR ID.
Reads tables that are committed, also while the run goes on.

options
  --out FOLDER    where to; default: RUN_DIR/report/plots
  --layers N,N    these layers only, such as 1,6,12
  --start S       where to begin and to end, in seconds of the file, as words'
  --end S         times are; default: the utterance, its first 60 s if longer
  --format NAME   png (default), svg or pdf
  -h, --help      this page

exit codes
  0    the pictures are written
  2    there is no such run or utterance, or it has nothing to draw; one line
       says what to do"""


@dataclass(frozen=True)
class _Window:
    """The frames to show: `first` to `last` (exclusive), counted from the utterance's own first, and their seconds."""

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
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--out", metavar="FOLDER", type=Path)
    parser.add_argument("--layers", metavar="N,N")
    parser.add_argument("--start", metavar="S", type=float)
    parser.add_argument("--end", metavar="S", type=float)
    parser.add_argument("--format", metavar="NAME", default=FORMATS[0])
    given = parser.parse_args(arguments)
    given.id = "--" if given.id == [] else given.id  # which argparse of Python 3.11 takes for a second separator
    if given.format not in FORMATS:
        raise UserError(f"--format={given.format}: not a format; there are {', '.join(FORMATS)}")
    for name, value in (("start", given.start), ("end", given.end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise UserError(f"--{name}={value}: must be seconds, 0 or more")
    if given.layers is not None and not re.fullmatch(r"\d{1,4}(,\d{1,4})*", given.layers):
        raise UserError(f"--layers={given.layers}: must be numbers, such as 1,6,12")
    return given


def _plot(given: argparse.Namespace) -> None:
    """Write the pictures and print their names; say what is not there, and what is left out.

    Raises:
        UserError: There is nothing to draw, or not where it should go.
    """
    run = _opened(given.run_dir, given.id)
    layers = _layers(run, given.layers)
    has_emissions = _has(run, "emissions")
    if not layers and not has_emissions:
        raise UserError(f"{given.run_dir}: has neither emissions nor features; run with outputs=[emissions,features]")
    for table, there in (("emissions", has_emissions), ("features", bool(layers))):
        if not there:
            print(f"no {table} in this run; outputs=[{table}] writes them", file=sys.stderr)
    window = _window(run, given.start, given.end)
    folder = given.out or given.run_dir / "report" / "plots"
    out = standard_output()
    for name, figure in _figures(run, given.id, layers, has_emissions, window):
        path = folder / f"{file_name(given.id)}-{name}.{given.format}"
        _write(path, figure, given.format)
        print(printable(str(path)), file=out)


def _opened(run_dir: Path, id: str) -> Run:
    """A run of the one utterance, which has a result."""
    try:
        run = open_run(run_dir).select([id])
    except (FileNotFoundError, KeyError) as error:
        raise UserError(error.args[0]) from None
    if not run.commits:
        raise UserError(f"{id}: its shard is not committed yet; the run's command again goes on with it")
    for failure in run.failures.itertuples():
        reason = f"{failure.error}: {failure.message}"
        raise UserError(f"{id}: failed ({reason}), so there is nothing to draw; retry_failed=true tries again")
    return run


def _has(run: Run, table: str) -> bool:
    return any(table in record.files for record in run.commits.values())


def _layers(run: Run, asked: str | None) -> tuple[int, ...]:
    if asked is None:
        return run.layers
    layers = tuple(dict.fromkeys(map(int, asked.split(","))))
    for layer in layers:
        if layer not in run.layers:
            there = ", ".join(map(str, run.layers)) or "none"
            raise UserError(f"--layers={asked}: no features of layer {layer} are stored; there are {there}")
    return layers


def _window(run: Run, start_s: float | None, end_s: float | None) -> _Window:
    """The frames to show of seconds in the original file."""
    [row] = run.manifest.fillna({"start_s": 0.0}).itertuples()
    # A rate in the header that is not the true one moves the end; the last frame is that of the arrays anyway.
    ends_s = row.start_s + row.duration_s
    first_s = row.start_s if start_s is None else start_s
    last_s = min(ends_s, first_s + SHOWN_S) if end_s is None else min(ends_s, end_s)
    whole = f"{row.start_s:.2f} to {ends_s:.2f} s"
    if not row.start_s <= first_s < last_s:
        given = " ".join(
            f"--{name}={value:g}" for name, value in (("start", start_s), ("end", end_s)) if value is not None
        )
        raise UserError(f"{given}: nothing of the utterance lies there; it is {whole} of its file")
    if last_s - first_s > MAX_SHOWN_S:
        raise UserError(
            f"--end={end_s:g}: {last_s - first_s:.0f} s are too many for a picture; at most {MAX_SHOWN_S:g} s"
        )
    if (start_s, end_s) == (None, None) and last_s < ends_s:
        print(f"shows {first_s:.2f} to {last_s:.2f} s of {whole}; --start and --end choose others", file=sys.stderr)
    stride_s = run.seconds_per_frame
    first = round((first_s - row.start_s) / stride_s)
    return _Window(first, max(first + 1, math.ceil((last_s - row.start_s) / stride_s)), first_s, last_s)


def _figures(
    run: Run, id: str, layers: Sequence[int], has_emissions: bool, window: _Window
) -> Iterator[tuple[str, Figure]]:
    """Each picture, with a name for its file."""
    from pipeline.report.figures import Excerpt, emission_figure, feature_figure  # matplotlib takes a while to import

    begins_s, stride_s = float(run.manifest["start_s"].fillna(0.0)[0]), run.seconds_per_frame
    words = [
        (printable(word.word), round((word.start_s - begins_s) / stride_s), round((word.end_s - begins_s) / stride_s))
        for word in run.words.itertuples()
    ]
    shown = [word for word in words if window.first <= word[1] and word[2] <= window.last]
    seconds = f"{window.start_s:.2f} to {window.end_s:.2f} s, {1000 * stride_s:g} ms a frame"
    excerpt = Excerpt(printable(id), seconds, window.first, shown)
    for layer in layers:
        feature = run.feature(id, layer, window.first, window.last)
        _check_frames(len(feature), window)
        yield f"layer-{layer:02d}", feature_figure(feature, layer, excerpt)
    if has_emissions:
        emission = run.emission(id, window.first, window.last)
        _check_frames(len(emission), window)
        labels = [printable(label) for label in run.alphabet]
        yield "emission", emission_figure(emission, labels, run.emission_metadata["values"], excerpt)


def _check_frames(count: int, window: _Window) -> None:
    if count == 0:  # the last frame begins a little before the end
        raise UserError(f"--start={window.start_s:g}: no frame begins after it; give less")


def _write(path: Path, figure: Figure, format_: str) -> None:
    from pipeline.report.figures import encode

    data = encode(figure, format_)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --out") from None


def file_name(id: str) -> str:
    """A name for files about an utterance: never a path, never hidden, not too long, one of its own for every id.

    >>> file_name("calls/2024 a.wav")
    'calls%2F2024%20a.wav'
    """
    name = quote(id, safe="", errors="replace")
    if name[:1] in (".", "-", "~"):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _MAX_NAME:
        whole = re.sub("%.?$", "", name[:_MAX_NAME])
        name = f"{whole}-{hashlib.sha256(id.encode(errors='replace')).hexdigest()[:16]}"
    return name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
