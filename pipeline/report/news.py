"""Reads what is new in a run: the utterances of the generation by which its corpus grew last, and its comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from pipeline.storage.commits import CommittedShard
from pipeline.storage.names import COMPARISON, VERSUS
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_files import full
from pipeline.storage.summary import Standing, Totals, total


@dataclass(frozen=True)
class News:
    """What was committed since the corpus grew last, and what was there before.

    Attributes:
        since: The time at which it grew.
        new, before: Sums over the shards of each side.
    """

    since: datetime
    new: Totals
    before: Totals

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """Word error rates, new and before; `None` without references."""
        new, before = (
            each.word_errors / each.reference_words if each.reference_words else None
            for each in (self.new, self.before)
        )
        return new, before


def read_news(records: Mapping[int, CommittedShard], standing: Standing) -> News | None:
    """Return what is new as `compare --night RUN --since last` sees it; `None` for a corpus that has never grown."""
    if len(standing.generations) < 2:
        return None
    since = datetime.fromisoformat(standing.generations[-1].made)
    sides = [[shard for shard in records.values() if (shard.new_since >= since) is new] for new in (True, False)]
    return News(since, *map(total, sides))


def read_comparisons(directory: RunDirectory) -> list[tuple[str, str]]:
    """Return name and link of each page that `compare --html` has written beside the run, with the run's name."""
    if directory.decoded is not None:
        return []
    root = full(directory.root)
    if not isinstance(root, Path):
        return []
    folders = [*root.parent.glob("*" + VERSUS + "*")]
    names = sorted(
        folder.name for folder in folders if root.name in folder.name.split(VERSUS) and (folder / COMPARISON).is_file()
    )
    return [(name, f"../../{quote(name)}/{COMPARISON}") for name in names]
