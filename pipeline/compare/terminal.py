"""Prints a comparison in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from pipeline.compare.comparison import Comparison, better
from pipeline.compare.emissions import Logprobs
from pipeline.compare.facts import differing_settings, one_sided
from pipeline.runtime.terminal import counted, printable
from pipeline.scoring.bootstrap import RESAMPLES
from pipeline.scoring.terminal import group_lines, rate_table

MAX_WORDS = 8
MAX_UTTERANCES = 2
"""Utterances printed of each kind."""
KINDS = {
    "better_a": "A has fewer errors than B",
    "better_b": "B has fewer errors than A",
    "differ": "the texts differ most",
}
_NAME_WIDTH, _TEXT_WIDTH = 40, 200
_ALL_COLUMNS = 96
"""Width in characters from which the disagreement is shown beside the error rates."""


def pictures(comparison: Comparison, logprobs: Mapping[int, Logprobs], width: int) -> Iterator[Table | Text]:
    """Yield what is printed of a comparison.

    Args:
        comparison: The comparison.
        logprobs: Log-probabilities of some utterances, by index.
        width: Width of the terminal in characters.
    """
    match, overall = comparison.match, comparison.overall
    yield Text(f"A  {printable(str(match.a.directory.place))}\nB  {printable(str(match.b.directory.place))}")
    settings = [f"{name} {a} / {b}" for name, (a, b) in differing_settings(match).items()]
    yield Text(printable(f"A / B: {'; '.join(settings) or 'the same settings'}", 2 * _TEXT_WIDTH))
    yield Text("\n".join([f"{counted(len(match), 'utterance')} in both", *map(printable, one_sided(match))]))
    if comparison.references_differ:
        number = counted(comparison.references_differ, "utterance")
        yield Text(f"another reference in B than in A: {number}; both texts are compared with A's")
    if 0 < overall["with_reference"] < overall["utterances"]:
        yield Text(f"with a reference: {counted(overall['with_reference'], 'utterance')}")
    yield _rates(comparison.groups.to_pylist(), width)
    yield Text(explained(comparison), "dim")
    if overall["with_reference"]:
        same = overall["with_reference"] - overall["better_a"] - overall["better_b"]
        yield Text(
            f"fewer errors: A in {counted(overall['better_a'], 'utterance')}, B in {overall['better_b']:,}, "
            f"as many in {same:,}"
        )
        for one, other in (("a", "b"), ("b", "a")):
            words = [
                f"{printable(word, _NAME_WIDTH)} ({right:,} : {wrong:,})"
                for word, right, wrong in words_for(comparison, one)[:MAX_WORDS]
            ]
            if words:
                yield Text(f"words that {one.upper()} gets and {other.upper()} does not: {', '.join(words)}")
    if logprobs:
        yield Text(likelier(logprobs))
    for kind, indices in comparison.shown.items():
        yield from _utterances(comparison, kind, indices[:MAX_UTTERANCES].tolist(), logprobs)


def explained(comparison: Comparison) -> str:
    """Describe the columns of the table and the intervals."""
    bootstrap = f"bootstrap, {RESAMPLES} samples of {comparison.resampled}s"
    if not comparison.overall["with_reference"]:
        return f"no references: word edits from A's text to B's, per word of A; 95 %: {bootstrap}"
    return f"B - A in points; 95 %: paired {bootstrap}; better: the interval does not hold 0"


def words_for(comparison: Comparison, side: str) -> list[tuple[str, int, int]]:
    """Return the words that one run has right more often than the other: word, right only here, right only there."""
    other = "b" if side == "a" else "a"
    rows = [
        (row["word"], row[f"only_{side}"], row[f"only_{other}"])
        for row in comparison.words.to_pylist()
        if row[f"only_{side}"] > row[f"only_{other}"]
    ]
    return sorted(rows, key=lambda row: (row[2] - row[1], -row[1], row[0]))


def likelier(logprobs: Mapping[int, Logprobs]) -> str:
    """Say in how many of some utterances a run's emission makes the other run's text likelier than its own."""
    said = []
    for name, pairs, other in (
        ("A", [each.in_a for each in logprobs.values()], "B"),
        ("B", [each.in_b[::-1] for each in logprobs.values()], "A"),
    ):
        known = [(own, theirs) for own, theirs in pairs if own is not None and theirs is not None]
        if known:
            times = sum(theirs > own for own, theirs in known)
            said.append(f"{name}'s emissions make {other}'s text likelier than {name}'s own in {times} of {len(known)}")
    return "; ".join(said) or "no emission can be compared with the other run's text: the labels cannot spell it"


def _rates(rows: Sequence[dict[str, Any]], width: int) -> Table:
    has_references = bool(rows[0]["with_reference"])
    header = ["compared by", "utterances"]
    if has_references:
        header += ["WER A %", "WER B %", "B - A", "95 %", "better"]
    if width >= _ALL_COLUMNS or not has_references:
        header += ["differ %"] if has_references else ["words of A", "differ %", "95 %"]
    lines = group_lines(
        rows,
        lambda row: (str(row["group"]), row["value"]),
        lambda row: _cells(row, header),
        apart,
        "most different",
    )
    return rate_table(header, lines, width)


def apart(row: Mapping[str, Any]) -> float:
    """Return how far the runs are apart in a row of `GROUPS`: the size of the difference, else the disagreement."""
    if row["wer_difference"] is not None:
        return abs(float(row["wer_difference"]))
    return float(row["disagreement"] or 0.0)


def _cells(row: Mapping[str, Any], header: Sequence[str]) -> list[str]:
    if "WER A %" not in header:
        words, share = f"{row['words_a']:,}", _percent(row["disagreement"])
        return [f"{row['utterances']:,}", words, share, _interval(row, "disagreement", "")]
    cells = [f"{row['utterances']:,}", _percent(row["wer_a"]), _percent(row["wer_b"])]
    cells += [_percent(row["wer_difference"], "+"), _interval(row, "wer_difference", "+"), better(row)]
    return [*cells, _percent(row["disagreement"])] if "differ %" in header else cells


def _percent(rate: float | None, sign: str = "") -> str:
    return "" if rate is None else f"{100 * rate:{sign}.2f}"


def _interval(row: Mapping[str, Any], name: str, sign: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None else f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def _utterances(
    comparison: Comparison, kind: str, indices: Sequence[int], logprobs: Mapping[int, Logprobs]
) -> Iterator[Text]:
    at = np.asarray(indices, dtype=np.int64)
    match = comparison.match
    rows = zip(
        indices,
        match.a.rows(match.in_a[at], ["id", "text", "reference"]).to_pylist(),
        match.b.rows(match.in_b[at], ["text", "reference"]).to_pylist(),
        strict=True,
    )
    for index, a, b in rows:
        text = Text(f"{KINDS[kind]}: {printable(a['id'], 2 * _NAME_WIDTH)}\n")
        reference = b["reference"] if a["reference"] is None else a["reference"]
        if reference is not None:
            text.append(f"    said  {printable(reference, _TEXT_WIDTH)}\n", "dim")
        text.append(f"    A     {printable(a['text'], _TEXT_WIDTH)}\n    B     {printable(b['text'], _TEXT_WIDTH)}")
        for line in logprob_lines(logprobs.get(index)):
            text.append(f"\n    {line}", "dim")
        yield text


def logprob_lines(found: Logprobs | None) -> list[str]:
    """Return a line for each run whose emission gives both texts a log-probability."""
    sides = () if found is None else (("A", found.in_a), ("B", found.in_b))
    return [
        f"log-probability under {name}'s emission: A's text {of_a:.1f}, B's text {of_b:.1f}"
        for name, (of_a, of_b) in sides
        if of_a is not None and of_b is not None
    ]
