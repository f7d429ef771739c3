"""Which utterances share their audio, and which values of a column share sounds, counted on tables made by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.duplicates.digests import Duplicates, digests_as_numbers, find_duplicates, rows_of
from pipeline.duplicates.leakage import MAX_VALUES, Pair, find_conflicts, find_leakage, usual_groups
from pipeline.scoring.groups import Group

SOUNDS = "abacabdb"
"""One letter for each row of a manifest: the audio of the utterance."""


def hexadecimal(sounds: str) -> pa.ChunkedArray:
    return pa.chunked_array([[f"{ord(sound):032x}" for sound in sounds]], pa.string())


def found(sounds: str = SOUNDS) -> Duplicates:
    return find_duplicates(np.arange(len(sounds)), digests_as_numbers(hexadecimal(sounds)))


def manifest(**columns: list[str | None]) -> pa.Table:
    return pa.table({"duration_s": [float("abcd".index(sound)) for sound in SOUNDS], **columns})


def test_the_lowest_row_is_the_first_whatever_the_order_of_the_digests() -> None:
    order = np.random.default_rng(1).permutation(len(SOUNDS))
    shuffled = digests_as_numbers(hexadecimal("".join(SOUNDS[row] for row in order)))
    for duplicates in (found(), find_duplicates(order, shuffled)):
        assert duplicates.rows.tolist() == [0, 1, 2, 4, 5, 7]
        assert duplicates.first.tolist() == [0, 1, 0, 0, 1, 1]
        assert duplicates.copies.tolist() == [2, 4, 5, 7]


def test_same_as_is_null_for_the_first_and_for_what_occurs_once() -> None:
    ids = pa.chunked_array([[f"u{row}" for row in range(4)], [f"u{row}" for row in range(4, 8)]])
    assert found().same_as(np.arange(8), ids).to_pylist() == [None, None, "u0", None, "u0", "u1", None, "u1"]
    assert found().same_as(np.asarray([7, 3, 0]), ids).to_pylist() == ["u1", None, None]
    assert found("abcd").same_as(np.arange(4), ids).to_pylist() == [None] * 4
    assert found("").same_as(np.arange(0), ids).to_pylist() == []


def test_digests_that_are_none_are_refused() -> None:
    for wrong in ("", "0" * 31, "0" * 31 + "g", "0" * 31 + "A"):
        with pytest.raises(pa.ArrowInvalid, match="32 hexadecimal digits"):
            digests_as_numbers(pa.chunked_array([["0" * 32, wrong]]))
    table = pa.table({"id": ["a", "b", "c"], "shard": [0, 1, 1]})
    assert rows_of(pa.chunked_array([["c", "b"]]), table, 1).tolist() == [2, 1]
    with pytest.raises(pa.ArrowInvalid, match="not in the manifest"):
        rows_of(pa.chunked_array([["a"]]), table, 1)


def test_the_pairs_of_values_that_share_sounds_are_counted() -> None:
    split = ["train", "test", "test", "dev", "dev", "test", "train", "train"]  # a: train, test, dev; b: test, train
    (leakage,) = find_leakage(found(), manifest(split=split), [Group("split", ("split",))])
    assert (leakage.group, leakage.sounds, leakage.utterances, leakage.seconds) == ("split", 2, 6, 1.0)
    assert leakage.pairs == [
        Pair(("test", "train"), 2, 5, 1.0, (2, 0)),
        Pair(("dev", "train"), 1, 2, 0.0, (4, 0)),
        Pair(("dev", "test"), 1, 2, 0.0, (4, 2)),
    ]


def test_null_is_no_value_and_one_value_is_no_leak() -> None:
    speaker = ["x", None, None, "y", "x", None, "z", "x"]
    room = ["1", "2", "2", "1", "2", "2", "1", "1"]
    groups = [Group("speaker", ("speaker",)), Group("speaker+room", ("speaker", "room")), Group("none", ("none",))]
    columns = {"speaker": speaker, "room": room, "none": [None] * 8}
    alone, crossed, none = find_leakage(found(), manifest(**columns), groups)
    assert (alone.sounds, alone.pairs, none.sounds) == (0, [], 0)
    assert [pair.values for pair in crossed.pairs] == [("x+1", "x+2")]
    assert find_leakage(found("abcd"), manifest(none=[None] * 8), [groups[2]])[0].sounds == 0


def test_a_sound_with_very_many_values_gives_a_bounded_number_of_pairs() -> None:
    count = 10 * MAX_VALUES
    table = pa.table({"duration_s": np.ones(count), "name": [f"n{row}" for row in range(count)]})
    duplicates = Duplicates(np.arange(count), np.zeros(count, np.int64))
    (leakage,) = find_leakage(duplicates, table, [Group("name", ("name",))])
    assert (leakage.sounds, leakage.utterances) == (1, count)
    assert len(leakage.pairs) == MAX_VALUES * (MAX_VALUES - 1) // 2


def test_references_that_differ_after_the_normaliser_are_conflicts() -> None:
    references = ["One two.", "four", "one TWO", "x", "one three", "Four!", None, None]
    assert find_conflicts(found(), pa.chunked_array([references])) == [(0, 4)]


def test_the_usual_columns_are_splits_speakers_and_those_of_the_scores() -> None:
    own = [pa.field(name, pa.string()) for name in ("room", "Subset", "spk_id", "sentence", "constant")]
    own.append(pa.field("snr", pa.float64()))
    rows = {"room": list("abababab"), "Subset": ["x"] * 8, "spk_id": list("abcdefgh"), "sentence": list("abcdefgh")}
    table = pa.table({**rows, "constant": ["c"] * 8, "snr": np.arange(8) % 2 / 2})
    assert [group.name for group in usual_groups(own, table, None)] == ["room", "Subset", "spk_id"]
    assert [group.name for group in usual_groups(own, table, ["overall", "sentence"])] == [
        "Subset", "spk_id", "sentence",
    ]  # fmt: skip
