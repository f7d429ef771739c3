"""Listing millions of recordings in a bucket: seconds and peak memory of dataset=folder, with an invented store.

Example:
    python scripts/bench/bucket_listing.py --counts 100000 1000000 10000000

The store answers list requests at once, a thousand keys in each. A store in a cloud takes about a tenth of a second for
each. Folders have a thousand recordings with a text beside each. Each figure is that of a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Table, environment, parser, prepared, publish
from large_corpus import LAUNCH

from pipeline.datasets.folder import Dataset, Options
from pipeline.runtime import remote_files

PAGE, FOLDER = 1_000, 1_000
LIST = "import sys, common, bucket_listing; bucket_listing.count(int(sys.argv[1]))"


class Store:
    """A bucket with so many recordings and their texts."""

    def __init__(self, recordings: int) -> None:
        self._recordings = recordings

    def exists(self, path: str) -> bool:
        """Say that there is what is asked for."""
        return True

    def split_path(self, path: str) -> tuple[str, str, None]:
        """Split a path as s3fs does."""
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, Prefix: str, Delimiter: str, ContinuationToken: int = 0, **_: Any) -> dict[str, Any]:
        """Return a page as S3 does."""
        folder = Prefix.removeprefix("calls/").strip("/")
        first, last = (0, self._recordings) if not folder else (int(folder) * FOLDER, (int(folder) + 1) * FOLDER)
        from_, to = (2 * n for n in (first, min(last, self._recordings)))
        begin = from_ + ContinuationToken
        keys = [key(number) for number in range(begin, min(begin + PAGE, to))] if folder or not Delimiter else []
        end = ContinuationToken + len(keys)
        return {"Contents": [{"Key": k} for k in keys], "IsTruncated": begin + PAGE < to, "NextContinuationToken": end}


def key(number: int) -> str:
    """Return the key of a file: a recording and its text by turns."""
    recording, is_text = divmod(number, 2)
    return f"calls/{recording // FOLDER:06d}/call-{recording:09d}.{'txt' if is_text else 'flac'}"


def utterances(recordings: int) -> Iterator[Any]:
    """Yield the utterances of such a bucket. Texts are found, but not read."""
    remote_files.filesystem = lambda url: Store(recordings)  # type: ignore[assignment, return-value]
    dataset = Dataset(Options(root="s3://bucket/calls"))
    dataset._reference = lambda found: dataset._text_beside(found.relative)  # type: ignore[method-assign]
    return dataset.utterances()


def count(recordings: int) -> None:
    """Check that every recording is found with its text."""
    found = sum(each.reference is not None for each in utterances(recordings))
    if found != recordings:
        raise SystemExit(f"{found:,} of {recordings:,} recordings were found with a text")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--counts", type=int, nargs="+", help="recordings; None: 100000 1000000 10000000")
    options: argparse.Namespace = made.parse_args()
    options.counts = options.counts or ([2_000] if options.quick else [100_000, 1_000_000, 10_000_000])
    table = Table("Recordings in a bucket", ["recordings", "s", "s of processors", "GiB"])
    everything: dict[str, Any] = {}
    with prepared(options):
        for recordings in options.counts:
            asked = [sys.executable, "-c", LAUNCH, sys.executable, "-c", LIST, str(recordings)]
            here = Path(__file__).parent
            done = subprocess.run(asked, cwd=here, env=environment(options.threads), stdout=subprocess.PIPE, text=True)
            code, *found = map(float, done.stdout.split())
            if code:
                raise SystemExit(f"{recordings:,} recordings: exit code {code:.0f}")
            everything[f"{recordings} recordings"] = found
            table.add(f"{recordings:,}", *found)
        publish("bucket_listing", __doc__, [table], options, everything)


if __name__ == "__main__":
    main()
