"""Errors against a slow reference, and sums per group that add up."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scoring import COUNTS, MAX_GROUP_VALUES, SCORES, Errors, count_errors, normalise, score_table

WORDS = st.lists(st.sampled_from(["one", "two", "to", "too", "it's", "I"]), max_size=8).map(" ".join)


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Wagner and Fischer's table, a cell at a time."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(right) + 1)] for i in range(len(left) + 1)]
    for i in range(1, len(left) + 1):
        for j in range(1, len(right) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (left[i - 1] != right[j - 1]),
            )
    return table[-1][-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I HAD THAT CURIOSITY", "i had that curiosity"),
        ("  It\u2019s  \u201cLate\u201d, Sir!\n", "it's late sir"),
        ("don\u02bct", "don't"),
        ("well-known", "wellknown"),
        ("\ufb01ve \uff12", "five 2"),  # the ligature fi and a full-width digit
        ("Stra\u00dfe \u00c9cole", "stra\u00dfe \u00e9cole"),
        ("e\u0301", "\u00e9"),
        ("a\u00a0b\u2003c", "a b c"),
        ("$5 + 3", "$5 + 3"),
        ("...", ""),
        ("", ""),
    ],
)
def test_text_is_compared_after_nfkc_lower_case_and_without_punctuation(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_a_normalised_text_has_single_spaces_and_no_punctuation_but_the_apostrophe(text: str) -> None:
    result = normalise(text)
    assert result == " ".join(result.split())
    assert not any(unicodedata.category(char).startswith("P") for char in result if char != "'")


@given(WORDS | st.text("ab' ,", max_size=12), WORDS | st.text("ab' ,", max_size=12))
def test_errors_are_the_edit_distances_of_the_slow_reference(hypothesis: str, reference: str) -> None:
    errors = count_errors(hypothesis, reference)
    left, right = normalise(hypothesis), normalise(reference)
    assert errors.word_errors == edit_distance(left.split(), right.split())
    assert errors.reference_words == len(right.split())
    assert errors.char_errors == edit_distance(left, right)
    assert errors.reference_chars == len(right)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected", "wer"),
    [
        ("I HAD THAT CURIOSITY", "I had that curiosity.", Errors(0, 4, 0, 20), 0.0),
        ("", "one two", Errors(2, 2, 7, 7), 1.0),
        ("one two", "", Errors(2, 0, 7, 0), None),
        ("", "", Errors(0, 0, 0, 0), None),
        ("one", "?!", Errors(1, 0, 3, 0), None),
        ("a b c d", "a", Errors(3, 1, 6, 1), 3.0),
        ("for ty", "forty", Errors(2, 1, 1, 5), 2.0),
    ],
)
def test_errors_by_hand(hypothesis: str, reference: str, expected: Errors, wer: float | None) -> None:
    errors = count_errors(hypothesis, reference)
    assert errors == expected
    assert errors.wer == wer


def shard(rows: Sequence[tuple[int, int, int, int] | None], **groups: Sequence[object]) -> pa.Table:
    """A transcripts table with what scoring reads; `None` is an utterance without a reference."""
    counts = {
        name: pa.array([None if row is None else row[index] for row in rows], pa.int32())
        for index, name in enumerate(COUNTS)
    }
    columns = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in groups.items()}
    return pa.table(counts | columns)


def test_errors_are_summed_overall_and_per_group_over_all_shards() -> None:
    shards = [
        shard([(1, 4, 2, 20), (0, 6, 0, 30), None], room=["rm1", "rm2", "rm1"], source=[True, False, False]),
        shard([(2, 2, 5, 10)], room=["rm1"], source=[False]),
    ]
    table = score_table(iter(shards), ["source", "room"])
    assert table.schema == SCORES
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows == [
        ("overall", None, 3, 3, 12, 3 / 12, 7, 60, 7 / 60),
        ("source", "False", 2, 2, 8, 2 / 8, 5, 40, 5 / 40),
        ("source", "True", 1, 1, 4, 1 / 4, 2, 20, 2 / 20),
        ("room", "rm1", 2, 3, 6, 3 / 6, 7, 30, 7 / 30),
        ("room", "rm2", 1, 0, 6, 0.0, 0, 30, 0.0),
    ]


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["x", "y", None]), st.booleans()), max_size=20
    ),
    st.integers(1, 3),
)
def test_the_groups_of_a_column_add_up_to_the_whole(
    rows: list[tuple[int, int, str | None, bool]], num_shards: int
) -> None:
    shards = [
        shard(
            [(errors, words, 2 * errors, 3 * words) if known else None for errors, words, _, known in part],
            room=pa.array([room for *_, room, _ in part], pa.string()),
        )
        for part in (rows[start::num_shards] for start in range(num_shards))
    ]
    table = score_table(shards, ["room"]).to_pylist()
    if not any(known for *_, known in rows):
        assert table == []
        return
    overall, groups = table[0], table[1:]
    assert (overall["group"], overall["value"]) == ("overall", None)
    for name in ("utterances", *COUNTS):
        assert sum(row[name] for row in groups) == overall[name]
    assert overall["utterances"] == sum(known for *_, known in rows)


def test_a_null_is_a_group_of_its_own_and_comes_last() -> None:
    table = score_table([shard([(1, 2, 3, 4)] * 3, room=["rm2", None, "rm1"])], ["room"])
    assert table["value"].to_pylist() == [None, "rm1", "rm2", None]


def test_a_group_without_reference_words_has_no_rate() -> None:
    rows = score_table([shard([(3, 0, 9, 0)], room=["rm1"])], ["room"]).to_pylist()
    assert [(row["wer"], row["cer"]) for row in rows] == [(None, None)] * 2


@pytest.mark.parametrize("shards", [[], [shard([None, None], room=["a", "b"])]])
def test_no_references_give_a_table_without_rows(shards: list[pa.Table]) -> None:
    table = score_table(shards, ["room"])
    assert table.num_rows == 0
    assert table.schema == SCORES


def test_a_column_that_tells_utterances_apart_is_no_group() -> None:
    count = MAX_GROUP_VALUES
    many = shard(
        [(1, 1, 1, 1)] * (count + 1),
        segment=[f"sg{index}" for index in range(count + 1)],
        chapter=[f"ch{index % count}" for index in range(count + 1)],
    )
    groups = score_table([many], ["segment", "chapter"])["group"].to_pylist()
    assert groups == ["overall", *["chapter"] * count]


def test_a_column_that_was_dropped_does_not_come_back_with_a_later_shard() -> None:
    count = MAX_GROUP_VALUES
    first = shard([(1, 1, 1, 1)] * (count + 1), segment=[str(index) for index in range(count + 1)])
    second = shard([(1, 1, 1, 1)], segment=["0"])
    assert score_table([first, second], ["segment"])["group"].to_pylist() == ["overall"]
    assert score_table([second, first, second], ["segment"])["utterances"].to_pylist() == [count + 3]


def test_numbers_are_groups_too() -> None:
    table = score_table([shard([(1, 1, 1, 1)] * 3, degrees=pa.array([90, 0, 90], pa.int16()))], ["degrees"])
    assert table["value"].to_pylist() == [None, "0", "90"]
    assert table["utterances"].to_pylist() == [3, 1, 2]


@pytest.mark.parametrize("name", ["overall", "count_all", "word_errors_sum", ".hidden", "a.b", "value"])
def test_any_name_of_an_own_column_leaves_the_sums_right(name: str) -> None:
    table = score_table([shard([(1, 2, 3, 4)] * 3, **{name: ["x", None, "x"]})], [name])
    rows = [tuple(row.values())[:5] for row in table.to_pylist()]
    assert rows == [("overall", None, 3, 3, 6), (name, "x", 2, 2, 4), (name, None, 1, 1, 2)]
