"""Packs the table of utterances for the page: all or, of a large run, the worst, the least certain and a sample.

The script of the page unpacks the table: base64 of a zlib stream of JSON, which has a list for each column.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.report.differences import side_by_side
from pipeline.report.population import Population
from pipeline.report.selection import Choice
from pipeline.report.texts import masked, masked_all, shown
from pipeline.results.joining import Joined
from pipeline.runtime.paths import resolve_path
from pipeline.storage import tables
from pipeline.storage.run_directory import RunDirectory

MAX_ALL = 20_000
"""Up to so many utterances, the table has all of them."""
SAMPLED = 2_000
"""Of a larger run, the table has so many of the worst, of the least certain, and at random."""
MAX_CHARACTERS, MAX_WORDS = 1_000, 200
"""Maximum of characters of a text, and of words with times, of one utterance."""
MAX_COLUMNS = 12
"""Maximum of the dataset's own columns."""
_COLUMNS = (
    "id", "path", "duration_s", "text", "avg_logprob", "words", "reference", "word_errors", "reference_words", "wer",
)  # fmt: skip
_LETTERS = {"equal": "=", "substitution": "s", "deletion": "d", "insertion": "i"}


@dataclass(frozen=True)
class PackedTable:
    """The table of utterances.

    Attributes:
        packed: The rows, as the script unpacks them.
        rows: Number of rows.
        total: Number of utterances that they are taken from.
    """

    packed: str
    rows: int
    total: int


def read_table(
    directory: RunDirectory, population: Population, choice: Choice, joined: Joined | None = None
) -> PackedTable | None:
    """Read and pack the table; return `None` if no utterance has a result. Memory holds the texts of the table only.

    Args:
        directory: The run.
        population: All utterances with a result.
        choice: The utterances that the page shows with audio, to which their rows link.
        joined: Columns that are shown before the dataset's own; `None` for none.
    """
    if not len(population):
        return None
    positions, chosen_as = choose_rows(population.wer, population.avg_logprob)
    own = [field.name for field in tables.own_columns(directory.manifest.schema())]
    rows = _read(population, positions, own)
    if joined is not None:
        rows, own = joined.beside(rows), [*(field.name for field in joined.fields), *own]
    columns = {name: rows[name].to_pylist() for name in own[:MAX_COLUMNS] if name in rows.column_names}
    if chosen_as is not None:
        columns = {"chosen as": chosen_as, **columns}
    examples = {
        int(at): f"{kind}-{rank}" for kind, found in choice.positions.items() for rank, at in enumerate(found, 1)
    }
    content = {
        **_plain(rows),
        "own": [_coded(name, values) for name, values in columns.items()],
        "examples": {row: examples[at] for row, at in enumerate(positions.tolist()) if at in examples},
    }
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return PackedTable(base64.b64encode(zlib.compress(text.encode(), 9)).decode(), len(positions), len(population))


def choose_rows(
    wer: NDArray[np.float64], avg_logprob: NDArray[np.float64]
) -> tuple[NDArray[np.int64], list[str] | None]:
    """Return the positions of the rows, in order, and of a large run why each is chosen.

    Args:
        wer: `(utterances,)`; NaN if there is no value.
        avg_logprob: `(utterances,)`; NaN if there is no value.
    """
    total = len(wer)
    if total <= MAX_ALL:
        return np.arange(total), None
    wrong, certain = np.flatnonzero(wer > 0), np.flatnonzero(~np.isnan(avg_logprob))
    kinds = {
        "worst": wrong[np.lexsort((avg_logprob[wrong], -wer[wrong]))][:SAMPLED],
        "least certain": certain[np.argsort(avg_logprob[certain], kind="stable")][:SAMPLED],
        # Always the same sample, so that the same tables give the same page.
        "random": np.random.default_rng(0).choice(total, SAMPLED, replace=False),
    }
    positions = np.unique(np.concatenate(list(kinds.values())))
    member = {kind: np.isin(positions, found) for kind, found in kinds.items()}
    names = [", ".join(kind for kind in kinds if member[kind][row]) for row in range(len(positions))]
    return positions, names


def _read(population: Population, positions: NDArray[np.int64], own: Sequence[str]) -> pa.Table:
    """Read rows of the table, one file after the other, and cut them. `positions` are in order."""
    read = []
    for file in np.unique(population.file[positions]):
        stored = population.files[file]
        there = set(stored.schema().names)
        rows = pa.array(population.row[positions[population.file[positions] == file]])
        read.append(_shortened(stored.read([name for name in (*_COLUMNS, *own) if name in there]).take(rows)))
    return pa.concat_tables(read, promote_options="default")


def _shortened(rows: pa.Table) -> pa.Table:
    """Cut texts and lists of words, so that recordings of hours do not fill the memory."""
    for name in ("text", "reference", "words"):
        if name in rows.column_names:
            cut = (
                pc.list_slice(rows[name], 0, MAX_WORDS)
                if name == "words"
                else pc.utf8_slice_codeunits(rows[name], 0, MAX_CHARACTERS + 1)
            )
            rows = rows.set_column(rows.column_names.index(name), name, cut)
    return rows


def _plain(rows: pa.Table) -> dict[str, Any]:
    """Return the columns that every run has, by name. Text is safe for the page and cut."""
    missing: list[Any] = [None] * len(rows)
    of: dict[str, list[Any]] = {
        name: rows[name].to_pylist() if name in rows.column_names else missing for name in _COLUMNS
    }
    paths = masked_all(of["path"], 500)
    texts, references = ([_cut(text) for text in of[name]] for name in ("text", "reference"))
    return {
        "id": masked_all(of["id"], 300),
        "path": paths,
        "links": _links(of["path"], paths),
        "duration_s": [_rounded(value, 2) for value in of["duration_s"]],
        "avg_logprob": [_rounded(value, 4) for value in of["avg_logprob"]],
        "wer": [_rounded(value, 4) for value in of["wer"]],
        "word_errors": of["word_errors"],
        "reference_words": of["reference_words"],
        "text": texts,
        "reference": references,
        "pairs": _differences(of["word_errors"], references, texts),
        "words": _words(of["words"], texts),
    }


def _cut(text: str | None) -> str | None:
    return None if text is None else shown(text, MAX_CHARACTERS)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or value != value else round(value, digits)


def _coded(name: str, values: Iterable[Any]) -> dict[str, Any]:
    """Return a column as its distinct values, and the number of each row's value among them; -1 if it has none."""
    numbers: dict[Any, int] = {}
    codes = [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    return {"name": masked(name, 40), "values": masked_all(numbers, 80), "codes": codes}


def _links(paths: Sequence[str], seen: Sequence[str]) -> dict[int, str]:
    """Return the links to the recordings that the script cannot make of their paths as seen, by row; empty for none."""
    links = {}
    for row, (path, written) in enumerate(zip(paths, seen, strict=True)):
        if path != written or not path.startswith("/"):
            links[row] = ""
        elif "%" in path:
            links[row] = Path(resolve_path(path)).as_uri()
    return links


def _differences(
    errors: Sequence[int | None], references: Sequence[str | None], texts: Sequence[str | None]
) -> dict[int, Any]:
    """Return the aligned words of each row with errors: a letter for each pair.

    Where the words of the pairs are not those of the texts, they come with the letters.
    """
    found: dict[int, Any] = {}
    for row, (wrong, reference, text) in enumerate(zip(errors, references, texts, strict=True)):
        if not wrong or reference is None or text is None or max(len(reference), len(text)) > MAX_CHARACTERS:
            continue
        pairs = side_by_side(reference, text) or []
        letters = "".join(_LETTERS[pair.operation] for pair in pairs)
        ours, theirs = [pair.reference for pair in pairs], [pair.text for pair in pairs]
        if [*filter(None, ours)] == reference.split(" ") and [*filter(None, theirs)] == text.split(" "):
            found[row] = letters
        else:
            found[row] = [letters, ours, theirs]
    return found


def _words(of_rows: Sequence[Sequence[Mapping[str, Any]] | None], texts: Sequence[str | None]) -> dict[str, Any]:
    """Return the words in columns: of each row their number, then of each word its times and probability.

    A start is in hundredths of a second after the end of the word before, a length in hundredths, a probability in per
    cent. The words are those of the text, or stand in `spelled`, by row.
    """
    counts, starts, lengths, probabilities = [], [], [], []
    spelled: dict[int, list[str]] = {}
    for row, (words, text) in enumerate(zip(of_rows, texts, strict=True)):
        kept = words or ()
        counts.append(len(kept))
        names = [word["word"] for word in kept]
        if names and names != (text or "").split(" ")[: len(names)]:
            spelled[row] = [shown(name, 80) for name in names]
        before = 0
        for word in kept:
            start, end = round(100 * word["start_s"]), round(100 * word["end_s"])
            starts.append(start - before)
            lengths.append(end - start)
            probabilities.append(round(100 * (word["probability"] or 0.0)))
            before = end
    return {
        "counts": counts, "starts": starts, "lengths": lengths, "probabilities": probabilities, "spelled": spelled,
    }  # fmt: skip
