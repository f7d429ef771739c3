"""Gathers the accounts of all recordings of a run from its committed tables, a shard at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.waveforms import channel_to_read
from pipeline.records import AudioHeader
from pipeline.scoring.coverage.accounting import Account
from pipeline.storage.commits import CommittedShard
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import CHANNEL

Key = tuple[str, int | None]
"""Path of a recording, and the channel that is heard; `None` for the mean of all."""


@dataclass
class Gathered:
    """A recording with its account.

    Attributes:
        key: Path and channel.
        account: The account, without speech.
        utterances, failures: Number of rows of the manifest, and of those that failed.
    """

    key: Key
    account: Account = field(default_factory=Account)
    utterances: int = 0
    failures: int = 0


def keys_of(manifest: Manifest, channels: str) -> list[Key]:
    """Return the recording of each row of a manifest.

    Args:
        manifest: The manifest.
        channels: mix, first or each.
    """
    paths = manifest.table["path"].to_pylist()
    has = CHANNEL in manifest.schema.names
    heard = manifest.table[CHANNEL].to_pylist() if has else [None] * len(paths)
    return [(path, channel_to_read(channel, channels)) for path, channel in zip(paths, heard, strict=True)]


def headers_of(manifest: Manifest, keys: Sequence[Key]) -> dict[Key, AudioHeader | None]:
    """Return the header of each recording that has a row for all of it; `None` for the others."""
    found: dict[Key, AudioHeader | None] = dict.fromkeys(keys)
    names = ("start_s", "end_s", "sample_rate", "num_channels", "num_samples", "file_size")
    columns = zip(*(manifest.table[name].to_pylist() for name in names), strict=True)
    for key, (start_s, end_s, *header) in zip(keys, columns, strict=True):
        if start_s is None and end_s is None and None not in header:
            found[key] = AudioHeader(*header)
    return found


def gather(
    directory: RunDirectory,
    manifest: Manifest,
    records: Mapping[int, CommittedShard],
    keys: Sequence[Key],
    durations: Callable[[Key], float | None],
) -> Iterator[Gathered]:
    """Yield each recording, after the last shard that has utterances of it.

    Utterances of an earlier file, in whose place there is another one since, are left out: their words are not of it.
    The words in memory are those of the recordings that go on in a later shard.

    Args:
        directory: The run.
        manifest: The manifest.
        records: The committed shards, by shard.
        keys: The recording of each row.
        durations: Returns the length of a recording in seconds; `None` if it is not known.
    """
    left, open_ = Counter(keys), dict[Key, Gathered]()
    file_size = manifest.table["file_size"].to_pylist()
    newest = dict(zip(keys, file_size, strict=True))
    start_s = manifest.table["start_s"].fill_null(0.0).to_numpy()
    end_s = manifest.table["end_s"].to_numpy(zero_copy_only=False)

    def add(each: Gathered, row: int, *, decoded: bool, failed: bool, words: np.ndarray) -> None:
        each.utterances += 1
        each.failures += int(failed)
        if each.account.duration_s is None:
            each.account.duration_s = durations(each.key)
        end = end_s[row] if np.isfinite(end_s[row]) else each.account.duration_s
        if decoded:
            each.account.words.append(words)
        if end is not None:
            stretch = np.array([[start_s[row], end]], dtype=np.float64)
            each.account.decoded += [stretch] * int(decoded)
            each.account.failed += [stretch] * int(failed)

    for shard in range(manifest.num_shards):
        rows = manifest.rows_of_shard(shard)
        decoded, words = _results(directory, manifest, records.get(shard), rows)
        failed = _failed(directory, manifest, records.get(shard), rows)
        for position, row in enumerate(rows):
            each = open_.setdefault(keys[row], Gathered(keys[row]))
            left[keys[row]] -= 1
            if file_size[row] == newest[keys[row]]:
                add(each, row, decoded=decoded[position], failed=failed[position], words=words[position])
            if not left[keys[row]]:
                yield open_.pop(keys[row])


def _results(
    directory: RunDirectory, manifest: Manifest, committed: CommittedShard | None, rows: range
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return which rows of a shard have a transcript, `(rows,)`, and the times of the words of each, `(words, 2)`."""
    decoded, words = np.zeros(len(rows), bool), [np.zeros((0, 2))] * len(rows)
    if committed is None:
        return decoded, words
    ids = manifest.table["id"].slice(rows.start, len(rows)).combine_chunks()
    for stored in directory.tables(committed, "transcripts"):
        table = stored.read(["id", "words"]).combine_chunks()
        lists = table["words"].combine_chunks()
        flat = lists.flatten()
        times = np.stack([flat.field("start_s").to_numpy(), flat.field("end_s").to_numpy()], axis=1)
        ends = np.cumsum(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        places = pc.index_in(table["id"].combine_chunks(), value_set=ids).to_numpy(zero_copy_only=False)
        starts = np.append(0, ends)[:-1]
        for place, first, last in zip(places.astype(np.int64), starts, ends, strict=True):
            decoded[place] = True
            words[place] = times[first:last]
    return decoded, words


def _failed(directory: RunDirectory, manifest: Manifest, committed: CommittedShard | None, rows: range) -> np.ndarray:
    """Return which rows of a shard failed, `(rows,)`."""
    if committed is None:
        return np.zeros(len(rows), bool)
    ids = manifest.table["id"].slice(rows.start, len(rows))
    found = [id_ for each in committed.records for id_ in directory.failures(each.shard, each.supplement, "id")]
    failed: np.ndarray = pc.is_in(ids, value_set=pa.array(found, pa.string())).to_numpy()
    return failed
