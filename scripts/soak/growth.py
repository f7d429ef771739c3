"""Let a corpus and the outputs asked for change at random, kill the runs, and check every row until the time is up.

    python scripts/soak/growth.py --minutes 3 --seed 7          or: make soak-growth ARGS="--minutes 60"

Each night recordings are added, removed, brought back or replaced, references are written, and the run is asked for
other outputs and layers. The run of the night is killed at a random moment or failpoint; the same command again
completes it. Then each recording must have the text of the file that it was, the reference that stands beside it, and
each array once, and `verify` must find nothing. The seed determines every change. If a row is wrong, the script keeps
its folder, prints the seed, and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from harness import COMPLETE, DIGITS, FAILURES, ROOT, Soak, check, kill_group, run, texts

from pipeline.scoring.counting import count_errors

SOURCES = sorted(DIGITS.glob("*.flac"))
ARRAYS = ("emissions", "features")
SAID = ("one", "two", "three four", "nine", "zero zero")


class Nights(Soak):
    """A corpus, the run over it, and what is known of both.

    Attributes:
        files: The source of each recording that is there, by name.
        computed: The source of which each recording has a result.
        removed: Recordings that were removed, with their source.
        references: The text beside each recording.
    """

    complete = (COMPLETE, FAILURES)

    def __init__(self, work: Path, chance: random.Random, given: argparse.Namespace) -> None:
        """Run all sources once, to know their texts."""
        super().__init__(work, chance, given)
        self.corpus, self.out = work / "corpus", work / "out"
        self.corpus.mkdir()
        self.settings += (f"dataset.root={self.corpus}", "device=cpu", "shard.hours=0.002")
        self.files: dict[str, Path] = {}
        self.computed: dict[str, Path] = {}
        self.removed: dict[str, Path] = {}
        self.references: dict[str, str] = {}
        code = self.finish(work / "known", f"dataset.root={DIGITS}", "outputs=[transcripts]")
        check(code == COMPLETE, f"the run over the sources ended with {code}")
        self.texts = {DIGITS / name: text for name, text in texts(work / "known").items()}

    def summary(self, rounds: int) -> str:
        return f"{rounds} nights, {len(self.files)} recordings, every row right"

    def round(self, number: int) -> Iterator[str]:
        """Change the corpus, disturb the run over it, complete the run, and check every row."""
        for _ in range(self.chance.randint(1, 12)):
            self.change()
        redo = self.chance.random() < 0.4
        outputs = ["transcripts", *(table for table in ARRAYS if self.chance.random() < 0.4)]
        layers = sorted(self.chance.sample(range(1, 5), self.chance.randint(1, 2)))
        asked = [f"outputs=[{','.join(outputs)}]", f"features.layers=[{','.join(map(str, layers))}]"]
        asked += ["redo_changed=true"] * redo + ["retry_failed=true"] * (self.chance.random() < 0.2)
        if self.chance.random() < 0.5:
            yield self.run_to_failpoint(self.out, *asked, most=5)
        else:
            yield self.kill_after(self.chance.uniform(0.3, 3.0), asked)
        code = self.finish(self.out, *asked)
        check(code in self.complete, f"exit code {code}")
        self.compare(redo)
        for table in outputs[1:]:
            self.compare_arrays(table, layers if table == "features" else [None])
        yield "completed and checked"

    def kill_after(self, seconds: float, asked: list[str]) -> str:
        process = self.start(self.out, *asked)
        try:
            process.wait(seconds)
            return "completed before the kill"
        except subprocess.TimeoutExpired:
            kill_group(process)
            return "killed after a while"

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

    def compare(self, redo: bool) -> None:
        manifest = {row["id"]: row for row in pq.read_table(self.out / "manifest.parquet").to_pylist()}
        rows = {row["id"]: row for row in pq.read_table(self.out / "transcripts").to_pylist()}
        failed = pq.read_table(self.out / "failures", columns=["id"])["id"].to_pylist()
        check(manifest.keys() >= self.files.keys(), "a recording is not in the manifest")
        check(len(rows) == pq.read_table(self.out / "transcripts").num_rows, "a transcript is doubled")
        check(len({*failed}) == len(failed), "a failure is doubled")
        check({*rows, *failed} == {*manifest}, "an id is missing")
        shards = Counter(row["shard"] for row in manifest.values() if row.get("vanished_at"))
        for name, source in self.files.items():
            check(not manifest[name].get("vanished_at"), f"{name}: vanished, though it is there")
            if name in failed:
                continue  # it was removed before everything was computed
            allowed = {source, self.computed.get(name, source)}
            if redo and not shards[manifest[name]["shard"]]:
                allowed = {source}
            texts = {self.texts[each] for each in allowed}
            check(rows[name]["text"] in texts, f"{name}: {rows[name]['text']!r} instead of {texts}")
            reference = self.references.get(name)
            check(rows[name]["reference"] == reference, f"{name}: reference {rows[name]['reference']!r}")
            if reference is not None:
                errors = count_errors(rows[name]["text"], reference).word_errors
                check(rows[name]["word_errors"] == errors, f"{name}: counts are old")
            if rows[name]["text"] == self.texts[source]:
                self.computed[name] = source
        self.verify()

    def compare_arrays(self, table: str, layers: Sequence[int | None]) -> None:
        """Check that each utterance that did not fail has one array, of as many frames as its transcript says."""
        columns = ["id", "num_frames", *(["layer"] if table == "features" else [])]
        arrays = pq.read_table(self.out / table, columns=columns).to_pylist()
        found = {(row["id"], row.get("layer")): row["num_frames"] for row in arrays}
        check(len(found) == len(arrays), f"{table}: an array is doubled")
        failed = {*pq.read_table(self.out / "failures", columns=["id"])["id"].to_pylist()}
        for row in pq.read_table(self.out / "transcripts", columns=["id", "num_frames"]).to_pylist():
            for layer in layers if row["id"] not in failed else ():
                frames = found.get((row["id"], layer))
                check(frames == row["num_frames"], f"{row['id']}: {frames} frames of {table} {layer or ''}")

    def verify(self) -> None:
        checked = subprocess.run(
            [sys.executable, "-m", "pipeline.verify", str(self.out)],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        check(checked.returncode == 0, checked.stdout)


if __name__ == "__main__":
    sys.exit(run(Nights, __doc__))
