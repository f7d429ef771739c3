"""Prints scores in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import printable
from pipeline.scoring.grouping import Scores, Worst
from pipeline.scoring.normalisers import DESCRIPTIONS

MAX_VALUES = 12
"""Number of values shown of a group: those with the highest rates."""
MAX_CONFUSIONS, _FEW_CONFUSIONS = 8, 2
MAX_WORST = 3
_OTHER_LINES = 16
"""Lines on a screen besides groups and worst utterances: the heading, the overall row, and the last lines of a run."""
_ALL_COLUMNS = 96
"""Width in characters from which substitutions, deletions and insertions are shown."""
_NAME_WIDTH, _LEAST_NAME, _TEXT_WIDTH = 40, 12, 200
Row = TypeVar("Row")


def pictures(scores: Scores, width: int, height: int | None = None) -> Iterator[Table | Text]:
    """Yield the table of rates, the most frequent errors and the worst utterances; nothing if nothing is scored.

    Args:
        scores: The scores of a run.
        width: Width of the terminal in characters.
        height: Height of the terminal in lines, which these and the last lines of a run are to fit into; `None` shows
            all.
    """
    rows = scores.table.to_pylist()
    if not rows:
        return
    names = list(dict.fromkeys(row["group"] for row in rows[1:]))
    fitting = None if height is None else _fit(height, len(names))
    if fitting is not None:
        rows = [row for row in rows if row["group"] not in names[fitting.groups :]]
    metadata = {key.decode(): value.decode() for key, value in scores.table.schema.metadata.items()}
    yield _rates(rows, width, MAX_VALUES if fitting is None else fitting.values)
    if fitting is not None and (hidden := names[fitting.groups :]):
        yield Text(f"not shown: {printable(', '.join(hidden), _NAME_WIDTH)}")
    yield Text(how_compared(metadata), "dim")
    confusions = scores.confusions.slice(0, MAX_CONFUSIONS if fitting is None else _FEW_CONFUSIONS).to_pylist()
    if confusions:
        yield Text("most frequent errors: " + ", ".join(_confusion(row) for row in confusions))
    for worst in scores.worst[: MAX_WORST if fitting is None else fitting.worst]:
        yield _worst(worst)


class _Fitting(NamedTuple):
    """How many groups, values of each group and worst utterances fit on a screen."""

    groups: int
    values: int
    worst: int


def _fit(height: int, groups: int) -> _Fitting:
    """Return what fits. A group takes two lines more than its values, a worst utterance three lines."""
    left = height - _OTHER_LINES
    shown = max(1, min(groups, left // 3))
    values = max(1, min(MAX_VALUES, left // shown - 2))
    return _Fitting(shown, values, max(0, min(MAX_WORST, (left - shown * (values + 2)) // 3)))


def how_compared(metadata: Mapping[str, str]) -> str:
    """Describe the normaliser and the intervals from the metadata of `scores.parquet`."""
    said = []
    if "normaliser" in metadata:
        said.append(f"texts compared after: {DESCRIPTIONS.get(metadata['normaliser'], metadata['normaliser'])}")
    if "resampled" in metadata:
        said.append(f"intervals: 95 %, {metadata.get('resamples', '')} bootstrap samples of {metadata['resampled']}s")
    return "; ".join(said)


def _rates(rows: Sequence[dict[str, Any]], width: int, most: int) -> Table:
    kinds = ("sub", "del", "ins") if width >= _ALL_COLUMNS else ()
    header = ["scores by", "utterances", "audio", "WER %", "95 %", *kinds, "CER %"]
    lines = group_lines(
        rows,
        lambda row: (str(row["group"]), row["value"]),
        lambda row: _cells(row, bool(kinds)),
        _rate,
        "highest",
        most,
    )
    return rate_table(header, lines, width)


def group_lines(
    rows: Iterable[Row],
    named: Callable[[Row], tuple[str, str | None]],
    cells: Callable[[Row], Sequence[str]],
    rank: Callable[[Row], float],
    first: str,
    most: int = MAX_VALUES,
) -> list[tuple[list[str], str]]:
    """Return the lines of a `rate_table`: the overall row, then each group with its values.

    Args:
        rows: The rows, those of a group together; the first is the overall row.
        named: Returns the group and the value of a row.
        cells: Returns the cells behind the name of a row.
        rank: Returns the number by which the values of a larger group are chosen, largest first.
        first: What these values are, in words.
        most: The most values of a group.
    """
    lines: list[tuple[list[str], str]] = []
    for number, (name, found) in enumerate(groupby(rows, lambda row: named(row)[0])):
        group = list(found)
        if number == 0:
            lines.append((["overall", *cells(group[0])], "bold"))
            continue
        shown = group if len(group) <= most else sorted(group, key=rank, reverse=True)[:most]
        hidden = f" ({most} {first} of {len(group)})" if len(group) > most else ""
        lines.append(([printable(name, _NAME_WIDTH) + hidden], "italic"))
        for row in shown:
            value = named(row)[1]
            shown_as = "(null)" if value is None else printable(value, _NAME_WIDTH)
            lines.append((["  " + shown_as, *cells(row)], ""))
    return lines


def rate_table(header: Sequence[str], lines: Sequence[tuple[Sequence[str], str]], width: int) -> Table:
    """Lay out a table of names and numbers. The names are shortened so that the numbers fit.

    Args:
        header: Heading of each column; the first column has the names.
        lines: Cells and style of each line. An `italic` line begins a group.
        width: Width of the terminal in characters.
    """
    taken = sum(
        max(len(header[at]), *(len(cells[at]) for cells, _ in lines if at < len(cells))) + 3
        for at in range(1, len(header))
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(header[0], overflow="ellipsis", no_wrap=True, max_width=max(_LEAST_NAME, width - taken - 4))
    for name in header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for cells, style in lines:
        if style == "italic":
            table.add_section()
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _rate(row: dict[str, Any]) -> float:
    return -1.0 if row["wer"] is None else float(row["wer"])


def _cells(row: dict[str, Any], kinds: bool) -> list[str]:
    interval = "" if row["wer_low"] is None else f"{100 * row['wer_low']:.1f} to {100 * row['wer_high']:.1f}"
    counts = [f"{row[kind]:,}" for kind in ("substitutions", "deletions", "insertions")] if kinds else []
    audio = format_hours(3600 * row["hours"])
    return [f"{row['utterances']:,}", audio, _percent(row["wer"]), interval, *counts, _percent(row["cer"])]


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.2f}"


def _confusion(row: dict[str, Any]) -> str:
    reference, hypothesis = (printable(row[side] or "", _NAME_WIDTH) for side in ("reference", "hypothesis"))
    if row["kind"] == "substitution":
        said = f"{reference} read as {hypothesis}"
    else:
        said = f"{reference} missed" if row["kind"] == "deletion" else f"{hypothesis} added"
    return f"{said} ({row['count']:,})"


def _worst(worst: Worst) -> Text:
    text = Text(f"{printable(worst.id, 2 * _NAME_WIDTH)}: WER {100 * worst.wer:.0f} %\n")
    text.append(f"    said {printable(worst.reference, _TEXT_WIDTH)}\n", "dim")
    return text.append(f"    read {printable(worst.hypothesis, _TEXT_WIDTH)}")
