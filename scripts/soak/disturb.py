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
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness import (
    ALL_OUTPUTS,
    COMPLETE,
    ERROR,
    FAILURES,
    LONGEST_S,
    OUTPUTS,
    REFUSED,
    TABLES,
    Soak,
    check,
    check_no_process,
    check_readable,
    contents,
    group_members,
    ids,
    kill_group,
    link_digits,
    run,
    send,
)

from pipeline.runtime.failpoints import VARIABLE
from pipeline.storage.commits import CommitRecord, read_record

CLEAN = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
ONCE = ("manifest", "manifest-written", "run-json", "run-json-written", "retract", "retracted", "scores", "scored")
"""Points that one run reaches once, if at all."""


def computed(record: CommitRecord | None) -> CommitRecord | None:
    """A commit record without the transcripts, which are written again, without the model, to complete `same_as`."""
    if record is None:
        return None
    return replace(record, files={table: file for table, file in record.files.items() if table != "transcripts"})


class Disturbed(Soak):
    """The undisturbed run, and what can be done to another."""

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

    def shards(self, run_dir: Path) -> list[Path]:
        return sorted((run_dir / "commits").glob("shard-*.json"))

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

    # --- what can happen: each says what it did, and ends with no process left

    def kill(self, run_dir: Path) -> str:
        process = self.start(run_dir)
        self.sleep(process)
        kill_group(process)
        return "killed after a while"

    def kill_at_failpoint(self, run_dir: Path) -> str:
        return self.run_to_failpoint(run_dir, most=4, once=ONCE)

    def fail(self, run_dir: Path) -> str:
        names = ("spool", "table", "sync", "renaming", "moved", "file", "file-staged", "file-synced", "file-moved")
        name, error = self.chance.choice(names), self.chance.choice(("ENOSPC", "EIO"))
        process = self.start(run_dir, **{VARIABLE: f"{name}@{self.chance.randint(1, 6)}={error}"})
        code = process.wait(LONGEST_S)
        check(code in (ERROR, COMPLETE), f"exit code {code} after {error} at {name}")
        check_no_process(process)
        return "error of the disk" if code else "failpoint not reached"

    def stop(self, run_dir: Path) -> str:
        process = self.start(run_dir)
        self.sleep(process)
        signum = self.chance.choice(list(CLEAN))
        committed = set(self.shards(run_dir))
        send(process, signum)
        code = process.wait(LONGEST_S)
        # Before Python has taken the signal over it is killed by it.
        check(code in (CLEAN[signum], COMPLETE, -signum), f"exit code {code} after {signum.name}")
        check_no_process(process)
        check(committed <= set(self.shards(run_dir)), "a stop lost what was committed")
        return f"stopped by {signum.name}"

    def stop_twice(self, run_dir: Path) -> str:
        process = self.start(run_dir)
        self.sleep(process)
        send(process, signal.SIGINT)
        time.sleep(0.35)
        send(process, signal.SIGINT)
        process.wait(LONGEST_S)
        check_no_process(process)
        return "Ctrl-C twice"

    def two_drivers(self, run_dir: Path) -> str:
        first = self.start(run_dir)
        second = self.start(run_dir)
        self.sleep(first)
        kill_group(first if self.chance.random() < 0.5 else second)
        codes = [process.wait(LONGEST_S) for process in (first, second)]
        check(set(codes) <= {COMPLETE, REFUSED, -signal.SIGKILL}, f"exit codes {codes} of two drivers")
        for process in (first, second):
            check_no_process(process)
        return "two drivers"

    def parts(self, run_dir: Path) -> str:
        """Start all parts of the run at once, and at times some of another division; kill or stop one of them."""
        of = self.chance.randint(2, 4)
        divided = [f"{number}/{of}" for number in range(1, of + 1)]
        divided += self.chance.choice(([], ["1/1"], [f"1/{of + 1}", f"{of + 1}/{of + 1}"]))
        processes = [self.start(run_dir, f"executor.part={part}") for part in divided]
        victim = self.chance.choice(processes)
        self.sleep(victim, 2.0)
        if self.chance.random() < 0.5:
            kill_group(victim)
        else:
            send(victim, signal.SIGTERM)
        codes = [process.wait(LONGEST_S) for process in processes]
        stopped = {-signal.SIGKILL, -signal.SIGTERM, CLEAN[signal.SIGTERM]}
        check(set(codes) <= {COMPLETE, *stopped}, f"exit codes {codes} of the parts {divided}")
        for process in processes:
            check_no_process(process)
        return "parts at the same time"

    def frozen(self, run_dir: Path) -> str:
        first = self.start(run_dir)
        self.sleep(first)
        send(first, signal.SIGSTOP)
        second = self.start(run_dir)
        refused = second.wait(LONGEST_S)
        check(refused in (REFUSED, COMPLETE), f"exit code {refused} of a second driver")
        send(first, signal.SIGCONT)
        if self.chance.random() < 0.5:
            kill_group(first)
        else:
            check(first.wait(LONGEST_S) == COMPLETE, "the driver that woke up did not complete")
        return "one driver stood still"

    def descendants(self, run_dir: Path) -> str:
        """Kill processes that read recordings, or workers. A recording whose process is killed twice is a failure."""
        process = self.start(run_dir)
        for _ in range(3):
            self.sleep(process, 0.3)
            children = [member for member in group_members(process.pid) if member != process.pid]
            if children:
                with suppress(ProcessLookupError):
                    os.kill(self.chance.choice(children), signal.SIGKILL)
        code = process.wait(LONGEST_S)
        check(code in (COMPLETE, FAILURES, *self.given_up), f"exit code {code} after the death of descendants")
        check_no_process(process)
        return "descendants killed"

    def renamed(self, run_dir: Path) -> str:
        process = self.start(run_dir)
        self.sleep(process)
        aside = run_dir.with_name("renamed")
        if process.poll() is not None or not (run_dir / "manifest.parquet").exists():
            process.wait(LONGEST_S)
            return "nothing to rename"
        run_dir.rename(aside)
        code = process.wait(LONGEST_S)
        check_no_process(process)
        check(not run_dir.exists(), "a renamed run directory was made again")
        aside.rename(run_dir)
        whole = len(self.shards(run_dir)) == self.num_shards
        check(code == ERROR or (code == COMPLETE and whole), f"exit code {code} of a run whose directory was renamed")
        return "directory renamed"

    def lock_file(self, run_dir: Path) -> str:
        first = self.start(run_dir)
        self.sleep(first)
        (run_dir / ".staging" / "lock").unlink(missing_ok=True)
        second = self.start(run_dir)
        codes = [process.wait(LONGEST_S) for process in (first, second)]
        check(codes[0] in (COMPLETE, ERROR), f"exit code {codes[0]} of a run whose lock file was removed")
        check(codes[1] in (COMPLETE, REFUSED), f"exit code {codes[1]} of a second driver without a lock file")
        for process in (first, second):
            check_no_process(process)
        return "lock file removed"

    def damage(self, run_dir: Path) -> str:
        done = self.shards(run_dir)
        if not done:
            return "nothing to damage yet"
        record = self.chance.choice(done)
        table = run_dir / self.chance.choice(TABLES) / f"{record.stem}.parquet"
        kind = self.chance.choice(("cut", "missing", "record cut", "record missing", "record flipped"))
        victim = record if kind.startswith("record") else table
        if not victim.exists():
            return "nothing to damage yet"
        data = victim.read_bytes()
        place = self.chance.randrange(len(data))
        if kind.endswith("missing"):
            victim.unlink()
        elif kind.endswith("cut"):
            victim.write_bytes(data[:place])
        else:
            victim.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        return f"damaged: {kind}"

    def sleep(self, process: subprocess.Popen[bytes], most: float = 1.0) -> None:
        """Some while, at most `most` of the time that an undisturbed run takes."""
        end = time.monotonic() + self.chance.uniform(0.2 * most, most) * self.whole_s
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.005)


KINDS = {
    kind.__name__: kind
    for kind in (
        Disturbed.kill, Disturbed.kill_at_failpoint, Disturbed.fail, Disturbed.stop, Disturbed.stop_twice,
        Disturbed.two_drivers, Disturbed.parts, Disturbed.frozen, Disturbed.descendants, Disturbed.renamed,
        Disturbed.lock_file, Disturbed.damage,
    )
}  # fmt: skip
"""The kinds of disturbance by name."""


def chosen(kinds: str) -> list[str]:
    """The value of `--only`."""
    if unknown := {*kinds.split(",")} - {*KINDS}:
        raise argparse.ArgumentTypeError(f"{','.join(sorted(unknown))}: not among {','.join(KINDS)}")
    return kinds.split(",")


if __name__ == "__main__":
    sys.exit(run(Disturbed, __doc__))
