"""Checks the digests of the audio, and whether `same_as` of a complete run follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.compute as pc

from pipeline.duplicates.digests import HEX_DIGITS, all_are_digests, find_duplicates, read_digests, rows_of
from pipeline.runtime.terminal import counted
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import UNREADABLE
from pipeline.storage.names import RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import AUDIO_DIGEST, SAME_AS
from pipeline.verify.findings import Problem, Work, reason


def audit_duplicates(directory: RunDirectory, work: Work, shards: Sequence[CommittedShard]) -> Iterator[Problem]:
    """Check the columns `audio_digest` and `same_as` of a complete run. A run without them has no problem.

    `same_as` is checked if `run.json` says how many duplicates there are. Otherwise the next run completes the column.

    Args:
        directory: The run.
        work: What the run computes.
        shards: All shards, which are sound.
    """
    recorded, manifest = work.recorded, work.manifest
    if recorded is None or manifest is None or not recorded.combined.audio_digests:
        return
    again = f"remove {directory.locate(RUN_JSON)}; a rerun writes it and same_as anew"
    records = [record for shard in shards for record in shard.having("transcripts")]
    try:
        malformed = False
        for record in records:
            stored = directory.table("transcripts", record.shard, record.supplement)
            if not all_are_digests(stored.read([AUDIO_DIGEST])[AUDIO_DIGEST]):
                malformed = True
                what = f"a value of {AUDIO_DIGEST} is not {HEX_DIGITS} hexadecimal digits"
                name = directory.commit_name(record.shard, record.supplement)
                remedy = f"remove {directory.locate(name)}; a rerun computes it again"
                yield Problem(stored.name, what, remedy)
        if malformed or recorded.duplicates is None:
            return
        heard = read_digests(directory, {shard.shard: shard for shard in shards}, manifest.table)
        duplicates = find_duplicates(heard.rows, heard.digests)
        for record in records:
            stored = directory.table("transcripts", record.shard, record.supplement)
            table = stored.read(["id", SAME_AS])
            right = duplicates.same_as(rows_of(table["id"], manifest.table, record.shard), manifest.table["id"])
            same = pc.equal(right.fill_null(""), table[SAME_AS].combine_chunks().fill_null(""))
            wrong = np.flatnonzero(~same.to_numpy(zero_copy_only=False))
            if len(wrong):
                first = int(wrong[0])
                yield Problem(
                    stored.name,
                    f"{table['id'][first].as_py()!r} has same_as {table[SAME_AS][first].as_py()!r}, "
                    f"{right[first].as_py()!r} is right ({counted(len(wrong), 'row')} wrong)",
                    again,
                )
        if recorded.duplicates != len(duplicates.copies):
            yield Problem(
                RUN_JSON, f"counts {recorded.duplicates} duplicates, there are {len(duplicates.copies)}", again
            )
    except UNREADABLE as error:
        yield Problem(RUN_JSON, f"same_as cannot be checked ({reason(error)})", again)
