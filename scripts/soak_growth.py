"""Let a corpus grow, shrink and change at random, kill the runs over it, and check every row until the time is up.

    python scripts/soak_growth.py --minutes 3 --seed 7          or: make soak-growth ARGS="--minutes 60"

Each night recordings are added, removed, brought back or replaced, and references are written. The run of the night is
killed at a random moment or failpoint; the same command again completes it. Then each recording must have the text of
the file that it was, the reference that stands beside it, and `verify` must find nothing. The seed determines every
change. If a row is wrong, the script keeps its folder, prints the seed, and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.runtime.failpoints import POINTS, VARIABLE
from pipeline.scoring.counting import count_errors

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "pipeline" / "shipped" / "digits").glob("*.flac"))
SAID = ("one", "two", "three four", "nine", "zero zero")
LOADING = ("decode", "decoded")
"""Points in the loader's process, where a kill costs the recording, as it should."""


class Difference(Exception):
    """A promise is broken."""


class Nights:
    """A corpus, the run over it, and what is known of both.

    Attributes:
        files: The source of each recording that is there, by name.
        computed: The source of which each recording has a result.
        removed: Recordings that were removed, with their source.
        references: The text beside each recording.
    """

    def __init__(self, work: Path, chance: random.Random) -> None:
        """Run all sources once, to know their texts."""
        self.work, self.chance = work, chance
        self.corpus, self.out = work / "corpus", work / "out"
        self.corpus.mkdir()
        self.files: dict[str, Path] = {}
        self.computed: dict[str, Path] = {}
        self.removed: dict[str, Path] = {}
        self.references: dict[str, str] = {}
        code = self.run(f"dataset.root={SOURCES[0].parent}", f"run_dir={work / 'known'}")
        self.check(code == 0, f"the run over the sources ended with {code}")
        rows = pq.read_table(work / "known" / "transcripts", columns=["id", "text"]).to_pylist()
        self.texts = {SOURCES[0].parent / row["id"]: row["text"] for row in rows}

    def check(self, condition: object, what: str) -> None:
        if not condition:
            raise Difference(what)

    def run(self, *changed: str, failpoint: str = "", kill_after_s: float | None = None) -> int:
        given = [
            "dataset=folder", f"dataset.root={self.corpus}", "model=digits", "device=cpu", f"run_dir={self.out}",
            "outputs=[transcripts]", "shard.hours=0.002", "stages=[manifest,infer,score]", *changed,
        ]  # fmt: skip
        env = os.environ | {"PYTHONPATH": str(ROOT), VARIABLE: failpoint}
        with open(self.work / "output.txt", "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.run", *given], env=env, stdout=output, stderr=output
            )
        try:
            return process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def change(self) -> str:
        """Change the corpus in one way, and say which."""
        what = self.chance.choice(("add", "add", "add", "remove", "bring back", "replace", "describe", "describe"))
        name = f"{self.chance.randint(0, 3)}/r{self.chance.randint(0, 199):03d}.flac"
        there = sorted(self.files)
        if what == "add" and name not in self.files and name not in self.removed:
            self.put(name, self.chance.choice(SOURCES))
        elif what == "bring back" and self.removed:
            name = self.chance.choice(sorted(self.removed))
            self.put(name, self.removed.pop(name))
        elif what in ("remove", "replace", "describe") and len(there) > 3:
            name = self.chance.choice(there)
            if what == "remove":
                self.removed[name] = self.files.pop(name)
                (self.corpus / name).unlink()
            elif what == "replace":
                sizes = {path: path.stat().st_size for path in SOURCES}
                other = [path for path in SOURCES if sizes[path] != sizes[self.files[name]]]
                self.put(name, self.chance.choice(other))
            else:
                self.references[name] = self.chance.choice(SAID)
                (self.corpus / name).with_suffix(".txt").write_text(self.references[name])
        return what

    def put(self, name: str, source: Path) -> None:
        (self.corpus / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, self.corpus / name)
        self.files[name] = source

    def night(self) -> str:
        """Change the corpus, disturb the run over it, complete the run, and check every row."""
        for _ in range(self.chance.randint(1, 12)):
            self.change()
        redo = ["redo_changed=true"] if self.chance.random() < 0.4 else []
        if self.chance.random() < 0.5:
            point = self.chance.choice([point for point in POINTS if point not in LOADING])
            self.run(*redo, failpoint=f"{point}@{self.chance.randint(1, 5)}")
            how = "killed at a failpoint, or completed"
        else:
            self.run(*redo, kill_after_s=self.chance.uniform(0.3, 3.0))
            how = "killed after a while, or completed"
        code = self.run(*redo)
        self.check(code in (0, 3), f"exit code {code}")
        self.compare(bool(redo))
        return how

    def compare(self, redo: bool) -> None:
        manifest = {row["id"]: row for row in pq.read_table(self.out / "manifest.parquet").to_pylist()}
        rows = {row["id"]: row for row in pq.read_table(self.out / "transcripts").to_pylist()}
        failed = pq.read_table(self.out / "failures", columns=["id"])["id"].to_pylist()
        self.check(manifest.keys() >= self.files.keys(), "a recording is not in the manifest")
        self.check(sorted([*rows, *failed]) == sorted(manifest), "an id is missing or doubled")
        shards = Counter(row["shard"] for row in manifest.values() if row.get("vanished_at"))
        for name, source in self.files.items():
            self.check(not manifest[name].get("vanished_at"), f"{name}: vanished, though it is there")
            if name in failed:
                continue  # it was removed before it was computed
            allowed = {source, self.computed.get(name, source)}
            if redo and not shards[manifest[name]["shard"]]:
                allowed = {source}
            texts = {self.texts[each] for each in allowed}
            self.check(rows[name]["text"] in texts, f"{name}: {rows[name]['text']!r} instead of {texts}")
            reference = self.references.get(name)
            self.check(rows[name]["reference"] == reference, f"{name}: reference {rows[name]['reference']!r}")
            if reference is not None:
                errors = count_errors(rows[name]["text"], reference).word_errors
                self.check(rows[name]["word_errors"] == errors, f"{name}: counts are old")
            if rows[name]["text"] == self.texts[source]:
                self.computed[name] = source
        checked = subprocess.run(
            [sys.executable, "-m", "pipeline.verify", str(self.out)],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        self.check(checked.returncode == 0, checked.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="begin no other night after that long")
    parser.add_argument("--seed", type=int, default=None, help="default: another every time")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    work = Path(tempfile.mkdtemp(prefix="soak-growth-"))
    end = time.monotonic() + 60 * given.minutes
    done: Counter[str] = Counter()
    try:
        nights = Nights(work, random.Random(seed))
        while time.monotonic() < end or not done:
            done.update([nights.night()])
    except Difference as difference:
        print(f"DIFFERENT with --seed {seed}: {difference}; after {dict(done)}; see {work}")
        return 1
    shutil.rmtree(work)
    print(f"{done.total()} nights, {len(nights.files)} recordings, every row right: {dict(done)}; seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
