"""Kill, stop, break and damage runs at random until the time is up, and check their tables.

    python scripts/soak/disturb.py --minutes 3 --seed 7          or: make soak ARGS="--minutes 60"
    python scripts/soak/disturb.py --only renamed,lock_file

First the script runs a corpus of the shipped recordings without a disturbance. Then it disturbs one run directory
after another, a few times each, and resumes each run until it is complete. Its tables must equal those of the
undisturbed run, byte for byte. The seed determines every disturbance; the moment of a disturbance depends on the
machine. If tables differ, the script keeps the run directory, prints the seed, and ends with exit code 1.

`--only` chooses kinds of disturbance.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from disturbances import KINDS, Disturbances, chosen
from harness import (
    ALL_OUTPUTS,
    COMPLETE,
    ERROR,
    OUTPUTS,
    check,
    check_readable,
    contents,
    ids,
    link_digits,
    run,
)

from pipeline.storage.commits import CommitRecord, read_record


def computed(record: CommitRecord | None) -> CommitRecord | None:
    """A commit record without the transcripts, which are written again, without the model, to complete `same_as`."""
    if record is None:
        return None
    return replace(record, files={table: file for table, file in record.files.items() if table != "transcripts"})


class Disturbed(Disturbances):
    """The undisturbed run, and others that are disturbed and compared with it."""

    def __init__(self, work: Path, chance: random.Random, given: argparse.Namespace) -> None:
        """Make the corpus and the undisturbed run."""
        super().__init__(work, chance, given)
        link_digits(work / "corpus", given.recordings)
        self.settings += (*ALL_OUTPUTS, f"dataset.root={work / 'corpus'}", "shard.hours=0.001")
        self.reference = work / "undisturbed"
        began = time.monotonic()
        code = self.finish(self.reference)
        check(code == COMPLETE, f"the undisturbed run ended with {code}")
        self.whole_s = time.monotonic() - began
        self.expected = contents(self.reference)
        self.num_shards = len(self.shards(self.reference))
        check(self.num_shards >= 5, "too few shards to disturb")
        if given.workers > 1:  # the undisturbed run is that of one process
            self.settings += (f"executor.workers={given.workers}",)
            self.given_up = (ERROR,)

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--recordings", type=int, default=300)
        parser.add_argument("--workers", type=int, default=1, help="processes that compute, in a disturbed run")
        parser.add_argument("--disturbances", type=int, default=8, help="in one run directory")
        parser.add_argument("--only", type=chosen, default=[*KINDS], help=f"some of {','.join(KINDS)}")

    def summary(self, rounds: int) -> str:
        undisturbed = f"the undisturbed run of {self.num_shards} shards, which took {self.whole_s:.1f} s"
        return f"{rounds} run directories, each equal to {undisturbed}"

    # --- rounds

    def round(self, number: int) -> Iterator[str]:
        """Disturb one run directory until it happens to be complete, else let it complete; yields what was done."""
        run_dir, kinds = self.work / f"disturbed-{number}", self.given.only
        damaged: set[str] = set()
        for _ in range(self.given.disturbances):
            if (run_dir / "scores.parquet").exists():
                break  # complete: there is nothing left to disturb
            before = {path.stem: read_record(path.read_bytes()) for path in self.shards(run_dir)}
            kind = self.chance.choice([kind for kind in kinds if kind != "damage"] or ["kill"])
            yield KINDS[kind](self, run_dir)
            check_readable(run_dir, damaged)
            now = {path.stem: read_record(path.read_bytes()) for path in self.shards(run_dir)}
            kept = {shard for shard, record in before.items() if shard not in damaged and record is not None}
            again = [shard for shard in kept if computed(now.get(shard)) != computed(before[shard])]
            check(not again, "a committed shard was done again")
            if "damage" in kinds and self.chance.random() < 0.3:
                state = contents(run_dir)
                yield self.damage(run_dir)
                damaged |= {Path(path).stem for path in state if contents(run_dir).get(path) != state[path]}
        code = self.finish(run_dir, "retry_failed=true")
        check(code == COMPLETE, f"the last run ended with {code}")
        self.compare(run_dir)
        shutil.rmtree(run_dir)
        yield "completed and compared"

    def compare(self, run_dir: Path) -> None:
        found = contents(run_dir)
        tables = {path for path in found if not path.startswith("commits/")}
        check(set(found) == set(self.expected), f"other files: {sorted(set(found) ^ set(self.expected))[:5]}")
        different = sorted(path for path in tables if found[path] != self.expected[path])
        check(not different, f"other content: {different[:5]}")
        for path in self.shards(run_dir):
            paths = path, self.reference / "commits" / path.name
            record, wanted = (read_record(each.read_bytes()) for each in paths)
            check(record is not None and wanted is not None and record.files == wanted.files, f"record {path.name}")
        manifest, failed = ids(run_dir / "manifest.parquet"), ids(run_dir / "failures")
        for table, rows in zip(OUTPUTS, (1, 1, 2), strict=True):
            found_ids = ids(run_dir / table)
            check(all(count == rows for count in found_ids.values()), f"an id twice in {table}")
            check(Counter(set(found_ids)) + failed == manifest, f"{table} does not account for every id")
        left = sorted(path.name for path in (run_dir / ".staging").iterdir() if not path.name.startswith("lock-"))
        check(left == ["lock"], f"left in .staging: {left}")


if __name__ == "__main__":
    sys.exit(run(Disturbed, __doc__))
