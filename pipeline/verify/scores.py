"""The scores of a complete run: whether they are what its shards add up to."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.scoring.counting import COUNTS
from pipeline.scoring.grouping import MAX_CONFUSIONS
from pipeline.scoring.schemas import CONFUSIONS, SCORES
from pipeline.storage.commits import CommitRecord
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.shard import UNREADABLE, Problem, reason


def audit_scores(directory: RunDirectory, records: Sequence[CommitRecord]) -> Iterator[Problem]:
    """`scores.parquet`, which says what the records of a complete run add up to, and `confusions.parquet` beside it."""
    scores = yield from _read_whole(directory.scores_path, SCORES)
    confusions = yield from _read_whole(directory.confusions_path, CONFUSIONS)
    if scores is None:
        return
    path, overall = directory.scores_path, (scores.slice(0, 1).to_pylist() or [{}])[0]
    metadata = scores.schema.metadata or {}
    wrong = [row for row in scores.to_pylist() if not _adds_up(row)]
    if metadata.get(b"normaliser") == b"standard":  # as the shards count them
        for name in COUNTS:
            expected = sum(record.counts.get(name, 0) for record in records)
            if overall.get(name) != expected:
                wrong = []  # of the same edit
                said = overall.get(name, "no")
                yield Problem(path.name, f"has {said} {name} overall, the shards have {expected}", _made_anew(path))
    for row in wrong[:1]:
        what = f"the rates of {row['group']} {row['value'] or ''}".rstrip() + " are not those of its counts"
        yield Problem(path.name, what, _made_anew(path))
    if confusions is not None and 0 < confusions.num_rows < MAX_CONFUSIONS:
        counted = sum(confusions["count"].to_pylist())
        if counted != overall.get("word_errors"):
            what = f"has {counted} wrong words, {path.name} has {overall.get('word_errors')}"
            yield Problem(directory.confusions_path.name, what, _made_anew(directory.confusions_path))


def _adds_up(row: Mapping[str, Any]) -> bool:
    errors = row["substitutions"] + row["deletions"] + row["insertions"]
    words, chars = row["hits"] + row["substitutions"] + row["deletions"], row["reference_chars"]
    return (row["word_errors"], row["reference_words"], row["wer"], row["cer"]) == (
        errors, words, errors / words if words else None, row["char_errors"] / chars if chars else None,
    )  # fmt: skip


def _read_whole(path: Path, schema: pa.Schema) -> Generator[Problem, None, pa.Table | None]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        if table.schema.equals(schema):
            return table
        yield Problem(path.name, f"has other columns than {path.stem} have", _made_anew(path))
    except FileNotFoundError:
        pass
    except UNREADABLE as error:
        yield Problem(path.name, f"cannot be read ({reason(error)})", _made_anew(path))
    return None


def _made_anew(path: Path) -> str:
    return f"remove {path}; the same command again writes it anew"
