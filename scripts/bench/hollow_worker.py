"""A worker of `executor=local` that computes and writes nothing, for `cluster.py`. It says what a worker says."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

from pipeline.executors.processes.link import Link
from pipeline.executors.processes.messages import Finished
from pipeline.runtime.metrics import BatchMetrics
from pipeline.runtime.sandbox import end_with
from pipeline.storage.commits import CommitRecord, CommittedFile

FILES = {
    table: CommittedFile(f"{table}/shard-00000.parquet", 10, "0" * 64, 400) for table in ("transcripts", "failures")
}


def main() -> None:
    parent, connection, batches = map(int, sys.argv[1:])
    end_with(parent)
    link = Link(Connection(connection))
    link.begin()
    for shard in link.shards():
        for index in range(batches):
            link.batch(BatchMetrics(index, shard, 40, 0, 480.0, 474.0, 0.0, 0.03, 0.0, 0.001), 474.0, ())
        link.committed(CommitRecord(shard, "0" * 64, FILES, 400, 3600.0, {}, {"word_errors": 1}, "2026-01-01T00:00:00"))
    link.tell(Finished(()))
    link.finish()
    os._exit(0)


if __name__ == "__main__":
    main()
