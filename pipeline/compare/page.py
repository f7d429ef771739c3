"""Builds the HTML page of a comparison. Its parts, style and script are those of the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.compare.comparison import Comparison, better
from pipeline.compare.emissions import Logprobs
from pipeline.compare.facts import differing_settings, one_sided
from pipeline.compare.terminal import KINDS, apart, explained, likelier, logprob_lines, words_for
from pipeline.records.transcripts import Word
from pipeline.report.axis import PlacedWord, place_words
from pipeline.report.differences import Pair, Triple, three_way
from pipeline.report.population import Population
from pipeline.report.rendering import render
from pipeline.report.selection import Choice
from pipeline.report.showing import ShownUtterance, shown_pairs
from pipeline.report.texts import masked, shown
from pipeline.report.utterances import read_utterances
from pipeline.scoring.terminal import MAX_VALUES

MAX_GROUPS, MAX_WORDS = 16, 20


@dataclass(frozen=True)
class ShownPair:
    """Everything that the page shows of one utterance.

    Attributes:
        kind, rank: Why it is shown, and its rank within its kind, from 1.
        utterance: The utterance in the first run, with its sound.
        text_b: The text of the second run.
        words_b: Its words on the time axis.
        reference: The reference; `None` if there is none.
        errors: Word errors of both runs, and the words of the reference; `None` without a reference.
        triples: Reference and both texts word by word; `None` without a reference, or if a text is too long.
        pairs: Both texts word by word, where there is no reference; `None` if a text is too long.
        logprobs: Lines about the log-probabilities.
    """

    kind: str
    rank: int
    utterance: ShownUtterance
    text_b: str
    words_b: Sequence[PlacedWord]
    reference: str | None
    errors: tuple[int, int, int] | None
    triples: Sequence[Triple] | None
    pairs: Sequence[Pair] | None
    logprobs: Sequence[str]


def build_page(comparison: Comparison, logprobs: Mapping[int, Logprobs]) -> str:
    """Render the page of a comparison.

    Args:
        comparison: The comparison.
        logprobs: Log-probabilities of some utterances, by index.

    Raises:
        OSError, pyarrow.ArrowException: A table cannot be read.
    """
    match, overall = comparison.match, comparison.overall
    pairs = _shown(comparison, logprobs)
    runs = [masked(match.a.directory.place.absolute(), 500), masked(match.b.directory.place.absolute(), 500)]
    groups = _groups(comparison)
    rates = [row for _, rows, _ in groups for row in rows]
    context = {
        "names": [masked(run.directory.name, 80) for run in (match.a, match.b)],
        "runs": runs,
        "settings": {
            masked(name, 80): (masked(a, 300), masked(b, 300)) for name, (a, b) in differing_settings(match).items()
        },
        "one_sided": [masked(line, 1_000) for line in one_sided(match)],
        "overall": overall,
        "better": better(overall),
        "in_both": len(match),
        "references_differ": comparison.references_differ,
        "groups": groups[:MAX_GROUPS],
        "groups_left_out": max(0, len(groups) - MAX_GROUPS),
        "scale": max([0.005, *(_reach(row) for row in [*rates, overall])]),
        "explained": explained(comparison),
        "words": {
            side.upper(): [
                (shown(word, 60), right, wrong) for word, right, wrong in words_for(comparison, side)[:MAX_WORDS]
            ]
            for side in ("a", "b")
        },
        "likelier": likelier(logprobs) if logprobs else "",
        "kinds": [(kind, KINDS[kind], [each for each in pairs if each.kind == kind]) for kind in comparison.shown],
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
    }
    return render("comparison.html", context, "pipeline.compare")


def _groups(comparison: Comparison) -> list[tuple[str, list[dict[str, Any]], int]]:
    """Return name, shown rows and number of all rows of each group. Groups with a single value are left out."""
    found = []
    for name, rows in groupby(comparison.groups.to_pylist()[1:], lambda row: str(row["group"])):
        group = [
            {**row, "value": None if row["value"] is None else masked(row["value"], 80), "better": better(row)}
            for row in rows
        ]
        kept = group if len(group) <= MAX_VALUES else sorted(group, key=apart, reverse=True)[:MAX_VALUES]
        if len(group) > 1:
            found.append((masked(name, 80), kept, len(group)))
    return found


def _reach(row: Mapping[str, Any]) -> float:
    """Return the greatest difference that is drawn for a row, with the ends of its interval."""
    name = "wer_difference" if row["with_reference"] else "disagreement"
    return max(abs(float(row[key] or 0.0)) for key in (name, f"{name}_low", f"{name}_high"))


def _shown(comparison: Comparison, logprobs: Mapping[int, Logprobs]) -> list[ShownPair]:
    """Read the shown utterances."""
    match = comparison.match
    chosen = [(kind, rank, int(at)) for kind, found in comparison.shown.items() for rank, at in enumerate(found, 1)]
    indices = np.array([at for _, _, at in chosen], dtype=np.int64)
    utterances = _in_first_run(comparison, indices)
    columns = ["text", "reference"]
    rows_a = match.a.rows(match.in_a[indices], columns).to_pylist()
    rows_b = match.b.rows(match.in_b[indices], [*columns, "words"]).to_pylist()
    counts = comparison.counts[indices].tolist()
    pairs = []
    for (kind, rank, at), utterance, a, b, count in zip(chosen, utterances, rows_a, rows_b, counts, strict=True):
        reference = b["reference"] if a["reference"] is None else a["reference"]
        words = [Word(**word) for word in b["words"] or ()]
        pairs.append(
            ShownPair(
                kind,
                rank,
                utterance,
                shown(b["text"]),
                place_words(words, utterance.start_s, utterance.end_s),
                None if reference is None else shown(reference),
                None if reference is None else (count[0], count[1], count[2]),
                None if reference is None else _safe_triples(three_way(reference, a["text"], b["text"])),
                None if reference is not None else shown_pairs(a["text"], b["text"]),
                logprob_lines(logprobs.get(at)),
            )
        )
    return pairs


def _in_first_run(comparison: Comparison, indices: NDArray[np.int64]) -> list[ShownUtterance]:
    run = comparison.match.a
    positions = comparison.match.in_a[indices]
    files = run.files_of(positions).astype(np.int32)
    rows = (positions - run.starts[files]).astype(np.int32)
    unused = np.full(len(rows), np.nan)
    population = Population(files, rows, tuple(map(run.file, range(len(run.shards)))), unused, unused, unused)
    recorded = run.directory.read_record()
    channels = recorded.identity.channels if recorded else "mix"
    records = {each.shard: each for each in run.shards}
    choice = Choice({"worst": np.arange(len(rows))}, "wer")
    return read_utterances(run.directory, records, population, choice, channels, None)


def _safe_triples(triples: Sequence[Triple] | None) -> list[Triple] | None:
    if triples is None:
        return None
    return [
        Triple(shown(each.reference, 80), shown(each.a, 80), shown(each.b, 80), each.wrong_a, each.wrong_b)
        for each in triples
    ]
