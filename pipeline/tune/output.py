"""Shows what was tried: a table and a curve in the terminal, a CSV file and a picture."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted
from pipeline.storage.local_files import replacing
from pipeline.tune.parts import Part

TABLE, PICTURE = "tuning.csv", "tuning.svg"
_SHOWN = 8
"""Settings in the terminal's table."""
_BAR = 24
"""Characters of the longest bar of the curve."""


@dataclass(frozen=True)
class Tried:
    """The settings that were tried.

    Attributes:
        points: Options of the decoder.
        wer: Word error rate of each.
    """

    points: Sequence[Mapping[str, Any]]
    wer: Sequence[float]

    @property
    def varied(self) -> list[str]:
        """The keys with several values; all keys if there is one setting only."""
        return [key for key in self.points[0] if len({str(point[key]) for point in self.points}) > 1]

    def curve(self, key: str) -> list[tuple[Any, float]]:
        """Return each value of a key with the lowest rate that it has, whatever the other keys are."""
        best: dict[Any, float] = {}
        for point, wer in zip(self.points, self.wer, strict=True):
            best[point[key]] = min(wer, best.get(point[key], wer))
        return sorted(
            best.items(), key=lambda item: (0, item[0]) if isinstance(item[0], int | float) else (1, str(item[0]))
        )


def pictures(tried: Tried, part: Part) -> Iterator[Text | Table]:
    """Yield what the terminal shows: the best settings, and a curve for each key with several values."""
    yield Text(
        f"{counted(len(tried.points), 'setting')} on {counted(len(part.references), 'utterance')}, "
        f"{format_hours(part.audio_s)} of audio"
    )
    order = sorted(range(len(tried.points)), key=tried.wer.__getitem__)
    table = Table("WER %", *(key.removeprefix("decoder.") for key in tried.varied), box=None, pad_edge=False)
    for place in order[:_SHOWN]:
        table.add_row(f"{100 * tried.wer[place]:.2f}", *(str(tried.points[place][key]) for key in tried.varied))
    yield table
    highest = max(max(tried.wer), 1e-9)
    for key in tried.varied:
        yield Text(f"lowest WER by {key}")
        if len({wer for _, wer in tried.curve(key)}) == 1:
            yield Text(f"    {key} makes no difference here")
            continue
        for value, wer in tried.curve(key):
            yield Text(f"{value!s:>10}  {100 * wer:6.2f} %  {'█' * max(1, round(_BAR * wer / highest))}")


def conclusion(greedy: float, tuned: float, interval: tuple[float, float] | None, part: Part) -> Iterator[str]:
    """Yield what the best setting is worth on the part that it was not chosen on.

    Args:
        greedy: Word error rate of the greedy decoder.
        tuned: That of the best setting.
        interval: The 95 % interval of the difference; `None` if there is none.
        part: The part.
    """
    change, within = 100 * (tuned - greedy), ""
    if interval is not None:
        within = f", 95 % interval {100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
    yield (
        f"on {counted(len(part.references), 'other utterance')}: greedy {100 * greedy:.2f} %, best setting "
        f"{100 * tuned:.2f} % ({change:+.2f} points{within})"
    )
    if interval is None or interval[1] >= 0:
        yield (
            "warning: the best setting does not help, as far as this part can tell; decode with decoder=greedy, or try "
            "other values or another language model"
        )


def command_of(decoder: str, point: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Return what to add to the command of the run to decode it with a setting.

    Args:
        decoder: The choice of the group `decoder`.
        point: Its options.
        usual: Its options if nothing is given.
    """
    given = [f"{key}={value}" for key, value in point.items() if value != usual[key]]
    return f"to decode the run, add: stages=[decode,score,report] {shlex.join([f'decoder={decoder}', *given])}"


def write(tried: Tried, folder: Path) -> None:
    """Write the table and the picture.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = io.StringIO()
    writer = csv.DictWriter(rows, ["wer", *tried.points[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"wer": wer, **point} for point, wer in zip(tried.points, tried.wer, strict=True))
    with replacing(folder / TABLE) as path:
        path.write_text(rows.getvalue(), encoding="utf-8")
    with replacing(folder / PICTURE) as path:
        path.write_bytes(_picture(tried))


def _picture(tried: Tried) -> bytes:
    """Draw the curves: the lowest rate by each key with several values."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    keys = tried.varied or [next(iter(tried.points[0]), "decoder")]
    figure = Figure(figsize=(3.6 * len(keys), 2.8), layout="constrained")
    for key, axes in zip(keys, figure.subplots(1, len(keys), squeeze=False, sharey=True)[0], strict=True):
        curve = tried.curve(key) if key in tried.points[0] else []
        axes.plot([str(value) for value, _ in curve], [100 * wer for _, wer in curve], marker="o")
        axes.set_xlabel(key)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("lowest WER, %")
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
