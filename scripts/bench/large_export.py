"""Make runs of a large corpus with invented results, and measure exports: time and memory.

Example:
    python -m scripts.bench.large_export /tmp/large --utterances 1000000

An utterance of fifteen words is one of ten segments of a recording. The manifest of one run lists the segments of a
recording one after the other, that of the other run lists all segments in random order.
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

from pipeline.storage import manifest as manifests
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.committing import commit
from pipeline.storage.identity import Identity
from pipeline.storage.names import RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEXTS, WORDS, SEGMENTS, SEGMENT_S, SHARD_ROWS = 2_000, 15, 10, 6.0, 1_000
FORMATS = ("ctm", "srt", "kaldi")


def make_run(folder: Path, order: np.ndarray) -> None:
    """Write a run with transcripts alone; `order` has the numbers of the utterances as the manifest lists them."""
    said = np.random.default_rng(1).integers(10, size=(TEXTS, WORDS))
    directory = RunDirectory(folder)
    record = RunRecord(
        Identity(1, "none", "made_up", "none", "fp32", ("transcripts",), "mix", 60.0, 4.0, "none", "none"),
        None, None, {}, "cpu", "",
    )  # fmt: skip
    recording, segment = order // SEGMENTS, order % SEGMENTS
    columns = {
        "id": [f"talks/{each:06d}.flac#{part}" for each, part in zip(recording, segment, strict=True)],
        "path": [f"/corpus/talks/{each:06d}.flac" for each in recording],
        "start_s": segment * SEGMENT_S,
        "end_s": (segment + 1) * SEGMENT_S,
        "duration_s": np.full(len(order), SEGMENT_S),
        "sample_rate": pa.array(np.full(len(order), 16000), pa.int32()),
        "num_channels": pa.array(np.ones(len(order)), pa.int16()),
        "shard": pa.array(np.arange(len(order)) // SHARD_ROWS, pa.int32()),
    }
    schema = tables.manifest_schema({})
    rows = [columns.get(field.name, pa.nulls(len(order), field.type)) for field in schema]
    table = pa.table(rows, schema=schema)
    manifests.write(directory, manifests.Manifest(table, "none"), {"dataset": "made_up"})
    directory.write(RUN_JSON, record.encode())
    schema = tables.transcripts_schema(schema)
    for shard, first in enumerate(range(0, len(order), SHARD_ROWS)):
        mine = table.slice(first, SHARD_ROWS)
        texts = [[DIGITS[each] for each in said[number % TEXTS]] for number in order[first : first + SHARD_ROWS]]
        words = [
            [(word, start_s + 0.4 * index, start_s + 0.4 * index + 0.3, 0.9) for index, word in enumerate(text)]
            for text, start_s in zip(texts, mine["start_s"].to_pylist(), strict=True)
        ]
        keys = [field.name for field in tables.WORD]
        structs = [[dict(zip(keys, word, strict=True)) for word in row] for row in words]
        own = {"text": [" ".join(text) for text in texts], "words": pa.array(structs, pa.list_(tables.WORD))}
        rows = [
            own.get(name, mine[name] if name in ("id", "path", "duration_s") else pa.nulls(len(mine), type_))
            for name, type_ in zip(schema.names, schema.types, strict=True)
        ]
        staging = directory.new_staging(shard)
        staged = {"transcripts": staging / "transcripts.parquet", "failures": staging / "failures.parquet"}
        with tables.open_writer(staged["transcripts"], schema) as writer:
            writer.write_table(pa.table(rows, schema=schema))
        with tables.open_writer(staged["failures"], tables.FAILURES) as writer:
            writer.write_table(tables.failures_table(()))
        done = CommitRecord(shard, record.fingerprint, {}, len(mine), 0.0, {})
        commit(directory, done, staged, mine["id"].to_pylist(), {"transcripts": 1})


def measure(run: Path, format: str, out: Path) -> str:
    """Export a run in a process of its own."""
    command = [sys.executable, "-m", "pipeline.export", str(run), "--format", format, "--out", str(out)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    took_s = time.monotonic() - started
    memory = f"{usage.ru_maxrss / 2**20:.2f} GiB at most"
    return f"{run.name} {format}: {took_s:.0f} s, {usage.ru_utime:.0f} CPU seconds, memory {memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    options = parser.parse_args()
    numbers = np.arange(options.utterances)
    for name, order in (("in-order", numbers), ("shuffled", np.random.default_rng(0).permutation(numbers))):
        run = options.folder / name
        if not run.exists():
            make_run(run, order)
        for format in options.formats:
            print(measure(run, format, options.folder / "out" / f"{name}-{format}"), flush=True)


if __name__ == "__main__":
    main()
