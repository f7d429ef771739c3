"""Time and memory for 100, 1,000 and 10,000 files, the cost of a shard boundary, and one hour in one file.

Example:
    python scripts/bench/growth.py --device cpu --counts 100 1000 10000

This benchmark uses the small shipped model, so that the costs around the model are visible. The small files are the
shipped digits: 8 kHz WAV of 0.4 s, many of them the same file under another name. Each run is a separate process.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import corpora
from common import Table, parser, prepared, publish, say
from contestants import Timing, pipeline

COLUMNS = ["files", "audio h", "s", "files per s", "x real time", "s per audio h", "command s", "peak MiB"]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--counts", type=int, nargs="+", help="of files; None: 100 1000 10000")
    made.add_argument("--shards", type=int, help="into which --sharded files are cut; None: 50")
    made.add_argument("--sharded", type=int, help="files; None: 2000")
    made.add_argument("--long-minutes", type=float, help="in one file; None: 60")
    options = made.parse_args()
    options.counts = options.counts or ([6] if options.quick else [100, 1000, 10000])
    options.shards = options.shards or (2 if options.quick else 50)
    options.sharded = options.sharded or (6 if options.quick else 2000)
    options.long_minutes = options.long_minutes or (0.2 if options.quick else 60)
    measured: dict[str, Any] = {}
    with prepared(options) as work:
        tables = [growth(options, work, measured), boundaries(options, work, measured), long(options, work, measured)]
        publish("growth", __doc__, tables, options, measured)


def runs(
    options: argparse.Namespace, work: Path, corpus: Path, overrides: Sequence[str] = (), rounds: int | None = None
) -> list[Timing]:
    done = []
    for _ in range(rounds or options.rounds):
        done.append(pipeline(corpus, work / "run", "digits", options.device, options.threads, overrides))
        say(f"{len(corpora.files(corpus))} files: {done[-1].seconds:.2f} s, {done[-1].peak_mib:.0f} MiB")
    return done


def cells(files: int, timings: Sequence[Timing]) -> list[Any]:
    def middle(key: str) -> float:
        return float(statistics.median(getattr(timing, key) for timing in timings))

    seconds, audio_s, whole_s = middle("seconds"), middle("audio_s"), middle("whole_s")
    peak = min(timing.peak_mib or 0.0 for timing in timings)
    hours = audio_s / 3600
    return [files, hours, seconds, files / seconds, audio_s / seconds, seconds / hours, whole_s, peak]


def growth(options: argparse.Namespace, work: Path, measured: dict[str, Any]) -> Table:
    table = Table("More files", ["what", *COLUMNS])
    found: list[list[Any]] = []
    for count in options.counts:
        # The largest takes its time, and repeats what the others said.
        rounds = 1 if count >= 5000 or options.device == "cuda" else options.rounds
        timings = runs(options, work, corpora.single_digits(work / f"files-{count}", count), rounds=rounds)
        measured[f"{count} files"] = [asdict(timing) for timing in timings]
        found.append(cells(count, timings))
        table.add(f"{count:,} files", *found[-1])
    table.notes.append(
        "peak MiB: the least of the runs, of the largest process. s: from the first batch asked for to the last commit."
    )
    if len(found) > 1:
        hours, peak = found[-1][1] - found[0][1], found[-1][-1] - found[0][-1]
        table.notes.append(f"From the first row to the last memory grew by {peak / hours:.0f} MiB per hour of audio.")
    return table


def boundaries(options: argparse.Namespace, work: Path, measured: dict[str, Any]) -> Table:
    """The same files in one shard and in many, in turns."""
    corpus = corpora.single_digits(work / "sharded", options.sharded)
    hours = corpora.seconds(corpus) / 3600 / options.shards
    one: list[Timing] = []
    many: list[Timing] = []
    for _ in range(options.rounds):
        one += runs(options, work, corpus, ["shard.hours=1000"], 1)
        many += runs(options, work, corpus, [f"shard.hours={hours}"], 1)
    found = len(list((work / "run" / "commits").iterdir()))
    measured["one shard"], measured["many shards"] = ([asdict(t) for t in timings] for timings in (one, many))
    table = Table("Shard boundaries", ["what", *COLUMNS])
    table.add("one shard", *cells(options.sharded, one))
    table.add(f"{found} shards", *cells(options.sharded, many))
    times = [statistics.median(timing.seconds for timing in timings) for timings in (one, many)]
    each = (times[1] - times[0]) / max(1, found - 1)
    measured["seconds_per_boundary"] = each
    table.notes.append(
        f"A boundary costs {1000 * each:.1f} ms: the difference of the medians over {found - 1} of them."
    )
    return table


def long(options: argparse.Namespace, work: Path, measured: dict[str, Any]) -> Table:
    table = Table("One long recording", ["what", *COLUMNS])
    for minutes in [options.long_minutes] if options.quick else [options.long_minutes / 10, options.long_minutes]:
        timings = runs(options, work, corpora.long(work / f"long-{minutes}", minutes))
        measured[f"{minutes:g} minutes in one file"] = [asdict(timing) for timing in timings]
        table.add(f"{minutes:g} minutes in one file", *cells(1, timings))
    return table


if __name__ == "__main__":
    main()
