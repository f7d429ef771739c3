"""What can happen to a run: kills, stops, errors of the disk, other drivers, lost folders and damaged files."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from harness import (
    COMPLETE,
    ERROR,
    FAILURES,
    LONGEST_S,
    REFUSED,
    TABLES,
    Soak,
    check,
    check_no_process,
    group_members,
    kill_group,
    send,
)

from pipeline.runtime.failpoints import VARIABLE

CLEAN = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
ONCE = ("manifest", "manifest-written", "run-json", "run-json-written", "retract", "retracted", "scores", "scored")
"""Points that one run reaches once, if at all."""


class Disturbances(Soak):
    """Runs that are disturbed. Each method says what it did, and ends with no process left.

    Attributes:
        whole_s: Seconds that an undisturbed run takes.
        num_shards: Shards of a whole run.
    """

    whole_s: float
    num_shards: int

    def shards(self, run_dir: Path) -> list[Path]:
        return sorted((run_dir / "commits").glob("shard-*.json"))

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
        Disturbances.kill,
        Disturbances.kill_at_failpoint,
        Disturbances.fail,
        Disturbances.stop,
        Disturbances.stop_twice,
        Disturbances.two_drivers,
        Disturbances.parts,
        Disturbances.frozen,
        Disturbances.descendants,
        Disturbances.renamed,
        Disturbances.lock_file,
        Disturbances.damage,
    )
}
"""The kinds of disturbance by name."""


def chosen(kinds: str) -> list[str]:
    """The value of `--only`."""
    if unknown := {*kinds.split(",")} - {*KINDS}:
        raise argparse.ArgumentTypeError(f"{','.join(sorted(unknown))}: not among {','.join(KINDS)}")
    return kinds.split(",")
