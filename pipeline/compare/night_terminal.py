"""Prints in a terminal what a night added to a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from pipeline.compare.night import Drift, Night, failed_share
from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted, printable
from pipeline.scoring.bootstrap import RESAMPLES
from pipeline.scoring.terminal import group_lines, rate_table
from pipeline.storage.summary import Totals

_NAME_WIDTH = 40


def pictures(night: Night, width: int) -> Iterator[Table | Text]:
    """Yield what is printed of a night.

    Args:
        night: The night.
        width: Width of the terminal in characters.
    """
    since = night.since.astimezone().isoformat(" ", "minutes")
    yield Text(f"{printable(str(night.directory.root))} since {since}")
    yield Text(f"added   {_amount(night.now)}\nbefore  {_amount(night.before)}")
    if not night.now.shards or not night.before.shards:
        missing = "was committed since then" if not night.now.shards else "was committed before"
        yield Text(f"nothing {missing}, so there is nothing to compare")
        return
    yield Text("\n".join(_failures(night)))
    before, now = night.speeds
    if before and now:
        yield Text(f"speed   {now:.1f} x real time, before {before:.1f} ({100 * (now / before - 1):+.0f} %)")
    if night.drifts:
        yield _drifts(night.drifts, width)
        unit = "points, that of log-prob in nats a frame" if _has_references(night.drifts) else "nats a frame"
        yield Text(f"change: now minus before, in {unit}; 95 %: bootstrap, {RESAMPLES} samples of both sides", "dim")


def _amount(totals: Totals) -> str:
    utterances, shards = counted(totals.utterances, "utterance"), counted(totals.shards, "shard")
    return f"{utterances} in {shards}, {format_hours(totals.audio_s)}"


def _failures(night: Night) -> Iterator[str]:
    shares = [failed_share(totals) or 0.0 for totals in (night.now, night.before)]
    yield (
        f"failed  {night.now.num_failures:,} ({100 * shares[0]:.2f} %), before {night.before.num_failures:,} "
        f"({100 * shares[1]:.2f} %)"
    )
    for name, ids in night.new_failures.items():
        number = night.now.failures[name]
        first = ", ".join([*(printable(id_, 2 * _NAME_WIDTH) for id_ in ids), *["..."] * (number > len(ids))])
        yield f"new kind of failure: {name} ({number:,}: {first})"


def _has_references(drifts: Sequence[Drift]) -> bool:
    return any(each is not None for each in drifts[0].rates["wer"][:2])


def _drifts(drifts: Sequence[Drift], width: int) -> Table:
    has_references = _has_references(drifts)
    header = ["drift by", "new", "log-prob before", "now", "change", "95 %"]
    if has_references:
        header = ["drift by", "new", "WER before %", "now %", "change", "95 %", "log-prob"]
    rate = "wer" if has_references else "avg_logprob"
    lines = group_lines(
        drifts,
        lambda drift: (drift.group, drift.value),
        lambda drift: _cells(drift, has_references),
        lambda drift: abs(drift.change(rate) or 0.0),
        "most changed",
    )
    return rate_table(header, lines, width)


def _cells(drift: Drift, has_references: bool) -> list[str]:
    rate, factor, digits = ("wer", 100, 2) if has_references else ("avg_logprob", 1, 4)
    before, now, interval = drift.rates[rate]
    cells = [f"{drift.now:,}", *(_number(value, factor, digits) for value in (before, now))]
    cells.append(_number(drift.change(rate), factor, digits, "+"))
    cells.append("" if interval is None else " to ".join(_number(end, factor, digits - 1, "+") for end in interval))
    return [*cells, _number(drift.change("avg_logprob"), 1, 4, "+")] if has_references else cells


def _number(value: float | None, factor: int, digits: int, sign: str = "") -> str:
    return "" if value is None else f"{factor * value:{sign}.{digits}f}"
