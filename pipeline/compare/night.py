"""Compares what a night added to a run with what was there before: failures, error rates, log-probability, speed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.compare.comparison import groups_of
from pipeline.compare.counts import MISSING, errors_now
from pipeline.compare.matching import EXAMPLES, read_transcripts
from pipeline.report.timing import read_timing
from pipeline.runtime.errors import UserError
from pipeline.runtime.terminal import counted
from pipeline.scoring.bootstrap import Sample, change_intervals
from pipeline.scoring.counting import COUNTS
from pipeline.scoring.membership import Membership, speaker_column
from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.manifest import generations_in
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.summary import Totals, total

RATES = ("wer", "cer", "avg_logprob")


@dataclass(frozen=True)
class Drift:
    """The figures of a group before and now.

    Attributes:
        group, value: As in `scores.parquet`.
        before, now: Number of utterances.
        rates: Value before and now, and the interval of the change, of each of `RATES`; `None` where there is none.
    """

    group: str
    value: str | None
    before: int
    now: int
    rates: Mapping[str, tuple[float | None, float | None, tuple[float, float] | None]]

    def change(self, rate: str) -> float | None:
        """Return the value now minus the value before; `None` if one is unknown."""
        before, now, _ = self.rates[rate]
        return None if before is None or now is None else now - before


@dataclass(frozen=True)
class Night:
    """What a night added.

    Attributes:
        directory: The run.
        since: Shards that were committed at this time or later are new.
        before, now: Sums over the shards of each side.
        speeds: Seconds of audio per second of work, before and now; `None` if it is unknown.
        new_failures: First ids of the failures of each kind that was not there before.
        drifts: The overall figures, then those of each group; empty if the run has no transcripts.
    """

    directory: RunDirectory
    since: datetime
    before: Totals
    now: Totals
    speeds: tuple[float | None, float | None]
    new_failures: Mapping[str, Sequence[str]]
    drifts: Sequence[Drift]

    def changes(self) -> dict[str, float | None]:
        """Return the change of each figure of a condition, in the units of `conditions.UNITS`."""
        overall = self.drifts[0] if self.drifts else None
        wer, cer, logprob = (None if overall is None else overall.change(rate) for rate in RATES)
        shares = [failed_share(totals) for totals in (self.before, self.now)]
        before, now = self.speeds
        return {
            "wer": None if wer is None else 100 * wer,
            "cer": None if cer is None else 100 * cer,
            "avg_logprob": logprob,
            "failures": None if shares[0] is None or shares[1] is None else 100 * (shares[1] - shares[0]),
            "speed": 100 * (now / before - 1) if before and now else None,
        }


def failed_share(totals: Totals) -> float | None:
    """Return the share of the utterances that failed; `None` if there are no utterances."""
    return totals.num_failures / totals.utterances if totals.utterances else None


def since_of(directory: RunDirectory, text: str) -> datetime:
    """Return the time that `--since` names.

    Args:
        directory: The run.
        text: A time as in `parse_time`, or a generation of the corpus: its number from 1 on, or `last`.

    Raises:
        UserError: It is neither, or there is no such generation.
    """
    if not re.fullmatch(r"\d{1,5}|last", text):
        return parse_time(text)
    directory.require_run()
    made = [each.made for each in generations_in(directory.manifest.schema())][1:]
    number = len(made) + 1 if text == "last" else int(text)
    if not 2 <= number <= len(made) + 1:
        there = f"the corpus of {directory.root} has {counted(len(made) + 1, 'generation')}"
        raise UserError(f"--since={text}: {there}, and the first has none before; give a date, or one of 2 and more")
    return parse_time(made[number - 2])


def parse_time(text: str) -> datetime:
    """Return a time in ISO 8601. Without an offset, it is local time; a date is its first moment.

    Raises:
        UserError: It is not a time.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f"--since={text}: must be a date or a time in ISO 8601, such as 2026-11-26, 2026-11-26T20:00 (local time) "
            "or 2026-11-26T20:00+01:00, or the number of a generation of the corpus, or last"
        ) from None


def read_night(directory: RunDirectory, since: datetime, by: Sequence[str] | None) -> Night:
    """Compare the shards that were committed since a time with those that were there before.

    Args:
        directory: The run.
        since: The time.
        by: Columns to group by; `None` for the groups of the run's scores.

    Raises:
        UserError: There is no run, or it has no such column.
    """
    directory.require_run()
    groups = groups_of(directory, by)
    records = list(directory.commits().values())
    is_new = [record.new_since >= since for record in records]
    own = [each.name for each in tables.own_columns(directory.manifest.schema())]
    membership = Membership(groups, speaker_column(own))
    old = total(record for record, new in zip(records, is_new, strict=True) if not new)
    added = total(record for record, new in zip(records, is_new, strict=True) if new)
    timings = (
        read_timing(directory, lambda time: time < since),
        read_timing(directory, lambda time: time >= since),
    )
    speed_before, speed_now = (None if timing is None else timing.real_time for timing in timings)
    return Night(
        directory,
        since,
        old,
        added,
        (speed_before, speed_now),
        _new_failures(directory, records, is_new, set(added.failures) - set(old.failures)),
        list(_drifts(directory, records, is_new, membership)),
    )


def _new_failures(
    directory: RunDirectory, records: Sequence[CommittedShard], is_new: Sequence[bool], names: set[str]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in sorted(names)}
    for record, new in zip(records, is_new, strict=True):
        wanted = [name for name in found if new and name in record.failures and len(found[name]) < EXAMPLES]
        for stored in directory.tables(record, "failures") if wanted else ():
            table = stored.read(["id", "error"])
            for name in wanted:
                ids = table.filter(pc.equal(table["error"], name))["id"].to_pylist()
                found[name] = [*found[name], *ids][:EXAMPLES]
    return found


def _drifts(
    directory: RunDirectory, records: Sequence[CommittedShard], is_new: Sequence[bool], membership: Membership
) -> Iterator[Drift]:
    """Yield the drift of all utterances, then that of each group."""
    above, below, side = [], [], []
    columns = ["text", "reference", "avg_logprob", *COUNTS, *membership.columns]
    for record, new in zip(records, is_new, strict=True):
        for stored in directory.tables(record, "transcripts"):
            table = read_transcripts(stored, list(dict.fromkeys(columns)))
            membership.add(table)
            numerators, denominators = _rates(table)
            above.append(numerators)
            below.append(denominators)
            side.append(np.full(len(table), new))
    if not above:
        return
    is_now, sums, totals = np.concatenate(side), np.concatenate(above), np.concatenate(below)
    speakers = membership.speakers()
    for group, value, members in (("overall", None, np.arange(len(is_now))), *membership.groups()):
        yield _drift(group, value, *(
            (sums[rows], totals[rows], None if speakers is None else speakers[rows])
            for rows in (members[~is_now[members]], members[is_now[members]])
        ))  # fmt: skip


def _rates(table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the numerators and denominators of `RATES` for some transcripts, each `(utterances, rates)`."""
    errors = errors_now(table)
    errors = np.where(errors == MISSING, 0, errors)
    logprobs = table["avg_logprob"].to_numpy().astype(np.float64)
    known = np.isfinite(logprobs)
    above = np.stack([errors[:, 0], errors[:, 2], np.where(known, logprobs, 0.0)], axis=1)
    return above, np.stack([errors[:, 1], errors[:, 3], known], axis=1).astype(np.int64)


def _drift(group: str, value: str | None, before: Sample, now: Sample) -> Drift:
    values = [[_ratio(*pair) for pair in zip(side[0].sum(0), side[1].sum(0), strict=True)] for side in (before, now)]
    intervals = change_intervals(before, now)
    rates = dict(zip(RATES, zip(*values, intervals, strict=True), strict=True))
    return Drift(group, value, len(before[0]), len(now[0]), rates)


def _ratio(above: Any, below: Any) -> float | None:
    return float(above / below) if below else None
