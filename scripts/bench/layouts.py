"""The two layouts of arrays beside each other: MB of float16 features that a core writes, reads and checks per second.

Example:
    python scripts/bench/layouts.py

The layouts take turns. The seconds are CPU seconds of the process, so a second thread does not improve a figure, and
waiting for the disk does not spoil it. The values are normal random numbers, which zstd makes 8 % smaller, as it does
real features.
"""

from __future__ import annotations

import shutil
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import Table, parser, prepared, publish, say

from pipeline.inference.shard_tables import ShardTables, TableSettings
from pipeline.records import ArrayPart, Chunk, Emission
from pipeline.results.arrays import read_arrays
from pipeline.storage import tables
from pipeline.storage.layouts import FEATURES, LAYOUTS
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.arrays import check_arrays

FRAMES = 450
"""Of an utterance: nine seconds."""
SHAPES = ((768, 12), (1024, 24))
"""Width and layers of a base and of a large model."""
COLUMNS = ("encoding a table", "a shard, from arrays to the commit", "reading", "checking", "stored size")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--megabytes", type=int, help="of features in a shard; None: 400")
    options = made.parse_args()
    options.megabytes = options.megabytes or (2 if options.quick else 400)
    with prepared(options) as work:
        about = f"Shards of {options.megabytes} MB, utterances of nine seconds; medians of {options.rounds} rounds."
        table = Table("Float16 features, MB of values for a CPU second", ["layout", *COLUMNS], notes=[about])
        for dim, layers in SHAPES:
            found: dict[str, list[list[float]]] = {layout: [] for layout in LAYOUTS}
            for _ in range(options.rounds):
                for layout in LAYOUTS:
                    found[layout].append(measure(options, work / "run", dim, layers, layout))
                    say(f"{layout}, {dim} x {layers}: {[round(value, 2) for value in found[layout][-1]]}")
            for layout in LAYOUTS:
                *rates, size = (statistics.median(values) for values in zip(*found[layout], strict=True))
                table.add(f"{layout}, {layers} layers of {dim}", *rates, f"{size:.0%}")
        publish("layouts", __doc__, [table], options, {table.title: table.rows})


def measure(options: Namespace, folder: Path, dim: int, layers: int, layout: str) -> list[float]:
    """MB for a CPU second of writing a table, writing a shard, reading and checking it; stored bytes for a byte."""
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    utterances = max(1, round(options.megabytes * 1e6 / (FRAMES * dim * 2 * layers)))
    arrays = [rng.standard_normal((FRAMES, dim), np.float32).astype(np.float16) for _ in range(16)]
    rows = [{"id": f"u{row:05d}", "path": "/u.wav", "duration_s": 9.0, "shard": 0} for row in range(utterances)]
    manifest = Manifest(pa.Table.from_pylist(rows, schema=tables.manifest_schema({})), digest="benchmark")
    numbers = tuple(range(1, layers + 1))
    settings = TableSettings(
        ("features",), numbers, "float16", "float32", 0, dim, {}, "benchmark", feature_layout=layout
    )
    directory = RunDirectory(folder)

    def write_table() -> None:
        group = [ArrayPart(row, 0, 0, arrays[row]) for row in range(16)]
        with tables.open_writer(folder / "t.parquet", tables.features_schema("float16", layout), {}, "feature") as out:
            for _ in range(max(1, utterances * layers // 16)):
                ids = [f"u{part.row:05d}" for part in group]
                out.write_table(tables.feature_rows(ids, 1, group, "float16", dim, layout))

    def write_shard() -> None:
        results = ShardTables(0, directory, manifest, settings)
        for row in range(utterances):
            features = {layer: arrays[(row + layer) % 16] for layer in numbers}
            results.add(Emission(Chunk(row, FRAMES * 320), FRAMES, None, features, None))
        results.commit()

    def read() -> None:
        for layer in numbers:
            for _ in read_arrays(stored, FEATURES, None, layer):
                pass

    size = utterances * layers * FRAMES * dim * 2
    written = max(1, utterances * layers // 16) * 16 * FRAMES * dim * 2
    folder.mkdir(parents=True)
    stored = directory.table("features", 0)
    rates = [
        written / cpu_seconds(write_table),
        size / cpu_seconds(write_shard),
        size / cpu_seconds(read),
        size / cpu_seconds(lambda: list(check_arrays(stored, FEATURES, "float16", layout))),
    ]
    return [*(rate / 1e6 for rate in rates), (directory.size(stored.name) or 0) / size]


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds that a call takes in this process, all threads together."""
    started = time.process_time()
    run()
    return max(time.process_time() - started, 1e-6)


if __name__ == "__main__":
    main()
