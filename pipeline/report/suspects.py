"""Reads what the page shows of references that may be wrong: those that fit the sound worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.records.transcripts import Word
from pipeline.report.axis import PlacedWord, place_words
from pipeline.report.population import Population
from pipeline.report.selection import Choice
from pipeline.report.showing import ShownUtterance
from pipeline.report.texts import shown
from pipeline.report.utterances import read_utterances
from pipeline.results.alignments import read_alignments
from pipeline.storage.commits import CommittedShard
from pipeline.storage.run_directory import RunDirectory

SUSPECT_LLR = -5.0
"""A word below it is marked: the model finds something else 150 times as likely."""


@dataclass(frozen=True)
class Suspect:
    """A reference that may be wrong.

    Attributes:
        utterance: Its utterance.
        llr_per_s, worst_llr: As in `alignments/`.
        text: Words of the part that is shown, and whether each is marked.
        words: The same words on the time axis.
    """

    utterance: ShownUtterance
    llr_per_s: float
    worst_llr: float
    text: Sequence[tuple[str, bool]]
    words: Sequence[PlacedWord]


@dataclass(frozen=True)
class Suspects:
    """The section `Suspect references` of the page.

    Attributes:
        aligned: Number of references that are aligned.
        suspected: Number of those with a word that would be marked.
        shown: The first of them, the most suspicious first.
    """

    aligned: int
    suspected: int
    shown: Sequence[Suspect]


def read_suspects(
    directory: RunDirectory,
    records: Mapping[int, CommittedShard],
    population: Population,
    count: int,
    channels: str,
) -> Suspects | None:
    """Read the references whose worst word fits worst; return `None` if no reference is aligned.

    Args:
        directory: The run.
        records: The committed shards, by shard.
        population: All utterances with a result.
        count: The most references to show.
        channels: As `read_utterances`.
    """
    rows = read_alignments(directory, records, columns=["id", "reference", "llr_per_s", "worst_llr"])
    rows = rows.filter(rows["worst_llr"].is_valid())
    if not len(rows):
        return None
    suspected = rows.filter(pc.less(rows["worst_llr"], SUSPECT_LLR)).sort_by(
        [("worst_llr", "ascending"), ("id", "ascending")]
    )
    positions = _positions(population, suspected["id"].slice(0, count))
    chosen = suspected.slice(0, count).take(pa.array(np.flatnonzero(positions >= 0))).to_pylist()
    words = _words(directory, records, [row["id"] for row in chosen])
    choice = Choice({"suspect": positions[positions >= 0]}, "worst_llr")
    # The shown part of a long utterance is the one with the most suspicious words.
    weighed = {id_: [_word(each, math.exp(each["llr"])) for each in found] for id_, found in words.items()}
    utterances = read_utterances(directory, records, population, choice, channels, [], stretches=weighed)
    found = [_suspect(*each, words[each[1]["id"]]) for each in zip(utterances, chosen, strict=True)]
    return Suspects(len(rows), len(suspected), found)


def _positions(population: Population, ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the position of each id in the population; -1 if it is not there."""
    places = np.full(len(ids), -1)
    bounds = np.searchsorted(population.file, np.arange(len(population.files) + 1))
    for number, stored in enumerate(population.files):
        mine = np.arange(bounds[number], bounds[number + 1])
        named = stored.read(["id"])["id"].take(pa.array(population.row[mine]))
        at = pc.fill_null(pc.index_in(ids, value_set=named.combine_chunks()), -1).to_numpy()
        places[at >= 0] = mine[at[at >= 0]]
    return places


def _words(
    directory: RunDirectory, records: Mapping[int, CommittedShard], ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the words of references that have a time, by id."""
    manifest = directory.manifest.read(["id", "shard"])
    place = pc.index_in(pa.array(ids, pa.string()), value_set=manifest["id"].combine_chunks())
    of_shard: dict[int, list[str]] = {}
    for id_, shard in zip(ids, manifest["shard"].take(place).to_pylist(), strict=True):
        of_shard.setdefault(shard, []).append(id_)
    shards = {shard: records[shard] for shard in of_shard}
    rows = read_alignments(directory, shards, of_shard, ["id", "reference", "words"]).to_pylist()
    return {row["id"]: [word for word in row["words"] if word["start_s"] is not None] for row in rows}


def _word(word: Mapping[str, Any], probability: float) -> Word:
    return Word(word["word"], word["start_s"], word["end_s"], probability)


def _suspect(utterance: ShownUtterance, row: Mapping[str, Any], words: Sequence[Mapping[str, Any]]) -> Suspect:
    inside = [word for word in words if word["end_s"] > utterance.start_s and word["start_s"] < utterance.end_s]
    placed = place_words([_word(word, word["probability"]) for word in inside], utterance.start_s, utterance.end_s)
    text = [(shown(word["word"], 80), word["llr"] < SUSPECT_LLR) for word in inside]
    return Suspect(utterance, row["llr_per_s"], row["worst_llr"], text, placed)
