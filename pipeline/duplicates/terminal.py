"""Prints the duplicates of a run in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from pipeline.duplicates.analysis import Analysis, share_in_words
from pipeline.duplicates.leakage import Leakage
from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted, printable
from pipeline.scoring.terminal import MAX_VALUES, rate_table

MAX_SOUNDS, MAX_MEMBERS = 5, 3
"""Sounds printed, and utterances printed of each sound."""
MAX_CONFLICTS = 3
_ID_WIDTH, _NAME_WIDTH, _TEXT_WIDTH = 160, 40, 200


def pictures(analysis: Analysis, width: int) -> Iterator[Table | Text]:
    """Yield what is printed.

    Args:
        analysis: The duplicates of a run.
        width: Width of the terminal in characters.
    """
    yield Text(share_in_words(analysis))
    if not analysis.copies:
        return
    sounds = analysis.sounds()
    most = "; the most frequent:" if len(sounds) > MAX_SOUNDS else ":"
    lines = [f"{len(sounds):,} {'sounds occur' if len(sounds) > 1 else 'sound occurs'} more than once{most}"]
    for rows in sounds[:MAX_SOUNDS]:
        lines.append(f"  {len(rows):,} times, {format_hours(analysis.seconds[rows[0]])}")
        lines += [f"    {_id(analysis, row)}" for row in rows[:MAX_MEMBERS].tolist()]
        lines += [f"    and {len(rows) - MAX_MEMBERS:,} more"] if len(rows) > MAX_MEMBERS else []
    yield Text("\n".join(lines))
    if analysis.conflicts:
        yield _conflicts(analysis)
    yield from _leakage(analysis, width)


def _conflicts(analysis: Analysis) -> Text:
    text = Text(f"{counted(len(analysis.conflicts), 'sound')} with different references, so that one must be wrong:")
    for rows in analysis.conflicts[:MAX_CONFLICTS]:
        for row in rows:
            reference = printable(analysis.manifest["reference"][row].as_py(), _TEXT_WIDTH)
            text.append(f"\n  {_id(analysis, row)}: ").append(reference, "dim")
    return text


def _leakage(analysis: Analysis, width: int) -> Iterator[Table | Text]:
    leaking = [each for each in analysis.leakage if each.sounds]
    if leaking:
        yield rate_table(["the same audio under", "sounds", "utterances", "audio"], _lines(leaking), width)
        examples = [line for each in leaking for line in _example(analysis, each)]
        yield Text("\n".join(["for example:", *examples]), "dim")
    tight = [printable(each.group, _NAME_WIDTH) for each in analysis.leakage if not each.sounds]
    if tight:
        yield Text(f"no sound has several values of {', '.join(tight)}")
    if not analysis.leakage:
        yield Text("--by COLUMNS searches for sounds with several values of a column, such as train and test")


def _lines(leaking: Sequence[Leakage]) -> list[tuple[list[str], str]]:
    lines: list[tuple[list[str], str]] = []
    for each in leaking:
        hidden = f" ({MAX_VALUES} of {each.num_pairs:,} pairs)" if each.num_pairs > MAX_VALUES else ""
        name = f"several values of {printable(each.group, _NAME_WIDTH)}{hidden}"
        lines.append(([name, *_cells(each.sounds, each.utterances, each.seconds)], "italic"))
        for pair in each.pairs[:MAX_VALUES]:
            values = " and ".join(printable(value, _NAME_WIDTH) for value in pair.values)
            lines.append((["  " + values, *_cells(pair.sounds, pair.utterances, pair.seconds)], ""))
    return lines


def _cells(sounds: int, utterances: int, seconds: float) -> list[str]:
    return [f"{sounds:,}", f"{utterances:,}", format_hours(seconds)]


def _example(analysis: Analysis, leakage: Leakage) -> Iterator[str]:
    pair = leakage.pairs[0]
    yield f"  {printable(leakage.group, _NAME_WIDTH)}"
    for value, row in zip(pair.values, pair.example, strict=True):
        yield f"    {_id(analysis, row)} ({printable(value, _NAME_WIDTH)})"


def _id(analysis: Analysis, row: int) -> str:
    return printable(analysis.id(row), _ID_WIDTH)
