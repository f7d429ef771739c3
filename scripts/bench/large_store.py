"""A run of thousands of shards in an object store: time, memory and requests of the commands that look what is left.

Example:
    python scripts/bench/large_store.py --counts 1000 3000 10000

The run is made in a folder as in `large_corpus.py`, with ten utterances in a shard. Every shard also gets emissions and
features in name, so that four tables are listed. Then the files go into the memory of moto's S3 server, which is a
process of its own, and its CPU time is counted apart. A store in a cloud answers many requests at once, moto only one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from common import Table, parser, prepared, publish, say
from large_corpus import SECONDS, asked, make_results, measured, write_list
from large_store_server import BUCKET, UTTERANCES

RUN = f"s3://{BUCKET}/run"
LEFT = "from pipeline.runtime.places import place; from pipeline.storage.run_directory import RunDirectory; "
LEFT += f"print(len(RunDirectory(place({RUN!r})).commits()), 'shards')"
SERVER = Path(__file__).with_name("large_store_server.py")


class Server:
    """The server in its process."""

    def __init__(self, to: IO[str], answers: IO[str]) -> None:
        self._to, self._answers = to, answers

    def ask(self) -> Any:
        """Return the next line that it says."""
        self._to.write("\n")
        self._to.flush()
        return json.loads(self._answers.readline())


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """Serve a folder while the context lasts. The environment names the server."""
    command = [sys.executable, str(SERVER), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        os.environ |= json.loads(process.stdout.readline())
        try:
            yield Server(process.stdin, process.stdout)
        finally:
            process.stdin.close()


def figures(work: Path, shards: int, threads: int) -> Iterator[tuple[str, list[float]]]:
    """Measure the commands on a run of so many shards."""
    list_, run, rows = work / "list.parquet", work / "run", shards * UTTERANCES
    shutil.rmtree(run, ignore_errors=True)
    write_list(list_, rows)
    hours = rows * SECONDS / 3600 / shards
    measured("plan", ["-m", "pipeline.run", *asked(list_, run, hours), "stages=[manifest]"], threads)
    say(f"{make_results(asked(list_, run, hours), run):,} shards")
    again = ["-m", "pipeline.run", *asked(list_, RUN, hours), "stages=[manifest,infer]"]
    with served(run) as server:
        for what, command in (
            ("what is left, without an index", ["-c", LEFT]),
            ("the same command, which writes the index", again),
            ("what is left", ["-c", LEFT]),
            ("status", ["-m", "pipeline.status", RUN]),
            ("the same command", again),
        ):
            before = server.ask()
            seconds, processors, gib = measured(what, command, threads)
            requests, spent = (now - then for now, then in zip(server.ask(), before, strict=True))
            yield what, [seconds, processors, spent, requests, gib]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--counts", type=int, nargs="+", help="shards; None: 1000 3000 10000")
    options: argparse.Namespace = made.parse_args()
    options.counts = options.counts or ([5] if options.quick else [1_000, 3_000, 10_000])
    columns = ["shards", "what", "s", "s of processors", "s of processors, server", "requests", "GiB"]
    table = Table("A run in an object store", columns)
    everything: dict[str, Any] = {}
    with prepared(options) as work:
        for shards in options.counts:
            for what, found in figures(work, shards, options.threads):
                everything[f"{shards} shards, {what}"] = found
                table.add(f"{shards:,}", what, *found)
                publish("large_store", __doc__, [table], options, everything, complete=False)
        publish("large_store", __doc__, [table], options, everything)


if __name__ == "__main__":
    main()
