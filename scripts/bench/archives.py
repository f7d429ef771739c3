"""Recordings in archives beside plain files: reading them on one core, and listing a tar of 100,000 members.

Example:
    python scripts/bench/archives.py

All contestants decode the same 16 kHz FLAC recordings of 2 to 16 s. "In order" is the order of the archive. "In
batches" is the hour of a shard in an order at random, because a batch has recordings of one length. The rivals stream,
or read in order. Times are CPU seconds of one process, the best of the rounds, from files that are in the page cache.
"""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import corpora
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import webdataset
from common import Table, parser, prepared, publish
from layouts import cpu_seconds

from pipeline.audio.archives import parquet
from pipeline.audio.archives.contents import list_archive, member_in
from pipeline.audio.archives.held import IN_ORDER_BYTES, LIMIT_BYTES, Held
from pipeline.audio.archives.members import Member
from pipeline.audio.waveforms import Extent, WaveformReader

GROUPS = (100, 1000)
"""Rows of a row group: what datasets writes for audio, and ten times as many."""


def make(folder: Path, count: int) -> dict[str, list[str]]:
    """Write the recordings in every form, and return their paths in it."""
    files = sorted(corpora.librispeech(folder / "files", count).iterdir())
    with (
        tarfile.open(folder / "x.tar", "w") as tar,
        zipfile.ZipFile(folder / "x.zip", "w") as plain,
        zipfile.ZipFile(folder / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for file in files:
            data = file.read_bytes()
            member = tarfile.TarInfo(file.name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            plain.writestr(file.name, data)
            deflated.writestr(file.name, data)
    found = {"files": [str(file) for file in files]}
    for title, name in (("tar", "x.tar"), ("zip, stored", "x.zip"), ("zip, deflated", "deflated.zip")):
        archive = str(folder / name)
        found[title] = [member_in(archive, entry).path for entry in list_archive(archive).entries]
    audio = pa.array([{"bytes": file.read_bytes(), "path": file.name} for file in files])
    for rows in GROUPS:
        path = folder / f"{rows}.parquet"
        pq.write_table(pa.table({"audio": audio}), path, row_group_size=rows)
        size = path.stat().st_size
        found[f"Parquet, {rows} rows a group"] = [
            Member("parquet", "audio", row, size, str(path)).path for row in range(len(files))
        ]
    return found


def read(paths: Iterable[str], limit_bytes: int) -> float:
    """Decode recordings; returns their length in seconds."""
    parquet.HELD = Held(limit_bytes)
    reader, total = WaveformReader(), 0.0
    for path in paths:
        samples, rate = reader.read(Extent(path))
        total += len(samples) / rate
    return total


def with_webdataset(folder: Path) -> float:
    """What a user of webdataset writes."""
    total = 0.0
    for sample in webdataset.WebDataset(str(folder / "x.tar"), shardshuffle=False):
        samples, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        total += len(samples) / rate
    return total


def with_datasets(folder: Path, *, streaming: bool) -> float:
    """What a user of datasets writes, with soundfile, as torchcodec may not be there."""
    options: Any = {"data_files": str(folder / "100.parquet"), "split": "train", "streaming": streaming}
    loaded = datasets.load_dataset("parquet", cache_dir=str(folder / "cache"), **options)
    total = 0.0
    for row in loaded.cast_column("audio", datasets.Audio(decode=False)):
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        total += len(samples) / rate
    return total


def list_tar(folder: Path, count: int, rounds: int) -> Table:
    """Measure the listing of a tar with many small members."""
    path = folder / "many.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            member = tarfile.TarInfo(f"speaker{number % 100:03d}/{number:06d}.flac")
            member.size = 100
            tar.addfile(member, io.BytesIO(bytes(100)))
    table = Table(f"Listing a tar of {count:,} members", ("", "s", "members/s"))

    def with_tarfile() -> None:
        with tarfile.open(path) as tar:
            for _ in tar:
                tar.members = []

    for title, run in (("this project", lambda: list_archive(str(path))), ("tarfile", with_tarfile)):
        seconds = min(cpu_seconds(run) for _ in range(rounds))
        table.add(title, seconds, round(count / seconds))
    return table


def measure(options: Namespace) -> None:
    """Measure and publish."""
    with prepared(options) as folder:
        paths = make(folder, 60 if options.quick else 2000)
        hours = read(paths["files"], LIMIT_BYTES) / 3600
        table = Table(
            f"Reading {len(paths['files']):,} recordings, {hours:.2f} h: x real time on one core",
            ("", "in order", "in batches"),
        )
        measured: dict[str, Any] = {}

        def speed(run: Callable[[], float]) -> float:
            return 3600 * hours / min(cpu_seconds(run) for _ in range(options.rounds))

        for title, each in paths.items():
            hour = each[: max(1, round(len(each) / max(1.0, hours)))]  # a shard has an hour
            mixed = random.Random(0).sample(hour, len(hour))
            share = len(hour) / len(each)
            ordered = speed(lambda each=each: read(each, IN_ORDER_BYTES))
            shuffled = share * speed(lambda mixed=mixed: read(mixed, LIMIT_BYTES))
            measured[title] = [ordered, shuffled]
            table.add(title, ordered, shuffled)
        rivals: dict[str, Callable[[], float]] = {
            "webdataset": lambda: with_webdataset(folder),
            "datasets, streaming": lambda: with_datasets(folder, streaming=True),
            "datasets, from its cache": lambda: with_datasets(folder, streaming=False),
        }
        for title, run in rivals.items():
            run()
            measured[title] = speed(run)
            table.add(title, measured[title], None)
        listing = list_tar(folder, 5000 if options.quick else 100_000, options.rounds)
        publish("archives", __doc__ or "", [table, listing], options, measured)


if __name__ == "__main__":
    measure(parser(__doc__ or "").parse_args())
