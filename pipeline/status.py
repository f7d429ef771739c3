"""`python -m pipeline.status RUN_DIR` prints the progress of a run. Does not import torch."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.runtime.command import Parser, command
from pipeline.runtime.metrics import PAUSE_S
from pipeline.runtime.places import place
from pipeline.runtime.progress import format_duration, format_hours
from pipeline.runtime.stdout import standard_output
from pipeline.runtime.terminal import counted
from pipeline.storage.metrics import Line, read_metrics
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.summary import Standing, read_standing

RECENT_BATCHES = 200
"""The throughput is measured over this many last batches, so that it is the current speed of the run."""
_USAGE = "python -m pipeline.status RUN_DIR"
_PAGE = """\
usage: python -m pipeline.status RUN_DIR

Prints the progress of a run: utterances that are done, failed and pending,
the throughput and the estimated end. RUN_DIR is the folder that the run
writes to, such as runs/digits/digits. Changes nothing. The run may be going
on.

exit codes
  0    the status is printed
  1    a file of the run could not be read
  2    there is no run in that folder"""


@dataclass(frozen=True)
class Status:
    """The status of a run.

    Attributes:
        standing: Progress of the run.
        real_time: Seconds of audio per second of work in the last batches; `None` before the first batch.
        parts: The parts of the run that are at work, each with its process and machine.
        derived: Number of shards of each table that was made of the run's tables, by its folder.
    """

    standing: Standing
    real_time: float | None
    parts: Sequence[str] = ()
    derived: Mapping[str, int] = field(default_factory=dict)


def read_status(run_dir: Path) -> Status:
    """Read the status of a run.

    Raises:
        UserError: There is no run in that folder.
    """
    directory = RunDirectory.at(run_dir)
    directory.require_run()
    standing = read_standing(directory, directory.commits())
    derived = {table.folder: len(table.records()) for table in directory.derived_tables()}
    return Status(standing, _recent_real_time(directory), directory.parts_at_work(), derived)


def _recent_real_time(directory: RunDirectory) -> float | None:
    recent = [row for row in map(_parsed, deque(read_metrics(directory), maxlen=RECENT_BATCHES)) if row is not None]
    spent = sum(min(forward_s + idle_s, PAUSE_S) / workers for _, forward_s, idle_s, workers in recent)
    return float(sum(valid_s for valid_s, *_ in recent) / spent) if spent > 0 else None


def _parsed(line: Line) -> tuple[float, float, float, int] | None:
    """Return the seconds of a batch and the number of workers; `None` if a field is missing or no number."""
    try:
        valid_s, forward_s, idle_s = (float(line.row[key]) for key in ("valid_s", "forward_s", "idle_s"))
    except (ValueError, KeyError, TypeError):
        return None
    return valid_s, forward_s, idle_s, line.workers


def describe(status: Status, now: datetime) -> list[str]:
    """Return the lines that the command prints."""
    standing, totals = status.standing, status.standing.totals
    said = [
        f"done     {standing.done:,} of {counted(standing.num_utterances, 'utterance')}, "
        f"{format_hours(totals.audio_s)}, {totals.shards:,} of {counted(standing.num_shards, 'shard')}",
        f"failed   {totals.num_failures:,}"
        + (f" ({', '.join(f'{n} {name}' for name, n in totals.failures.most_common())})" if totals.failures else ""),
        f"pending  {counted(standing.pending, 'utterance')}, {format_hours(standing.pending_s)}",
    ]
    if len(standing.generations) > 1:
        last = standing.generations[-1]
        said.append(
            f"corpus   has grown {counted(len(standing.generations) - 1, 'time')}, "
            f"the last time by {counted(last.rows, 'utterance')} at {last.made}"
        )
    said += [
        f"partly   {part} in {number:,} of {counted(totals.shards, 'shard')}"
        for part, number in standing.shards_with.items()
    ]
    said += [
        f"made     {folder} of {number:,} of {counted(totals.shards, 'shard')}"
        for folder, number in status.derived.items()
    ]
    if status.real_time is not None:
        said.append(f"speed    {status.real_time:.1f} x real time over the last batches")
    said += [f"at work  {part}" for part in status.parts]
    begun = ", ".join(
        f"shard {shard} ({format_hours(done_s)} of {format_hours(whole_s)})"
        for shard, (done_s, whole_s) in standing.in_flight.items()
    )
    if begun and standing.locked:
        said.append(f"begun    {begun}")
    if standing.complete:
        said.append("complete")
    elif not standing.locked:
        again = f"; it computes {begun} again" if begun else ""
        said.append(f"stopped; run the same command again to continue{again}")
    elif status.real_time:
        left_s = standing.pending_s / status.real_time
        end = (now + timedelta(seconds=left_s)).strftime("%Y-%m-%d %H:%M")
        said.append(f"running, {format_duration(left_s)} left, ends about {end}")
    else:
        said.append("running")
    return said


def main(arguments: Sequence[str]) -> int:
    """Print the status of a run directory and return the exit code."""
    return command(arguments, _PAGE, _print_status, "no status printed")


def _print_status(arguments: Sequence[str]) -> int:
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    status = read_status(parser.parse_args(arguments).run_dir)
    print("\n".join(describe(status, datetime.now().astimezone())), file=standard_output())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
