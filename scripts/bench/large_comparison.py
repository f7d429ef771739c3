"""Make two runs of a large corpus with invented results, and measure their comparison: time and memory.

Example:
    python scripts/bench/large_comparison.py /tmp/large --utterances 1000000

The runs have the same utterances in another order and in other shards, so each block of one run meets every shard of
the other. The utterances have two thousand different references of fifteen words.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.scoring.counting import COUNTED_AFTER, count_columns
from pipeline.storage import manifest as manifests
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.committing import commit
from pipeline.storage.identity import Identity
from pipeline.storage.names import RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
REFERENCES, WORDS = 2_000, 15
OWN = {"speaker": "string", "room": "string"}


def make_run(folder: Path, utterances: int, order: np.ndarray, shard_rows: int, wrong: float) -> None:
    """A run with transcripts alone, in which a word is wrong with the probability `wrong`."""
    rng = np.random.default_rng(1)
    said = rng.integers(10, size=(REFERENCES, WORDS))
    rng = np.random.default_rng(shard_rows)
    heard = np.where(rng.random(said.shape) < wrong, rng.integers(10, size=said.shape), said)
    references, texts = ([" ".join(DIGITS[each] for each in row) for row in rows] for rows in (said, heard))
    pool = pa.table({"text": texts, "reference": references} | count_columns(texts, references)[0])
    directory = RunDirectory(folder)
    record = RunRecord(
        Identity(1, "none", "made_up", "none", "fp32", ("transcripts",), "mix", 60.0, 4.0, "none", "none"),
        None, None, {}, "cpu", "",
    )  # fmt: skip
    schema = tables.transcripts_schema(tables.manifest_schema(OWN))
    manifest = tables.manifest_schema(OWN).empty_table()
    manifests.write(directory, manifests.Manifest(manifest, "none"), {"dataset": "made_up"})
    directory.write(RUN_JSON, record.encode())
    for shard, first in enumerate(range(0, utterances, shard_rows)):
        numbers = order[first : first + shard_rows]
        columns = dict(zip(pool.column_names, pool.take(numbers % REFERENCES), strict=True))
        columns |= {
            "id": [f"speaker{number % 97:03d}/utterance-{number:07d}.flac" for number in numbers],
            "path": [f"/corpus/speaker{number % 97:03d}/utterance-{number:07d}.flac" for number in numbers],
            "speaker": [f"speaker{number % 97:03d}" for number in numbers],
            "num_frames": pa.array(np.full(len(numbers), 300), pa.int32()),
            "room": [f"rm{number % 4}" for number in numbers],
        }
        rows = [columns.get(field.name, pa.nulls(len(numbers), field.type)) for field in schema]
        staging = directory.new_staging(shard)
        staged = {"transcripts": staging / "transcripts.parquet", "failures": staging / "failures.parquet"}
        with tables.open_writer(staged["transcripts"], schema, COUNTED_AFTER) as writer:
            writer.write_table(pa.table(rows, schema=schema))
        with tables.open_writer(staged["failures"], tables.FAILURES) as writer:
            writer.write_table(tables.failures_table(()))
        done = CommitRecord(shard, record.fingerprint, {}, len(numbers), 0.0, {})
        commit(directory, done, staged, columns["id"], {"transcripts": 1})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    options = parser.parse_args()
    runs = [options.folder / name for name in ("a", "b")]
    if not runs[0].exists():
        shuffled = np.random.default_rng(0).permutation(options.utterances)
        make_run(runs[0], options.utterances, np.arange(options.utterances), 1_000, 0.10)
        make_run(runs[1], options.utterances, shuffled, 1_300, 0.12)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "pipeline.compare", *map(str, runs)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    took_s = time.monotonic() - started
    print(f"{options.utterances:,} utterances: {took_s:.0f} s, memory {usage.ru_maxrss / 2**20:.2f} GiB at most")


if __name__ == "__main__":
    main()
