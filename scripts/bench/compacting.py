"""Compact the transcripts of a run, and look one utterance up in the files of the shards and in the compacted ones.

Example:
    python scripts/bench/large_corpus.py --counts 1000000 --keep --work /tmp/large
    python scripts/bench/compacting.py /tmp/large/run

Each figure is that of a process of its own. An id is looked up in the middle of the corpus.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import Table, parser, prepared, publish
from large_corpus import measured

COMPACT = """
import sys; from pathlib import Path
from pipeline.stages.compact import compact; from pipeline.storage.run_directory import RunDirectory
directory = RunDirectory(Path(sys.argv[1]))
with directory.lock(): print(compact(directory, directory.commits(), ["transcripts"]))
"""
READERS = {
    "pyarrow": "import pyarrow.parquet as pq; found = pq.read_table(folder, filters=[('id', '=', id_)])",
    "DuckDB": "import duckdb; whole = duckdb.read_parquet(folder + '/*.parquet'); "
    "found = whole.filter(f'id = {id_!r}').fetchall()",
    "Polars": "import polars; whole = polars.scan_parquet(f'{folder}/*.parquet'); "
    "found = whole.filter(polars.col('id') == id_).collect()",
}
LOOK_UP = "import sys; folder, id_ = sys.argv[1:]; {read}; assert len(found) == 1"


def main() -> None:
    made = parser(__doc__)
    made.add_argument("run_dir", type=Path, help="a run with transcripts")
    options = made.parse_args()
    from pipeline.storage.run_directory import RunDirectory

    directory = RunDirectory(options.run_dir.resolve())
    del options.run_dir  # no result names a place on this machine
    ids = directory.manifest.read(["id"])["id"]
    id_, rows = ids[len(ids) // 2].as_py(), len(ids)
    table = Table("Compacted transcripts", ["what", "files", "s", "s of processors", "GiB"])
    everything: dict[str, Any] = {}
    with prepared(options):
        for name in ("compact", "compact again"):
            everything[name] = measured(name, ["-c", COMPACT, str(directory.root)], options.threads)
            table.add(name, len(directory.names("compacted-transcripts")), *everything[name])
        for folder in ("transcripts", "compacted-transcripts"):
            for reader, read in READERS.items():
                what = f"an id in {folder}, {reader}"
                command = ["-c", LOOK_UP.format(read=read), str(directory.locate(folder)), id_]
                everything[what] = measured(what, command, options.threads)
                table.add(what, len(directory.names(folder)), *everything[what])
        sizes = [
            sum(entry.stat().st_size for entry in directory.locate(folder).iterdir()) / 1e9
            for folder in ("transcripts", "compacted-transcripts")
        ]
        table.notes.append(f"{rows:,} rows; {sizes[0]:.2f} GB in the files of the shards, {sizes[1]:.2f} GB compacted.")
        publish("compacting", __doc__, [table], options, everything)


if __name__ == "__main__":
    main()
