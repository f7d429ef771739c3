"""Kill, stop, break and damage runs at random until the time is up, and check their tables.

    python scripts/soak.py --minutes 3 --seed 7          or: make soak ARGS="--minutes 60"
    python scripts/soak.py --only renamed,lock_file      or: make soak ARGS="--only formats --damaged 300"

First the script runs a corpus of the shipped recordings without a disturbance. Then it disturbs one run directory
after another, a few times each, and resumes each run until it is complete. Its tables must equal those of the
undisturbed run, byte for byte. The seed determines every disturbance; the moment of a disturbance depends on the
machine. If tables differ, the script keeps the run directory, prints the seed, and ends with exit code 1.

`--only` chooses kinds of disturbance. `formats` stands alone: it runs a folder with many damaged files of every format
among good ones, and checks that each file has one row and that the good ones are transcribed as without the others.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline.runtime.failpoints import POINTS, VARIABLE
from pipeline.storage.commits import read_record

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ROOT / "tests" / "data" / "formats"
DIGITS = ROOT / "pipeline" / "shipped" / "digits"
OUTPUTS = ("transcripts", "emissions", "features")
TABLES = (*OUTPUTS, "failures")
CLEAN = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
COMPLETE, ERROR, REFUSED, FAILURES = 0, 1, 2, 3
ENCODED = ("AIFF", "AU", "AVR", "CAF", "FLAC", "HTK", "IRCAM", "MP3", "NIST", "OGG", "PAF", "PVF", "RF64", "SDS", "SVX",
           "VOC", "W64", "WAV", "WAVEX", "XI")  # fmt: skip
LONGEST_S = 300.0
"""A run that has not ended by then hangs."""
ONCE = ("manifest", "manifest-written", "run-json", "run-json-written", "retract", "retracted", "scores", "scored")
"""Points that one run reaches once, if at all."""
IN_THE_LOADER = ("decode", "decoded")
"""Reached in the loader's process, where a kill would cost the recording, as it should."""


class Difference(Exception):
    """A promise is broken."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Difference(what)


def make_corpus(folder: Path, recordings: int) -> None:
    """Links to the shipped recordings, each several times under other names, with references beside them."""
    with open(DIGITS / "transcripts.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for index in range(recordings):
        row = rows[index % len(rows)]
        source = DIGITS / row["file_name"]
        link = folder / f"{index // len(rows)}" / source.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
        link.with_suffix(".txt").write_text(row["transcript"])


class Soak:
    """The undisturbed run, and what can be done to another."""

    def __init__(self, work: Path, recordings: int, chance: random.Random, workers: int = 1) -> None:
        """Make the corpus and the undisturbed run under `work`, which one process computes."""
        self.work = work
        self.workers = 1
        self.chance = chance
        make_corpus(work / "corpus", recordings)
        self.reference = work / "undisturbed"
        began = time.monotonic()
        code = self.start(self.reference).wait(LONGEST_S)
        check(code == COMPLETE, f"the undisturbed run ended with {code}")
        self.whole_s = time.monotonic() - began
        self.expected = contents(self.reference)
        check(len(self.shards(self.reference)) >= 5, "too few shards to disturb")
        self.workers = workers

    def shards(self, run_dir: Path) -> list[Path]:
        return sorted((run_dir / "commits").glob("shard-*.json"))

    @property
    def workers_died(self) -> tuple[int, ...]:
        """The exit codes of a run that gives up because too many of its workers died."""
        return (ERROR,) if self.workers > 1 else ()

    def start(self, run_dir: Path, *overrides: str, **variables: str) -> subprocess.Popen[bytes]:
        """A run in a process group of its own."""
        given = [
            "dataset=folder", f"dataset.root={self.work / 'corpus'}", "model=digits", f"run_dir={run_dir}",
            f"outputs=[{','.join(OUTPUTS)}]", "features.layers=[2,4]", "shard.hours=0.001",
            "stages=[manifest,infer,score]", f"executor.workers={self.workers}", *overrides,
        ]  # fmt: skip
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
        with open(self.work / "output.txt", "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "pipeline.run", *given],
                cwd=self.work, env=env, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    # --- what can happen: each says what it did, and ends with no process left

    def kill(self, run_dir: Path) -> str:
        process = self.start(run_dir)
        self.sleep(process)
        kill_group(process)
        return "killed after a while"

    def kill_at_failpoint(self, run_dir: Path) -> str:
        name = self.chance.choice([point for point in POINTS if point not in IN_THE_LOADER])
        count = 1 if name in ONCE else self.chance.randint(1, 4)
        process = self.start(run_dir, **{VARIABLE: f"{name}@{count}"})
        code = process.wait(LONGEST_S)
        check(code in (-signal.SIGKILL, COMPLETE, *self.workers_died), f"exit code {code} at failpoint {name}")
        kill_group(process)
        return "killed at a failpoint" if code else "failpoint not reached"

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
        check(code in (COMPLETE, FAILURES, *self.workers_died), f"exit code {code} after the death of descendants")
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
        whole = len(self.shards(run_dir)) == len(self.shards(self.reference))
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

    # --- rounds

    def round(self, number: int, disturbances: int, kinds: Sequence[str]) -> Iterator[str]:
        """Disturb one run directory until it happens to be complete, else let it complete; yields what was done."""
        run_dir = self.work / f"disturbed-{number}"
        damaged: set[str] = set()
        for _ in range(disturbances):
            if (run_dir / "scores.parquet").exists():
                break  # complete: there is nothing left to disturb
            before = {path.stem: read_record(path.read_bytes()) for path in self.shards(run_dir)}
            kind = self.chance.choice([kind for kind in kinds if kind != "damage"] or ["kill"])
            yield KINDS[kind](self, run_dir)
            check_readable(run_dir, damaged)
            now = {path.stem: read_record(path.read_bytes()) for path in self.shards(run_dir)}
            kept = {shard for shard, record in before.items() if shard not in damaged and record is not None}
            check(all(now.get(shard) == before[shard] for shard in kept), "a committed shard was done again")
            if "damage" in kinds and self.chance.random() < 0.3:
                state = contents(run_dir)
                yield self.damage(run_dir)
                damaged |= {Path(path).stem for path in state if contents(run_dir).get(path) != state[path]}
        code = self.start(run_dir, "retry_failed=true").wait(LONGEST_S)
        check(code == COMPLETE, f"the last run ended with {code}")
        self.compare(run_dir)
        shutil.rmtree(run_dir)
        yield "completed and compared"

    def formats(self, number: int, each: int) -> str:
        """Run `each` damaged files of every format among the good recordings."""
        root, run_dir = self.work / f"formats-{number}", self.work / f"formats-{number}-run"
        shutil.copytree(self.work / "corpus", root, symlinks=True)
        samples, rate = soundfile.read(DIGITS / "george-1digits-00.flac")
        whole = {name: encoded(samples, rate, name) for name in ENCODED}
        whole |= {
            path.name: path.read_bytes() for path in FORMATS.iterdir() if path.suffix not in (".md", ".json", ".npz")
        }
        for name, data in whole.items():
            for index in range(each):
                damaged = root / "damaged" / f"{name.replace('.', '-')}-{index}.wav"
                damaged.parent.mkdir(exist_ok=True)
                damaged.write_bytes(self.damaged(data))
        code = self.start(run_dir, f"dataset.root={root}", "shard.hours=0.05").wait(LONGEST_S * max(1, each // 50))
        check(code == FAILURES, f"exit code {code} of a folder with damaged files")
        good = {
            path: {row["id"]: row for row in pq.read_table(path / "transcripts", columns=["id", "text"]).to_pylist()}
            for path in (self.reference, run_dir)
        }
        wrong = [id_ for id_, row in good[self.reference].items() if good[run_dir].get(id_) != row]
        check(not wrong, f"damaged files changed other recordings: {wrong[:5]}")
        manifest = Counter(pq.read_table(run_dir / "manifest.parquet", columns=["id"])["id"].to_pylist())
        failed = Counter(pq.read_table(run_dir / "failures", columns=["id"])["id"].to_pylist())
        check(Counter(good[run_dir].keys()) + failed == manifest, "not every damaged file has one row")
        shutil.rmtree(root)
        shutil.rmtree(run_dir)
        return f"{len(whole)} formats with {each} damaged files each"

    def damaged(self, data: bytes) -> bytes:
        """Some bytes changed, cut out or put in, mostly where headers are."""
        content = bytearray(data)
        for _ in range(self.chance.randint(1, 4)):
            place = self.chance.randrange(max(1, min(len(content), self.chance.choice((60, 400, len(content))))))
            junk = self.chance.choice((b"\0" * 4, b"\xff" * 4, self.chance.randbytes(self.chance.randint(1, 200))))
            content[place : place + self.chance.choice((0, len(junk), len(content)))] = junk
        return bytes(content)

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
        manifest = Counter(pq.read_table(run_dir / "manifest.parquet", columns=["id"])["id"].to_pylist())
        failed = Counter(pq.read_table(run_dir / "failures", columns=["id"])["id"].to_pylist())
        for table, rows in zip(OUTPUTS, (1, 1, 2), strict=True):
            ids = Counter(pq.read_table(run_dir / table, columns=["id"])["id"].to_pylist())
            check(all(count == rows for count in ids.values()), f"an id twice in {table}")
            check(Counter(set(ids)) + failed == manifest, f"{table} does not account for every id")
        left = sorted(path.name for path in (run_dir / ".staging").iterdir())
        check(left == ["lock"], f"left in .staging: {left}")


KINDS: dict[str, Callable[[Soak, Path], str]] = {
    kind.__name__: kind
    for kind in (
        Soak.kill, Soak.kill_at_failpoint, Soak.fail, Soak.stop, Soak.stop_twice, Soak.two_drivers, Soak.frozen,
        Soak.descendants, Soak.renamed, Soak.lock_file, Soak.damage,
    )
}  # fmt: skip
"""The kinds of disturbance by name."""


def encoded(samples: NDArray[np.float64], rate: int, format_: str) -> bytes:
    """The samples in a format of libsndfile, with its default subtype."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format_, subtype="DPCM_16" if format_ == "XI" else None)
    return buffer.getvalue()


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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="begin no other run directory after that long")
    parser.add_argument("--seed", type=int, default=None, help="default: another every time")
    parser.add_argument("--recordings", type=int, default=300)
    parser.add_argument("--workers", type=int, default=1, help="processes that compute, in a disturbed run")
    parser.add_argument("--disturbances", type=int, default=8, help="in one run directory")
    parser.add_argument("--rounds", type=int, default=None, help="run directories at most")
    parser.add_argument(
        "--only", default=",".join(KINDS), help=f"kinds of disturbance, some of {','.join(KINDS)},formats"
    )
    parser.add_argument("--damaged", type=int, default=20, help="damaged files of each format, for --only formats")
    given = parser.parse_args()
    kinds = given.only.split(",")
    if unknown := {*kinds} - {*KINDS, "formats"}:
        parser.error(f"--only {','.join(sorted(unknown))}: not among {','.join(KINDS)},formats")
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    console = Console(highlight=False)
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    end = time.monotonic() + 60 * given.minutes
    done: Counter[str] = Counter()
    rounds = 0
    try:
        soak = Soak(work, given.recordings, random.Random(seed), given.workers)
        console.print(f"seed {seed}: {len(soak.shards(soak.reference))} shards, undisturbed in {soak.whole_s:.1f} s")
        while rounds == 0 or (time.monotonic() < end and rounds != given.rounds):
            if kinds == ["formats"]:
                done.update([soak.formats(rounds, given.damaged)])
            else:
                done.update(soak.round(rounds, given.disturbances, [kind for kind in kinds if kind != "formats"]))
            rounds += 1
    except Difference as difference:
        console.print(f"DIFFERENT with --seed {seed}: {difference}; after {dict(done)}; see {work}", soft_wrap=True)
        return 1
    shutil.rmtree(work)
    table = Table("what was done", "times")
    for what, times in done.most_common():
        table.add_row(what, str(times))
    console.print(table)
    console.print(f"{rounds} run directories, each equal to the undisturbed run; seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
