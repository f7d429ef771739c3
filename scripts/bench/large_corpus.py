"""Plan a list of millions of recordings, invent its results, and measure the commands on them: time and memory.

Example:
    python scripts/bench/large_corpus.py --counts 10000 100000 1000000 10000000

A Parquet list with made-up durations is planned by the command itself (`stages=[manifest]`); no recording but the first
exists. Then the project's own code commits transcripts of every shard, all of them from a pool of two thousand texts.
Each figure is that of a process of its own. Ten million rows need 8 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import ROOT, Table, environment, parser, prepared, publish, say

from pipeline.config import run_config
from pipeline.datasets import SHIPPED
from pipeline.scoring.counting import COUNTED_AFTER, count_columns
from pipeline.stages import identity
from pipeline.storage import manifest as manifests
from pipeline.storage import tables
from pipeline.storage.commits import CommitRecord
from pipeline.storage.committing import commit
from pipeline.storage.names import MANIFEST, RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord

RECORDING = SHIPPED / "digits" / "theo-6digits-34.flac"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
POOL, SPOKEN, LIST_ROWS, SECONDS = 2_000, 15, 100_000, 36.0
# A process of its own between the two: what a process has in memory counts as that of each process that it starts.
LAUNCH = """
import os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
took = time.monotonic() - started
print(os.waitstatus_to_exitcode(status), took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)
"""
LEFT = "from pathlib import Path; from pipeline.storage.run_directory import RunDirectory; "
LEFT += "print(len(RunDirectory(Path('RUN')).commits()), 'shards')"


def write_list(path: Path, rows: int) -> None:
    """Write a list with paths, ids, durations of 2 to 70 s, references and two columns of its own."""
    rng = np.random.default_rng(1)
    said = [" ".join(WORDS[word] for word in row) for row in rng.integers(10, size=(POOL, SPOKEN))]
    folder = path.parent / "audio"
    (folder / "speaker000").mkdir(parents=True, exist_ok=True)
    shutil.copy(RECORDING, folder / "speaker000" / "utterance-00000000.flac")
    writer = None
    for first in range(0, rows, LIST_ROWS):
        numbers = range(first, min(rows, first + LIST_ROWS))
        names = [f"speaker{number % 97:03d}/utterance-{number:08d}" for number in numbers]
        columns = {
            "id": names,
            "audio_filepath": [f"{folder}/{name}.flac" for name in names],
            "duration": np.round(rng.uniform(2, 2 * SECONDS - 2, len(names)), 3),
            "text": [said[number % POOL] for number in numbers],
            "speaker": [name[:10] for name in names],
            "room": [f"rm{number % 4}" for number in numbers],
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def asked(list_: Path, run: Path | str, hours: float) -> list[str]:
    """The settings of the run."""
    return [
        "dataset=manifest", f"dataset.path={list_}", "dataset.read_headers=false", f"run_dir={run}", "model=digits",
        "outputs=[transcripts]", f"shard.hours={hours}",
    ]  # fmt: skip


def make_results(settings: Sequence[str], run: Path) -> int:
    """Commit made-up transcripts of every shard; returns the number of shards."""
    directory = RunDirectory(run)
    manifest, _ = manifests.read(directory.manifest)
    config = run_config.load([*settings])
    described = identity.describe(config, manifest.digest, "fp32", config.source.fetch())
    weights = identity.weights_file(config.source, described.weights_sha256)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = RunRecord(described, weights, directory.file_record(MANIFEST), identity.versions(), "cpu", now)
    schema = tables.transcripts_schema(manifest.table.schema, audio_digests=True)
    pool = _pool(schema)
    for shard in range(manifest.num_shards):
        mine = manifest.rows_of_shard(shard)
        _commit(directory, record, schema, pool, shard, manifest.table.slice(mine.start, len(mine)))
        if shard % 1000 == 0:
            say(f"{shard:,} of {manifest.num_shards:,} shards committed")
    directory.write(RUN_JSON, replace(record, duplicates=0).encode())
    return manifest.num_shards


def _pool(schema: pa.Schema) -> pa.Table:
    """What the transcripts have of a model: texts, words with times, and errors in every tenth word."""
    rng = np.random.default_rng(2)
    said = np.random.default_rng(1).integers(10, size=(POOL, SPOKEN))
    heard = np.where(rng.random(said.shape) < 0.1, rng.integers(10, size=said.shape), said)
    references, texts = ([" ".join(WORDS[word] for word in row) for row in rows] for rows in (said, heard))
    timed = [
        [
            {"word": word, "start_s": 0.5 * n, "end_s": 0.5 * n + 0.3, "probability": 0.9}
            for n, word in enumerate(text.split())
        ]
        for text in texts
    ]
    columns: dict[str, Any] = {
        "num_frames": pa.array(np.full(POOL, 500), pa.int32()),
        "text": texts,
        "ctc_text": [text.replace(" ", "|") for text in texts],
        "avg_logprob": pa.array(-rng.random(POOL), pa.float32()),
        "words": pa.array(timed, schema.field("words").type),
    }
    return pa.table(columns | count_columns(texts, references)[0])


def _commit(
    directory: RunDirectory, record: RunRecord, schema: pa.Schema, pool: pa.Table, shard: int, rows: pa.Table
) -> None:
    numbers = [int(id_[-8:]) for id_ in rows["id"].to_pylist()]
    made = pool.take([number % POOL for number in numbers])
    columns = {name: rows[name] for name in rows.schema.names} | {name: made[name] for name in made.schema.names}
    columns[tables.AUDIO_DIGEST] = pa.chunked_array([[f"{number:032x}" for number in numbers]])
    empty = {field.name: pa.chunked_array([pa.nulls(len(rows), field.type)]) for field in schema}
    table = pa.Table.from_arrays([(empty | columns)[name] for name in schema.names], schema=schema)
    staging = directory.new_staging(shard)
    staged = {"transcripts": staging / "transcripts.parquet", "failures": staging / "failures.parquet"}
    with tables.open_writer(staged["transcripts"], schema, COUNTED_AFTER) as writer:
        writer.write_table(table.sort_by("id"))
    with tables.open_writer(staged["failures"], tables.FAILURES) as writer:
        writer.write_table(tables.failures_table(()))
    counts = {name: int(np.sum(table[name].to_numpy())) for name in ("word_errors", "reference_words")}
    audio_s = float(np.sum(rows["duration_s"].to_numpy()))
    done = CommitRecord(shard, record.fingerprint, {}, len(rows), audio_s, {}, counts)
    commit(directory, done, staged, rows["id"].to_pylist(), {"transcripts": 1})
    shutil.rmtree(staging)


def measured(what: str, command: Sequence[str], threads: int) -> list[float]:
    """Seconds, seconds of the processors, and GiB of a command."""
    asked_ = [sys.executable, "-c", LAUNCH, sys.executable, *command]
    done = subprocess.run(asked_, cwd=ROOT, env=environment(threads), stdout=subprocess.PIPE, text=True)
    code, *found = map(float, done.stdout.split())
    if code:
        raise SystemExit(f"{what}: exit code {code:.0f}")
    say(f"{what}: {found[0]:.1f} s, {found[1]:.1f} s of processors, {found[2]:.2f} GiB")
    return found


def figures(work: Path, rows: int, shards: int, threads: int) -> Iterator[tuple[str, list[float]]]:
    """Measure every command on a corpus of so many rows."""
    list_, run, other = work / "list.parquet", work / "run", work / "other"
    shutil.rmtree(run, ignore_errors=True)
    write_list(list_, rows)
    settings = asked(list_, run, rows * SECONDS / 3600 / shards)
    yield "plan", measured("plan", ["-m", "pipeline.run", *settings, "stages=[manifest]"], threads)
    say(f"{make_results(settings, run):,} shards")
    yield "what is left", measured("what is left", ["-c", LEFT.replace("RUN", str(run))], threads)
    yield "status", measured("status", ["-m", "pipeline.status", str(run)], threads)
    yield "score", measured("score", ["-m", "pipeline.run", *settings, "stages=[score]"], threads)
    yield "report", measured("report", ["-m", "pipeline.report", str(run)], threads)
    again = ["-m", "pipeline.run", *settings, "stages=[manifest,infer,score]"]
    yield "the command again", measured("the command again", [*again, "extend=off"], threads)
    yield "and the list again", measured("and the list again", again, threads)
    shutil.copytree(run, other, copy_function=os.link)
    yield "compare", measured("compare", ["-m", "pipeline.compare", str(run), str(other)], threads)
    shutil.rmtree(other)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--counts", type=int, nargs="+", help="rows; None: 10000 100000 1000000 10000000")
    made.add_argument("--keep", action="store_true", help="keep the last run, for compacting.py; needs --work")
    made.add_argument("--shards", type=int, help="about so many of each; None: a shard for 1,000 rows")
    options: argparse.Namespace = made.parse_args()
    options.counts = options.counts or ([200] if options.quick else [10_000, 100_000, 1_000_000, 10_000_000])
    table = Table("A list of many recordings", ["rows", "what", "shards", "s", "s of processors", "GiB"])
    everything: dict[str, Any] = {}
    with prepared(options) as work:
        for rows in options.counts:
            shards = options.shards or max(2, rows // 1_000)
            for what, found in figures(work, rows, shards, options.threads):
                everything[f"{rows} rows, {what}"] = found
                table.add(f"{rows:,}", what, shards, *found)
                publish("large_corpus", __doc__, [table], options, everything, complete=False)
        publish("large_corpus", __doc__, [table], options, everything)
        if not options.keep:
            shutil.rmtree(work / "run")


if __name__ == "__main__":
    main()
