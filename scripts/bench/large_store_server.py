"""The server of `large_store.py`: moto's, in a process of its own, with the files of a folder as a bucket."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import common  # noqa: F401  # finds the packages
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from s3 import serving

from pipeline.storage.commits import CommittedFile, decode_record, encode_record

BUCKET, UTTERANCES = "bench", 10


def serve(folder: str) -> None:
    """Serve the files of a folder as a bucket. For each line of the input, say the requests and CPU seconds since."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    with serving() as store:
        backend.create_bucket(BUCKET, "us-east-1")
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.name != "lock"):
            name, data = path.relative_to(folder).as_posix(), path.read_bytes()
            if name.startswith("commits/"):
                data = with_arrays(data, lambda name: backend.put_object(BUCKET, f"run/{name}", bytes(16)))
            backend.put_object(BUCKET, f"run/{name}", data)
        print(json.dumps(store.environment()), flush=True)
        for _ in sys.stdin:
            print(json.dumps([len(store.requests), time.process_time()]), flush=True)


def with_arrays(data: bytes, put: Callable[[str], object]) -> bytes:
    """Return a commit record that has files of emissions and features too, and put these files."""
    record = decode_record(data)
    arrays = {table: f"{table}/shard-{record.shard:05d}.parquet" for table in ("emissions", "features")}
    for name in arrays.values():
        put(name)
    files = {table: CommittedFile(name, 16, "0" * 64, UTTERANCES) for table, name in arrays.items()}
    return encode_record(replace(record, files=record.files | files))


if __name__ == "__main__":
    serve(sys.argv[1])
