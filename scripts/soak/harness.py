"""What every soak shares: runs as processes, the end of those processes, and rounds until the time is up.

A soak is a module with a class that derives from `Soak` and a last line that calls `run`:

    class Nights(Soak):
        def round(self, number: int) -> Iterator[str]:
            ...

    if __name__ == "__main__":
        sys.exit(run(Nights, __doc__))
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipeline.runtime.failpoints import POINTS, VARIABLE

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "pipeline" / "shipped" / "digits"
OUTPUTS = ("transcripts", "emissions", "features")
ALL_OUTPUTS = (f"outputs=[{','.join(OUTPUTS)}]", "features.layers=[2,4]")
TABLES = (*OUTPUTS, "failures")
COMPLETE, ERROR, REFUSED, FAILURES = 0, 1, 2, 3
LONGEST_S = 300.0
"""A run that has not ended by then hangs."""
KILLING_POINTS = tuple(point for point in POINTS if point not in ("decode", "decoded"))
"""Failpoints without those of the loader's process, where a kill costs the recording, as it should."""


class Difference(Exception):
    """A promise is broken."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Difference(what)


class Soak(ABC):
    """Something that is done at random in rounds, and checked after each.

    Attributes:
        settings: What all of its runs are given besides `run_dir`.
        complete: The exit codes of a run that completes.
        given_up: The exit codes of a run that gives up because too many of its worker processes died.
    """

    settings: tuple[str, ...] = ("dataset=folder", "model=digits", "stages=[manifest,infer,score]")
    complete: tuple[int, ...] = (COMPLETE,)
    given_up: tuple[int, ...] = ()

    def __init__(self, work: Path, chance: random.Random, given: argparse.Namespace) -> None:
        """Prepare under `work`. Every choice is drawn from `chance`; `given` are the arguments."""
        self.work, self.chance, self.given = work, chance, given

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of every soak; a soak with more adds them after these."""
        parser.add_argument("--minutes", type=float, default=3.0, help="begin no other round after that long")
        parser.add_argument("--rounds", type=int, default=None, help="rounds at most")
        parser.add_argument("--seed", type=int, default=None, help="default: another every time")

    @abstractmethod
    def round(self, number: int) -> Iterator[str]:
        """Do and check one round, the first is number 0; yields a few words for each thing done, which are counted.

        Raises:
            Difference: A promise is broken.
        """

    @abstractmethod
    def summary(self, rounds: int) -> str:
        """What to say at the end, where no promise was broken."""

    def start(self, run_dir: Path, *overrides: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a run in a process group of its own."""
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
        command = [sys.executable, "-m", "pipeline.run", *self.settings, f"run_dir={run_dir}", *overrides]
        with open(self.work / "output.txt", "ab") as output:
            return subprocess.Popen(
                command, cwd=self.work, env=env, stdout=output, stderr=output, start_new_session=True
            )

    def finish(self, run_dir: Path, *overrides: str) -> int:
        """Do a run; returns its exit code."""
        return self.start(run_dir, *overrides).wait(LONGEST_S)

    def run_to_failpoint(self, run_dir: Path, *overrides: str, most: int, once: tuple[str, ...] = ()) -> str:
        """Start a run that is killed where it reaches a failpoint for the n-th time, with n up to `most`."""
        name = self.chance.choice(KILLING_POINTS)
        count = 1 if name in once else self.chance.randint(1, most)
        process = self.start(run_dir, *overrides, **{VARIABLE: f"{name}@{count}"})
        code = process.wait(LONGEST_S)
        check(code in (-signal.SIGKILL, *self.complete, *self.given_up), f"exit code {code} at failpoint {name}")
        kill_group(process)
        return "failpoint not reached" if code in self.complete else "killed at a failpoint"


def run(kind: type[Soak], page: str | None) -> int:
    """Do rounds until the time is up, and say what was done; returns the exit code.

    Args:
        kind: The soak.
        page: The docstring of its module; the first line is the description for `--help`.
    """
    parser = argparse.ArgumentParser(description=(page or "").splitlines()[0])
    kind.add_arguments(parser)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    console = Console(highlight=False)
    console.print(f"seed {seed}")
    work = Path(tempfile.mkdtemp(prefix=f"soak-{kind.__name__.lower()}-"))
    end = time.monotonic() + 60 * given.minutes
    done: Counter[str] = Counter()
    rounds = 0
    try:
        soak = kind(work, random.Random(seed), given)
        while rounds == 0 or (time.monotonic() < end and rounds != given.rounds):
            done.update(soak.round(rounds))
            rounds += 1
    except Difference as difference:
        console.print(f"DIFFERENT with --seed {seed}: {difference}; after {dict(done)}; see {work}", soft_wrap=True)
        return 1
    shutil.rmtree(work)
    table = Table("what was done", "times")
    for what, times in done.most_common():
        table.add_row(what, str(times))
    console.print(table)
    console.print(f"{soak.summary(rounds)}; seed {seed}", soft_wrap=True)
    return 0


# --- corpora and tables


def link_digits(folder: Path, recordings: int) -> None:
    """Link the shipped recordings into a folder, each several times under other names, with references beside them."""
    with open(DIGITS / "transcripts.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for index in range(recordings):
        row = rows[index % len(rows)]
        source = DIGITS / row["file_name"]
        link = folder / f"{index // len(rows)}" / source.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
        link.with_suffix(".txt").write_text(row["transcript"])


def ids(table: Path) -> Counter[str]:
    """How often each id is in a table, a file or a folder of files."""
    return Counter(pq.read_table(table, columns=["id"])["id"].to_pylist())


def texts(run_dir: Path) -> dict[str, str]:
    """The text of each id."""
    rows = pq.read_table(run_dir / "transcripts", columns=["id", "text"]).to_pylist()
    return {row["id"]: row["text"] for row in rows}


def contents(run_dir: Path) -> dict[str, bytes]:
    """Every published file of tables, commits and scores."""
    found = {
        path.relative_to(run_dir).as_posix(): path.read_bytes()
        for table in (*TABLES, "commits")
        for path in (run_dir / table).glob("*")
    }
    scores = run_dir / "scores.parquet"
    return found | ({"scores.parquet": scores.read_bytes()} if scores.is_file() else {})


def check_readable(run_dir: Path, damaged: set[str]) -> None:
    """Whatever has been interrupted, the public files are whole and no id is there twice."""
    for table in TABLES:
        rows: Counter[tuple[object, ...]] = Counter()
        for path in (run_dir / table).glob("*.parquet"):
            if path.stem in damaged:
                continue
            content = pq.read_table(path)
            keys = [name for name in ("id", "layer", "part") if name in content.column_names]
            rows.update(zip(*(content[key].to_pylist() for key in keys), strict=True))
        check(all(count == 1 for count in rows.values()), f"a row twice in {table}")


# --- processes


def send(process: subprocess.Popen[bytes], signum: int) -> None:
    """Signal a run and everything it started, if it is still there."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a run and everything it started."""
    send(process, signal.SIGKILL)
    process.wait(LONGEST_S)
    check_no_process(process)


def check_no_process(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """No process of the run's group is left, or soon none."""
    end = time.monotonic() + patience_s
    while group_members(process.pid):
        check(time.monotonic() < end, f"processes left behind: {group_members(process.pid)}")
        time.sleep(0.01)


def group_members(group: int) -> list[int]:
    """Processes of a group that are not zombies."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state != "Z":
                members.append(int(entry.name))
    return members
