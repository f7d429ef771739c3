"""Errors against a slow reference and against jiwer, sums per group that add up, and intervals that cover."""

from __future__ import annotations

import importlib.metadata
import itertools
import shutil
import signal
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from running import DATA, ROOT, SHORT, run

from pipeline.config.schema import RULES
from pipeline.results import open_run
from pipeline.run import main
from pipeline.runtime.errors import UserError
from pipeline.runtime.stdout import console
from pipeline.scoring import grouping
from pipeline.scoring.bootstrap import MAX_UNITS, change_intervals, rate_intervals, speaker_intervals
from pipeline.scoring.counting import COUNTS, Errors, align, char_errors, count_errors
from pipeline.scoring.grouping import Scores, score
from pipeline.scoring.groups import MAX_GROUP_VALUES, Group, choose_groups
from pipeline.scoring.normalisers import APOSTROPHES, DESCRIPTIONS, made_after, normaliser, standard
from pipeline.scoring.schemas import CONFUSIONS, SCORES
from pipeline.scoring.terminal import pictures
from pipeline.storage import tables
from pipeline.storage.committing import renew
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import __main__ as verify

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
        ("well-known", "well known"),
        ("two/one two,one two\u2014one two_one two|one", "two one " * 4 + "two one"),
        ("\u2018two\u2019 one, 'three'", "two one three"),
        ("the dogs' bowl, rock 'n' roll, 'tis", "the dogs bowl rock n roll tis"),
        ("don\u00b4t don`t don\u2018t don\uff07t don\u02b9t", " ".join(["don't"] * 5)),
        ("l\u2019e\u0301te\u0301, \u0915\u094d'\u0915", "l'\u00e9t\u00e9 \u0915\u094d'\u0915"),
        ("5'4 it''s", "5 4 it s"),
        (
            "\u1f00\u03bb\u03bb\u1fbd \u1f10\u03b3\u03ce \u05d2\u05f3\u05d5\u05e8\u05d2",
            "\u1f00\u03bb\u03bb \u1f10\u03b3\u03ce \u05d2'\u05d5\u05e8\u05d2",
        ),  # Greek, Hebrew
        ("one \u00a8 two\u02d8three\u00b8", "one two three"),  # accents without a letter are no words
        ("ze\u200bro so\u00adft \ufeffone\u2060 \u202atwo\u202c", "zero soft one two"),
        ("\u2764\ufe0f love 1\ufe0f\u20e3 two\x00three", "love 1 two three"),
        ("\ufb01ve \uff12", "five 2"),  # the ligature fi and a full-width digit
        ("Stra\u00dfe \u00c9cole", "stra\u00dfe \u00e9cole"),
        ("e\u0301", "\u00e9"),
        ("a\u00a0b\u2003c", "a b c"),
        ("$5 + 3 \u00b0 \u266a", "5 3"),
        ("...", ""),
        ("", ""),
    ],
)
def test_text_is_compared_by_its_words_alone(text: str, expected: str) -> None:
    assert standard(text) == expected


@settings(deadline=None)
@given(st.text() | st.text("aB\u0301\u03a3" + APOSTROPHES + "\u200b-_ "))
def test_a_normalised_text_has_words_alone_and_stays_as_it_is(text: str) -> None:
    result = standard(text)
    assert result == " ".join(result.split()) == standard(result)
    assert not any(unicodedata.category(char)[0] in "PS" for char in result if char != "'")
    assert not any(unicodedata.category(char) in ("Cf", "Cc") for char in result)
    assert not {f" {result} "[at : at + 2] for at in range(len(result) + 1)} & {" '", "' "}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("standard", "mr smith's colour twenty one i'm gonna go uh"),
        ("whisper_english", "mister smith is color 21 i am going to go"),
        ("none", "Mr. Smith's colour, twenty-one: I'm gonna go, uh."),
    ],
)
def test_a_normaliser_is_chosen_by_name(name: str, expected: str) -> None:
    assert normaliser(name)(" Mr. Smith's  colour, twenty-one: I'm gonna go, uh.") == expected


def test_the_guide_shows_what_the_normalisers_do() -> None:
    lines = (ROOT / "docs" / "scores.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| text | `standard` | `whisper_english` |") + 2
    rows = [
        line.strip("| ").split(" | ") for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    ]
    assert len(rows) > 6
    for text, plain, english in rows:
        assert (standard(text[1:-1]), normaliser("whisper_english")(text[1:-1])) == (plain[1:-1], english[1:-1])


def test_every_normaliser_has_a_description() -> None:
    assert tuple(DESCRIPTIONS) == tuple(RULES["score.normaliser"].names)


def test_a_normaliser_whose_package_is_missing_is_refused_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"score.normaliser=whisper_english: .* pip install whisper-normalizer"):
        normaliser("whisper_english")


@settings(deadline=None)
@given(WORDS | st.text("ab' ,", max_size=12), WORDS | st.text("ab' ,", max_size=12))
def test_errors_are_the_edit_distances_of_the_slow_reference(hypothesis: str, reference: str) -> None:
    errors = count_errors(hypothesis, reference)
    left, right = standard(hypothesis), standard(reference)
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


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), max_size=5))
def test_an_alignment_has_the_counts_of_jiwer_and_adds_up(pairs: list[tuple[str, str]]) -> None:
    found = align([hypothesis for hypothesis, _ in pairs], [reference for _, reference in pairs])
    assert len(found) == len(pairs)
    for each, (hypothesis, reference) in zip(found, pairs, strict=True):
        expected = jiwer.process_words(reference, hypothesis)
        counts = (each.hits, each.substitutions, each.deletions, each.insertions)
        assert counts == (expected.hits, expected.substitutions, expected.deletions, expected.insertions)
        assert each.hits + each.substitutions + each.deletions == len(reference.split())
        assert each.hits + each.substitutions + each.insertions == len(hypothesis.split())
        assert len(each.errors) == edit_distance(hypothesis.split(), reference.split())


def test_an_alignment_names_each_wrong_word() -> None:
    (found,) = align(["one too three four"], ["one two three"])
    assert found.errors == (("substitution", "two", "too"), ("insertion", None, "four"))
    (found,) = align(["two"], ["one two"])
    assert found.errors == (("deletion", "one", None),)


def shard(rows: Sequence[tuple[str, str | None]], **own: Sequence[object] | pa.Array) -> pa.Table:
    """A transcripts table with what scoring reads, of `(text, reference)`; each utterance takes 36 seconds."""
    counted = [None if reference is None else count_errors(text, reference) for text, reference in rows]
    columns = {
        "id": [f"u{index}" for index in range(len(rows))],
        "text": [text for text, _ in rows],
        "reference": pa.array([reference for _, reference in rows], pa.string()),
        "duration_s": [36.0] * len(rows),
        **{name: pa.array([each and getattr(each, name) for each in counted], pa.int32()) for name in COUNTS},
    }
    return pa.table(
        {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in own.items()} | columns
    )


def scored(shards: Sequence[pa.Table], *by: str, normaliser_name: str = "standard") -> Scores:
    own = [field for field in shards[0].schema if field.name not in grouping._READ]
    groups = choose_groups(list(by) if by else None, own)
    return score(iter(shards), groups, normaliser_name, [field.name for field in own])


def rows_of(scores: Scores, *names: str) -> list[tuple[object, ...]]:
    return [tuple(row[name] for name in ("group", "value", *names)) for row in scores.table.to_pylist()]


COUNTED = ("utterances", "hits", "substitutions", "deletions", "insertions", "word_errors", "reference_words")


def test_errors_are_summed_overall_and_per_group_over_all_shards() -> None:
    shards = [
        shard(
            [("a x c", "a b c d"), ("a b", "a b"), ("q", None)], room=["rm1", "rm2", "rm1"], source=[True, False, False]
        ),
        shard([("a b c", "z")], room=["rm1"], source=[False]),
    ]
    found = scored(shards)
    assert found.table.schema.equals(SCORES)
    assert rows_of(found, *COUNTED) == [
        ("overall", None, 3, 4, 2, 1, 2, 5, 7),
        ("room", "rm1", 2, 2, 2, 1, 2, 5, 5),
        ("room", "rm2", 1, 2, 0, 0, 0, 0, 2),
        ("source", "False", 2, 2, 1, 0, 2, 3, 3),
        ("source", "True", 1, 2, 1, 1, 0, 2, 4),
    ]
    assert rows_of(found, "hours", "wer", "char_errors", "reference_chars", "cer")[0] == (
        "overall", None, pytest.approx(0.03), 5 / 7, 8, 11, 8 / 11,
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WORDS, st.none() | WORDS, st.sampled_from(["x", "y", None])), max_size=20), st.integers(1, 3))
def test_the_groups_of_a_column_add_up_to_the_whole(
    rows: list[tuple[str, str | None, str | None]], num_shards: int
) -> None:
    shards = [
        shard(
            [(text, reference) for text, reference, _ in part], room=pa.array([room for *_, room in part], pa.string())
        )
        for part in (rows[start::num_shards] for start in range(num_shards))
    ]
    found = scored(shards, "room")
    table = found.table.to_pylist()
    known = [(text, reference) for text, reference, _ in rows if reference is not None]
    if not known:
        assert table == []
        return
    overall, groups = table[0], table[1:]
    for name in (*COUNTED, "char_errors", "reference_chars"):
        assert sum(row[name] for row in groups) == overall[name]
    expected = [count_errors(*pair) for pair in known]
    assert (
        overall["word_errors"]
        == sum(each.word_errors for each in expected)
        == sum(found.confusions["count"].to_pylist())
    )
    assert overall["char_errors"] == sum(each.char_errors for each in expected)
    assert overall["utterances"] == len(known)


def test_columns_can_be_crossed_and_a_column_of_that_name_comes_first() -> None:
    rows = [("a", "a"), ("a", "b"), ("a", "a"), ("a", "b")]
    rooms = {"room": ["1", "1", "2", None], "noise": ["n", "m", "n", None]}
    found = scored([shard(rows, **rooms)], "room+noise")
    assert rows_of(found, "word_errors") == [
        ("overall", None, 2), ("room+noise", "1+m", 1), ("room+noise", "1+n", 0), ("room+noise", "2+n", 0),
        ("room+noise", "null+null", 1),
    ]  # fmt: skip
    found = scored([shard(rows, **rooms, **{"room+noise": list("abab")})], "room+noise")
    assert rows_of(found, "word_errors")[1:] == [("room+noise", "a", 0), ("room+noise", "b", 2)]


def test_no_two_crossed_values_are_the_same_group() -> None:
    columns = {"room": ["a+b", "a", None, "null", "a\\"], "noise": ["c", "b+c", "d", "d", "c"]}
    found = scored([shard([("a", "a")] * 5, **columns)], "room+noise")
    assert [value for _, value in rows_of(found)][1:] == sorted(["a\\+b+c", "a+b\\+c", "null+d", "\\null+d", "a\\\\+c"])


def test_a_column_called_overall_is_told_from_the_whole() -> None:
    found = scored([shard([("a", "a"), ("x", "a")] * 2, overall=["p", "q"] * 2)])
    assert rows_of(found, "word_errors") == [("overall", None, 2), ("meta_overall", "p", 0), ("meta_overall", "q", 2)]
    assert (
        found.table["group"].to_pylist()
        == scored([shard([("a", "a")] * 2, overall=["p", "q"])], "meta_overall").table["group"].to_pylist()
    )


def test_a_column_crossed_with_itself_is_refused() -> None:
    with pytest.raises(UserError, match=r"score.by=room\+room: crosses a column with itself"):
        scored([shard([("a", "a")], room=["1"])], "room+room")


def test_whole_numbers_are_sorted_by_size() -> None:
    found = scored([shard([("a", "a")] * 8, degrees=pa.array([100, -5, 20, None] * 2, pa.int16()))])
    assert [value for _, value in rows_of(found)] == [None, "-5", "20", "100", None]


def test_scores_tell_how_far_they_are() -> None:
    told: list[int] = []
    score([shard([("a", "a")] * 3), shard([("a", None)] * 2)], [], "standard", [], told.append)
    assert told == [3, 5]


def test_a_column_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        UserError, match=r"score.by=room\+rom: the dataset has no column 'rom'; its own columns are room"
    ):
        scored([shard([("a", "a")], room=["1"])], "room+rom")


def test_a_null_is_a_group_of_its_own_and_comes_last() -> None:
    found = scored([shard([("a", "a")] * 6, room=["rm2", None, "rm1"] * 2)])
    assert found.table["value"].to_pylist() == [None, "rm1", "rm2", None]


def test_a_group_without_reference_words_has_no_rate() -> None:
    found = scored([shard([("a b c", "...")], room=["rm1"])], "room")
    assert rows_of(found, "word_errors", "wer", "cer", "wer_low") == [
        ("overall", None, 3, None, None, None), ("room", "rm1", 3, None, None, None),
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [[], [("a", None), ("b", None)]])
def test_no_references_give_tables_without_rows(rows: list[tuple[str, str | None]]) -> None:
    found = scored([shard(rows, room=pa.array(["a"] * len(rows), pa.string()))])
    assert (found.table.num_rows, found.confusions.num_rows, found.worst) == (0, 0, ())
    assert found.table.schema.equals(SCORES)
    assert found.confusions.schema.equals(CONFUSIONS)
    assert list(pictures(found, 80)) == []


def test_a_column_that_tells_utterances_apart_is_no_group_unless_asked_for() -> None:
    count = MAX_GROUP_VALUES
    utterances = range(2 * count + 2)
    many = shard(
        [("a", "a")] * len(utterances),
        segment=[f"sg{index // 2}" for index in utterances],
        chapter=[f"ch{index % count}" for index in utterances],
    )
    assert scored([many]).table["group"].to_pylist() == ["overall", *["chapter"] * count]
    assert scored([many], "segment").table["group"].to_pylist() == ["overall", *["segment"] * (count + 1)]
    few = shard([("a", "a")] * 5, segment=list("abcde"), chapter=list("abcda"))
    assert scored([few]).table["group"].to_pylist() == ["overall", *["chapter"] * 4]


def test_columns_with_the_same_groups_make_one_group_unless_asked_for() -> None:
    rooms = ["rm1", None, "rm2", "rm1", None, "rm2"]
    sizes = pa.array([10, 20, None, 10, 20, None], pa.int16())
    other = shard([("a", "a")] * 6, room=rooms, size=sizes, mic=["a", "b", "b", "b", "a", "b"])
    assert set(scored([other]).table["group"].to_pylist()) == {"overall", "room", "mic"}
    assert set(scored([other], "size", "room").table["group"].to_pylist()) == {"overall", "size", "room"}


def test_a_dataset_names_the_columns_that_it_is_usually_scored_by() -> None:
    own = [pa.field(name, pa.string()) for name in ("channel", "room", "chapter")]
    assert [group.name for group in choose_groups(None, own, ("room", "mic"))] == ["channel", "room"]
    assert [group.name for group in choose_groups(["chapter"], own, ("room",))] == ["chapter"]


def test_a_column_that_was_dropped_does_not_come_back_with_a_later_shard() -> None:
    count = MAX_GROUP_VALUES
    first = shard([("a", "a")] * (count + 1), segment=[str(index) for index in range(count + 1)])
    second = shard([("a", "a")], segment=["0"])
    assert scored([first, second]).table["group"].to_pylist() == ["overall"]
    assert scored([second, first, second]).table["utterances"].to_pylist() == [count + 3]


def test_a_column_with_one_value_says_no_more_than_the_whole_and_is_a_group_only_if_asked_for() -> None:
    one = shard([("a", "a")] * 2, room=["rm1", "rm1"])
    assert scored([one]).table["group"].to_pylist() == ["overall"]
    assert scored([one], "room").table["group"].to_pylist() == ["overall", "room"]


def test_more_speakers_than_groups_are_still_what_is_resampled() -> None:
    count = MAX_GROUP_VALUES + 1
    rows = [("a", "a b" if index % 2 else "a") for index in range(2 * count)]
    found = scored([shard(rows, speaker=[str(index // 2) for index in range(2 * count)])])
    assert found.table["group"].to_pylist() == ["overall"]
    assert found.table.schema.metadata[b"resampled"] == b"speaker"


def test_the_speaker_is_found_in_upper_and_lower_case() -> None:
    rows = [("a", "a b" if index % 2 else "a") for index in range(20)]
    found = scored([shard(rows, Speaker=[str(index // 2) for index in range(20)])])
    assert found.table.schema.metadata[b"resampled"] == b"speaker"


def test_numbers_are_groups_too_but_not_floating_point_ones() -> None:
    columns = {"degrees": pa.array([90, 0, 90], pa.int16()), "snr": pa.array([1.0, 2.0, 3.0])}
    found = scored([shard([("a", "a")] * 3, **columns)])
    assert rows_of(found, "utterances") == [("overall", None, 3), ("degrees", "0", 1), ("degrees", "90", 2)]


@pytest.mark.parametrize("name", ["overall", "count_all", "word_errors_sum", ".hidden", "a.b", "value"])
def test_any_name_of_an_own_column_leaves_the_sums_right(name: str) -> None:
    found = scored([shard([("x", "a b")] * 3, **{name: ["x", None, "x"]})])
    shown_as = "meta_overall" if name == "overall" else name
    assert rows_of(found, "utterances", "word_errors", "reference_words") == [
        ("overall", None, 3, 6, 6), (shown_as, "x", 2, 4, 4), (shown_as, None, 1, 2, 2),
    ]  # fmt: skip


def test_confusions_are_counted_most_frequent_first_and_the_worst_utterances_kept() -> None:
    rows = [("a x", "a b"), ("x", "b"), ("a", "a b"), ("c d", "c"), ("a", "a")]
    found = scored([shard(rows)])
    assert found.confusions.to_pylist() == [
        {"kind": "substitution", "reference": "b", "hypothesis": "x", "count": 2},
        {"kind": "deletion", "reference": "b", "hypothesis": None, "count": 1},
        {"kind": "insertion", "reference": None, "hypothesis": "d", "count": 1},
    ]
    assert [(each.id, each.wer) for each in found.worst] == [("u1", 1.0), ("u3", 1.0), ("u0", 0.5), ("u2", 0.5)]


def test_of_many_utterances_the_worst_are_kept_and_of_those_as_bad_the_first() -> None:
    rows = [("x" if index % 10 == 0 else "a", "a") for index in range(100)]
    found = scored([shard(rows[:50]), shard(rows[50:])])
    assert [each.id for each in found.worst] == ["u0", "u10", "u20", "u30", "u40"]


def test_rare_confusions_are_forgotten_before_they_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "_MAX_DISTINCT", 10)
    rare = [(f"x{index}", "a") for index in range(20)]
    found = scored([shard([("b", "a")] * 5), shard(rare), shard([("b", "a")])])
    assert found.confusions["count"].to_pylist() == [6]


def test_scores_say_how_texts_were_normalised() -> None:
    rows = [("MISTER SMITH HAS TWENTY ONE", "Mr. Smith has 21.")]
    assert scored([shard(rows)]).table["word_errors"].to_pylist() == [3]
    found = scored([shard(rows)], normaliser_name="whisper_english")
    assert found.table["word_errors"].to_pylist() == [0]
    assert found.table.schema.metadata[b"normaliser"] == b"whisper_english"


@pytest.mark.parametrize("units", [30, 3 * MAX_UNITS])
def test_an_interval_covers_the_true_rate_about_as_often_as_it_says(units: int) -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for trial in range(100):
        lengths = generator.integers(5, 30, size=(units, 1))
        rates = generator.beta(2, 18, size=(units, 1))  # each speaker has a rate of his own; 0.1 in the mean
        low, high = rate_intervals(generator.binomial(lengths, rates), lengths, seed=trial)[0] or (1.0, 0.0)
        covered += low <= 0.1 <= high
    assert 86 <= covered <= 100


def test_an_interval_over_speakers_is_wider_than_over_utterances_where_speakers_differ() -> None:
    rows = [("a b c d" if speaker % 2 else "x x c d", "a b c d") for speaker in range(6) for _ in range(20)]
    speakers = [str(speaker) for speaker in range(6) for _ in range(20)]
    over_speakers = scored([shard(rows, speaker=speakers)]).table.to_pylist()
    over_utterances = scored([shard(rows, room=speakers)]).table.to_pylist()
    assert over_speakers[0]["wer_low"] < 0.1
    assert over_speakers[0]["wer_high"] > 0.4
    assert 0.2 < over_utterances[0]["wer_low"] < 0.25 < over_utterances[0]["wer_high"] < 0.3
    # Nothing varies within a speaker here, so nothing can be said.
    assert [row["wer_low"] for row in over_speakers[1:]] == [None] * 6


@pytest.mark.parametrize(("speakers", "known"), [(1, True), (2, False), (4, False), (5, True)])
def test_two_to_four_speakers_are_too_few_for_an_interval(speakers: int, known: bool) -> None:
    rows = [("a" if index % 7 else "x", "a") for index in range(60)]
    found = scored([shard(rows, speaker=[str(index % speakers) for index in range(60)])]).table.to_pylist()[0]
    assert (found["wer_low"] is not None) == known


def test_intervals_over_five_equal_speakers_cover_the_rate_mostly() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        rates = generator.beta(4, 36, size=(5, 1))
        low, high = rate_intervals(generator.binomial(100, rates), np.full((5, 1), 100), seed=trial)[0] or (1.0, 0.0)
        covered += low <= 0.1 <= high
    assert covered >= 140  # narrower than they should be with so few, which the guide says


def test_utterances_of_nobody_known_are_resampled_one_by_one() -> None:
    rows = [("a", "a"), ("x", "a")] * 20
    found = scored([shard(rows, speaker=["1"] * 2 + [None] * 38)]).table.to_pylist()[0]
    assert 0.3 < found["wer_low"] < 0.5 < found["wer_high"] < 0.7


@pytest.mark.parametrize(
    ("errors", "totals"), [([[1]], [[10]]), ([[0], [0]], [[5], [6]]), ([[1], [1]], [[0], [0]]), ([], [])]
)
def test_no_interval_is_given_where_resampling_cannot_tell(errors: list[list[int]], totals: list[list[int]]) -> None:
    shape = (len(errors), 1)
    assert rate_intervals(np.array(errors, np.int64).reshape(shape), np.array(totals, np.int64).reshape(shape)) == [
        None
    ]


def test_a_paired_difference_has_a_narrower_interval_than_two_samples() -> None:
    """Speakers differ much, and each has one to three errors more in the second run."""
    generator = np.random.default_rng(0)
    words = np.full((40, 1), 100)
    first = generator.integers(0, 80, size=(40, 1))
    second = first + generator.integers(1, 4, size=(40, 1))
    everyone = np.arange(40)
    (paired,) = speaker_intervals(second - first, words, everyone)
    (apart,) = change_intervals((first, words, everyone), (second, words, everyone))
    assert paired is not None
    assert apart is not None
    difference = (second - first).sum() / words.sum()
    assert 0 < paired[0] < difference < paired[1]
    assert apart[0] < 0 < difference < apart[1]


@pytest.mark.parametrize("speakers", [[0], [0, 0, 1, 1], []])
def test_a_change_has_no_interval_where_one_side_cannot_be_resampled(speakers: list[int]) -> None:
    many = (np.arange(20).reshape(20, 1), np.full((20, 1), 20), np.arange(20))
    few = (np.arange(len(speakers)).reshape(-1, 1), np.full((len(speakers), 1), 20), np.array(speakers, int))
    assert change_intervals(many, few) == [None]
    assert change_intervals(few, many) == [None]


def test_the_same_numbers_give_the_same_interval() -> None:
    errors = np.random.default_rng(0).integers(0, 5, (2000, 2))
    totals = np.full((2000, 2), 9)
    assert rate_intervals(errors, totals) == rate_intervals(errors, totals)


def shown(scores: Scores, width: int = 110, height: int | None = None) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        for picture in pictures(scores, width, height):
            console.print(picture)
    return capture.get()


@pytest.mark.parametrize("width", [80, 96, 140])
def test_names_and_intervals_have_room_in_any_terminal(width: int) -> None:
    rooms = ["a room with quite a long name", "rm2"]
    found = scored([shard([("x b c d e", "a b c d e"), ("a b", "a b")] * 60, room=rooms * 60)])
    table = found.table.to_pylist()
    for row in table:
        row |= {"utterances": 100_000, "hours": 1234.5, "substitutions": 123_456, "wer_low": 0.12, "wer_high": 0.127}
    big = Scores(pa.Table.from_pylist(table, found.table.schema), found.confusions, ())
    lines = shown(big, width).splitlines()
    assert max(map(len, lines)) <= width
    overall = next(line for line in lines if "overall" in line)
    assert "12.0 to 12.7" in overall
    assert any(line.lstrip().startswith("a room with") for line in lines)
    assert any(line.strip() == "room" for line in lines)


def test_long_texts_and_line_feeds_do_not_fill_the_terminal() -> None:
    long = " ".join(["word"] * 20_000)
    found = shown(
        scored([shard([("x", long), ("a", "b\n\n overall 99")] * 2, room=["y" * 3000, "x\n\n overall 99 9.9"] * 2)])
    )
    assert len(found.splitlines()) < 40
    assert "x\\n\\n overall 99 9.9" in found


def test_the_terminal_shows_rates_confusions_and_the_worst_utterances() -> None:
    found = shown(scored([shard([("a x", "a b"), ("a b", "a b")] * 2, room=["[red]1", "2\x1b[31m"] * 2)]))
    assert "overall" in found
    assert "[red]1" in found
    assert "\x1b" not in found
    assert "2\\x1b[31m" in found
    assert "b read as x (2)" in found
    assert "u0: WER 50 %" in found
    assert "NFKC" in found
    assert " 25.00 " in found


def test_without_a_terminal_tables_are_wide_and_nothing_is_cut(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert again(digits, "score.by=[speaker]", "score.normaliser=whisper_english") == 0
    lines = capsys.readouterr().out.splitlines()
    assert console().width == 110
    assert any(
        line.endswith("1000 bootstrap samples of speakers") for line in lines if line.startswith("texts compared")
    )
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)


def test_the_terminal_shows_the_worst_of_many_groups() -> None:
    rows = [("x" if index in (3, 17) else "a", "a") for index in range(30)]
    found = shown(scored([shard(rows * 2, room=[f"rm{index:02d}" for index in range(30)] * 2)]))
    assert "(12 highest of 30)" in found
    assert {"rm03", "rm17"} <= set(found.split())
    assert "rm29" not in found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "out"
    assert main(["dataset=digits", f"run_dir={run_dir}", "outputs=[transcripts]", "stages=[manifest,infer,score]"]) == 0
    return run_dir


def again(run_dir: Path, *given: str) -> int:
    stages = () if any(each.startswith("stages=") for each in given) else ("stages=[manifest,infer,score]",)
    return main(["dataset=digits", f"run_dir={run_dir}", "outputs=[transcripts]", *stages, *given])


def test_a_finished_run_is_scored_otherwise_without_running_the_model(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (digits / "run.json").stat().st_mtime_ns
    assert again(digits, "score.by=[num_digits+speaker]", "score.normaliser=none") == 0
    assert "complete already" in capsys.readouterr().out
    assert (digits / "run.json").stat().st_mtime_ns == before
    scores = pq.read_table(digits / "scores.parquet")
    assert set(scores["group"].to_pylist()) == {"overall", "num_digits+speaker"}
    assert scores.schema.metadata[b"normaliser"] == b"none"
    assert pq.read_table(digits / "confusions.parquet").num_rows > 0
    assert verify.main([str(digits)]) == 0
    again(digits, "score.by=[num_digits+speaker]", "score.normaliser=none")
    assert "scores by" not in capsys.readouterr().out


def test_the_closing_line_has_the_rate_of_the_chosen_normaliser(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert again(digits, "score.normaliser=none") == 0
        assert "WER 100.00 % (186 errors in 186 reference words, normaliser none)" in capsys.readouterr().out
    assert "normaliser: none" in (digits / "config.yaml").read_text()


@pytest.mark.parametrize("place", ["file-moved@1", "file-moved@2", "scores", "scored"])
def test_a_kill_while_scores_are_written_leaves_none_or_both_of_one_kind(digits: Path, place: str) -> None:
    assert again(digits, "score.normaliser=none") == 0
    given = ("dataset=digits", f"run_dir={digits}", "outputs=[transcripts]", "score.by=[speaker]")
    assert run(*given, cwd=digits.parent, PIPELINE_FAILPOINT=place).returncode == -signal.SIGKILL
    assert main([*given, "stages=[manifest,infer,score]"]) == 0
    opened = open_run(digits)
    assert opened.scores.word_errors[0] == opened.confusions["count"].sum() == 0
    assert verify.main([str(digits)]) == 0


def count_as_an_earlier_version(run_dir: Path) -> None:
    """Make the counts of a run those of an earlier normaliser, which found an error in each word."""
    directory = RunDirectory(run_dir)
    for shard, committed in directory.commits().items():
        (record,) = committed.records
        table = pq.read_table(run_dir / record.files["transcripts"].path)
        for name, counted in (("word_errors", "reference_words"), ("char_errors", "reference_chars")):
            table = table.set_column(table.column_names.index(name), table.schema.field(name), table[counted])
        path = directory.new_staging(shard) / "transcripts.parquet"
        with tables.open_writer(path, table.schema) as writer:
            writer.write_table(table)
        counts = {**record.counts, "word_errors": record.counts["reference_words"]}
        renew(directory, replace(record, counts=counts), "transcripts", path)
    scores = pq.read_table(run_dir / "scores.parquet")
    metadata = {key: value for key, value in scores.schema.metadata.items() if key != b"normaliser_version"}
    pq.write_table(scores.replace_schema_metadata(metadata), run_dir / "scores.parquet")


@pytest.fixture(scope="module")
def in_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "out"
    assert main([*IN_SHARDS, f"run_dir={run_dir}"]) == 0
    return run_dir


IN_SHARDS = (*SHORT, "outputs=[transcripts]", "stages=[manifest,infer,score]", "shard.hours=0.0007")


@pytest.mark.parametrize("place", ["", "renewal", "renewal-decided:1", "renamed:0", "file-moved@2"])
def test_a_run_of_an_earlier_normaliser_is_counted_and_scored_again_without_the_model(
    in_shards: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {path.name: pq.read_table(path) for path in (in_shards / "transcripts").iterdir()}
    others = {path: path.stat().st_mtime_ns for path in in_shards.glob("failures/*")}
    assert len(expected) > 2
    count_as_an_earlier_version(in_shards)
    assert not any(each.equals(pq.read_table(in_shards / "transcripts" / name)) for name, each in expected.items())
    if place:
        killed = run(*IN_SHARDS, f"run_dir={in_shards}", cwd=in_shards.parent, PIPELINE_FAILPOINT=place)
        assert killed.returncode == -signal.SIGKILL
        ids = [id_ for path in (in_shards / "transcripts").iterdir() for id_ in pq.read_table(path)["id"].to_pylist()]
        assert sorted(ids) == sorted(id_ for each in expected.values() for id_ in each["id"].to_pylist())
    capsys.readouterr()
    assert main([*IN_SHARDS, f"run_dir={in_shards}"]) == 0
    assert "complete already" in capsys.readouterr().out
    assert {path.name: pq.read_table(path) for path in (in_shards / "transcripts").iterdir()} == expected
    assert {path: path.stat().st_mtime_ns for path in in_shards.glob("failures/*")} == others
    metadata = pq.read_schema(in_shards / "scores.parquet").metadata
    assert (metadata[b"normaliser"], metadata[b"normaliser_version"]) == (b"standard", b"2")
    assert open_run(in_shards).scores.word_errors[0] == 0
    assert [path.name for path in (in_shards / ".staging").iterdir()] == ["lock"]
    assert verify.main([str(in_shards)]) == 0
    assert main([*IN_SHARDS, f"run_dir={in_shards}"]) == 0
    assert "scores by" not in capsys.readouterr().out


def test_scores_name_the_version_of_the_package_of_a_normaliser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made_after("whisper_english")["normaliser_version"] == importlib.metadata.version("whisper-normalizer")
    monkeypatch.setattr("importlib.metadata.version", _missing)
    assert made_after("whisper_english")["normaliser_version"] == ""


def _missing(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_scores_are_asked_for_by_the_channels_that_a_new_manifest_will_have(tmp_path: Path) -> None:
    given = ["dataset=digits", f"run_dir={tmp_path / 'out'}", "outputs=[transcripts]", "channels=each"]
    assert main([*given, "stages=[manifest,infer,score]", "score.by=[channel]"]) == 0
    assert set(pq.read_table(tmp_path / "out" / "scores.parquet")["group"].to_pylist()) == {"overall", "channel"}


def test_scores_asked_for_alone_where_there_are_no_references_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "calls").mkdir()
    shutil.copy(next((DATA / "fsdd").glob("*.wav")), tmp_path / "calls" / "a.wav")
    given = ["dataset=folder", f"dataset.root={tmp_path / 'calls'}", "model=digits", f"run_dir={tmp_path / 'out'}"]
    assert main([*given, "outputs=[transcripts]", "stages=[manifest,infer]"]) == 0
    assert main([*given, "stages=[score]"]) == 0
    assert "no transcript has a reference, so there is nothing to score" in capsys.readouterr().out


def test_scores_can_be_asked_for_alone(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert again(digits, "stages=[score]", "score.by=[]") == 0
    assert "\nWER 0.00 % (0 errors in 186 reference words)\ndid stages=[score] in" in capsys.readouterr().out
    assert pq.read_table(digits / "scores.parquet")["group"].to_pylist() == ["overall"]


@pytest.mark.parametrize("stages", ["[score]", "[manifest,infer,score]"])
def test_a_column_that_is_missing_is_refused_before_the_model_runs(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stages: str
) -> None:
    for run_dir in (digits, tmp_path / "new"):
        if run_dir == digits or stages != "[score]":
            assert again(run_dir, f"stages={stages}", "score.by=[rom]") == 2
            assert capsys.readouterr().err == (
                "error: score.by=rom: the dataset has no column 'rom'; its own columns are speaker, num_digits\n"
            )
    assert not (tmp_path / "new").exists()


def test_confusions_that_are_gone_are_made_again(digits: Path) -> None:
    assert again(digits) == 0
    (digits / "confusions.parquet").unlink()
    assert again(digits) == 0
    assert pq.read_schema(digits / "confusions.parquet").equals(CONFUSIONS)


def test_group_is_limited_only_where_it_was_not_asked_for() -> None:
    field = pa.field("room", pa.string())
    assert choose_groups(None, [field]) == [Group("room", ("room",), limited=True)]
    assert choose_groups(["room"], [field]) == [Group("room", ("room",))]


def test_characters_are_counted_with_their_spaces() -> None:
    assert char_errors("ab", "a b") == 1


@pytest.mark.parametrize("height", [24, 40])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_scores_and_the_last_lines_of_a_run_fit_on_a_screen(groups: int, height: int) -> None:
    pairs = [(f"a b{index} c", "a b c") for index in range(36)]
    columns = {f"column{number}": [f"value{index % 18}" for index in range(36)] for number in range(groups)}
    found = scored([shard(pairs, **columns)], *columns)
    said = shown(found, 80, height)
    last_lines = 6  # report, counts, failures, WER, results, how to read them
    assert len(said.splitlines()) + last_lines < height
    assert "overall" in said
    assert "column0 (" in said
    shown_groups = said.count(" highest of 18)")
    assert said.count("  value") >= shown_groups >= 1
    assert ("not shown: column" in said) == (shown_groups < groups)
    assert shown_groups == groups or height == 24
