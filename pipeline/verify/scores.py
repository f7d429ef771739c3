"""Checks whether the scores of a complete run are the sums over its shards."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.scoring.counting import COUNTED_AFTER, COUNTS
from pipeline.scoring.grouping import MAX_CONFUSIONS
from pipeline.scoring.schemas import CONFUSIONS, SCORES
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import UNREADABLE, StoredTable
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.findings import Problem, reason


def audit_scores(directory: RunDirectory, records: Sequence[CommittedShard]) -> Iterator[Problem]:
    """Check `scores.parquet` and `confusions.parquet` of a complete run.

    Args:
        directory: The run.
        records: Commit records of all shards.
    """
    scores = yield from _read_whole(directory.scores, SCORES)
    confusions = yield from _read_whole(directory.confusions, CONFUSIONS)
    if scores is None:
        return
    overall = (scores.slice(0, 1).to_pylist() or [{}])[0]
    metadata = scores.schema.metadata or {}
    wrong = [row for row in scores.to_pylist() if not _adds_up(row)]
    made_after = {name: metadata.get(name.encode(), b"").decode() for name in COUNTED_AFTER}
    if made_after == COUNTED_AFTER:  # the records count errors after this normaliser
        for name in COUNTS:
            expected = sum(record.counts.get(name, 0) for record in records)
            if overall.get(name) != expected:
                wrong = []  # one message is enough
                said = overall.get(name, "no")
                what = f"has {said} {name} overall, the shards have {expected}"
                yield Problem(directory.scores.name, what, _made_anew(directory.scores))
    for row in wrong[:1]:
        what = f"the rates of {row['group']} {row['value'] or ''}".rstrip() + " do not match its counts"
        yield Problem(directory.scores.name, what, _made_anew(directory.scores))
    if confusions is not None and 0 < confusions.num_rows < MAX_CONFUSIONS:
        counted = sum(confusions["count"].to_pylist())
        if counted != overall.get("word_errors"):
            what = f"has {counted} wrong words, {directory.scores.name} has {overall.get('word_errors')}"
            yield Problem(directory.confusions.name, what, _made_anew(directory.confusions))


def _adds_up(row: Mapping[str, Any]) -> bool:
    errors = row["substitutions"] + row["deletions"] + row["insertions"]
    words, chars = row["hits"] + row["substitutions"] + row["deletions"], row["reference_chars"]
    return (row["word_errors"], row["reference_words"], row["wer"], row["cer"]) == (
        errors, words, errors / words if words else None, row["char_errors"] / chars if chars else None,
    )  # fmt: skip


def _read_whole(stored: StoredTable, schema: pa.Schema) -> Generator[Problem, None, pa.Table | None]:
    try:
        with stored.open(page_checksum_verification=True) as file:
            table = file.read()
        if table.schema.equals(schema):
            return table
        what = f"does not have the columns of {stored.name}"
        yield Problem(stored.name, what, _made_anew(stored))
    except FileNotFoundError:
        pass
    except UNREADABLE as error:
        yield Problem(stored.name, f"cannot be read ({reason(error)})", _made_anew(stored))
    return None


def _made_anew(stored: StoredTable) -> str:
    return f"remove {stored}; a rerun writes it anew"
