"""Two runs that were put together by hand: what is matched, counted, summed and shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_run import LABELS, Spoken, make_run

from pipeline.compare import emissions, matching
from pipeline.compare.__main__ import main
from pipeline.compare.comparison import better
from pipeline.compare.counts import WordTally, count
from pipeline.compare.matching import Block, Match, TranscribedRun
from pipeline.compare.output import write_tables
from pipeline.compare.schemas import COUNTS
from pipeline.runtime.errors import UserError
from pipeline.scoring import counting
from pipeline.storage.run_directory import RunDirectory

COLUMNS = {"room": "string", "speaker": "string"}


def spoken(id_: str, text: str, reference: str | None, **given: Any) -> Spoken:
    columns = {"room": given.pop("room", "rm1"), "speaker": given.pop("speaker", "s1")}
    words = [(word, 2 * at, 2 * at + 2, 0.9) for at, word in enumerate(text.split())]
    return Spoken(id_, words=words, reference=reference, columns=columns, **given)


def compared(tmp_path: Path, a: Sequence[Sequence[Spoken]], b: Sequence[Sequence[Spoken]], *options: str) -> Path:
    make_run(tmp_path / "a", a, COLUMNS, outputs=["transcripts", "emissions"])
    make_run(tmp_path / "b", b, COLUMNS, outputs=["transcripts", "emissions"])
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), *options]) == 0
    return tmp_path / "a-vs-b"


def overall(folder: Path) -> Mapping[str, Any]:
    return pq.read_table(folder / "comparison_groups.parquet").to_pylist()[0]


def test_utterances_are_matched_by_id_whatever_their_shards_and_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "BLOCK_BYTES", 1)  # a block for each shard
    ids = [f"u{number}" for number in range(12)]
    texts = {id_: f"A {'B ' * number}".strip() for number, id_ in enumerate(ids)}
    shuffled = [ids[(5 * number) % 12] for number in range(12)]
    a = [[spoken(id_, texts[id_], "a b") for id_ in ids[first : first + 5]] for first in (0, 5, 10)]
    b = [[spoken(id_, texts[id_] + " C", "a b") for id_ in shuffled[first : first + 4]] for first in (0, 4, 8)]
    rows = pd.read_parquet(compared(tmp_path, a, b) / "comparison.parquet")
    assert sorted(rows.id) == sorted(ids)
    assert (rows.text_a == rows.id.map(texts)).all()
    assert (rows.text_b == rows.text_a + " C").all()
    assert (rows.distance == 1).all()


def test_what_is_in_one_run_only_is_said_with_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = spoken("both", "A", "a")
    a = [[both, spoken("x1", "A", "a"), spoken("x2", "A", "a"), spoken("y", "A", "a", failed=True)]]
    b = [[both, spoken("x1", "", None, failed=True)], [spoken("y", "B", "b"), spoken("z", "B", "b")]]
    compared(tmp_path, a, b)
    said = capsys.readouterr().out
    assert "1 utterance in both" in said
    assert "only in A: 2 utterances, 1 of them failed in B (x1, x2)" in said
    assert "only in B: 2 utterances, 1 of them failed in A (y, z)" in said


def test_sums_and_differences_are_those_of_the_utterances_that_both_have(tmp_path: Path) -> None:
    a = [[spoken("u1", "A B", "a b"), spoken("u2", "A C", "a b", room="rm2"), spoken("lone", "C", "a")]]
    b = [[spoken("u1", "A", "a b"), spoken("u2", "A B", "a b", room="rm2")]]
    folder = compared(tmp_path, a, b, "--by", "room")
    row = overall(folder)
    assert [row[name] for name in COUNTS[:3]] == [1, 1, 4]
    assert (row["wer_a"], row["wer_b"], row["wer_difference"]) == (0.25, 0.25, 0.0)
    assert (row["better_a"], row["better_b"], row["utterances"]) == (1, 1, 2)
    assert (row["distance"], row["words_a"], row["disagreement"]) == (2, 4, 0.5)
    groups = pd.read_parquet(folder / "comparison_groups.parquet").set_index("value")
    assert groups.wer_difference["rm1"] == 0.5
    assert groups.wer_difference["rm2"] == -0.5
    words = pd.read_parquet(folder / "comparison_words.parquet")
    assert words.to_dict("records") == [{"word": "b", "only_a": 1, "only_b": 1}]


def test_the_difference_is_paired_and_resampled_over_speakers(tmp_path: Path) -> None:
    """Speakers differ much from one another, and B is worse by the same for each: a paired interval is narrow."""
    speakers = range(12)
    reference = " ".join("ab" * 5)

    def text(wrong: int) -> str:
        return " ".join(["C"] * wrong + list("AB" * 5)[wrong:])

    def made(more: int) -> list[Spoken]:
        return [
            spoken(f"{speaker:02d}-{take}", text(speaker % 6 + more), reference, speaker=f"s{speaker}")
            for speaker in speakers
            for take in range(3)
        ]

    folder = compared(tmp_path, [made(0)], [made(1)], "--by", "speaker")
    row = overall(folder)
    assert row["wer_difference"] == pytest.approx(0.1)
    assert better(row) == ""  # the same for each speaker: there is nothing to resample
    assert row["wer_difference_low"] is None
    assert pq.read_schema(folder / "comparison_groups.parquet").metadata[b"resampled"] == b'"speaker"'


def test_the_run_with_fewer_errors_is_better_where_the_interval_does_not_hold_0(tmp_path: Path) -> None:
    a = [[spoken(f"u{number:02d}", "A B", "a b", speaker=f"s{number % 8}") for number in range(40)]]
    b = [
        [
            spoken(f"u{number:02d}", "A" if number % 3 else "A B", "a b", speaker=f"s{number % 8}")
            for number in range(40)
        ]
    ]
    row = overall(compared(tmp_path, a, b))
    assert 0 < row["wer_difference_low"] < row["wer_difference"] < row["wer_difference_high"]
    assert better(row) == "A"
    (tmp_path / "other").mkdir()
    assert main([str(tmp_path / "b"), str(tmp_path / "a"), "--out", str(tmp_path / "other")]) == 0
    turned = overall(tmp_path / "other")
    assert better(turned) == "B"
    assert turned["wer_difference_low"] == pytest.approx(-row["wer_difference_high"])


def test_without_references_the_disagreement_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = [[spoken("u1", "A B C", None), spoken("u2", "A", None), spoken("u3", "", None)]]
    b = [[spoken("u1", "A C", None), spoken("u2", "A", None), spoken("u3", "B", None)]]
    folder = compared(tmp_path, a, b)
    row = overall(folder)
    assert row["wer_a"] is None
    assert row["disagreement"] == 0.5
    assert not (folder / "comparison_words.parquet").exists()
    rows = pd.read_parquet(folder / "comparison.parquet")
    assert rows.word_errors_a.isna().all()
    said = capsys.readouterr().out
    assert "differ %" in said
    assert "WER" not in said
    assert said.index("the texts differ most: u3") < said.index("the texts differ most: u1")
    assert "most: u2" not in said


def test_each_text_has_its_log_probability_under_both_emissions(tmp_path: Path) -> None:
    def certain(labels: str) -> np.ndarray[Any, Any]:
        return np.array([[20.0 * (label == LABELS.index(said)) for label in range(len(LABELS))] for said in labels])

    a = [[spoken("u1", "A B", None, emission=certain("AA|B-"), num_frames=5), spoken("u2", "A", None)]]
    b = [[spoken("u1", "A C", None, emission=certain("A|CC|"), num_frames=5), spoken("u2", "A", None)]]
    (row,) = pq.read_table(compared(tmp_path, a, b) / "comparison_logprobs.parquet").to_pylist()
    assert row["id"] == "u1"
    assert row["logprob_text_a_run_a"] == pytest.approx(0, abs=1e-3)
    assert row["logprob_text_b_run_b"] == pytest.approx(0, abs=1e-3)
    assert row["logprob_text_b_run_a"] == pytest.approx(-20, abs=0.1)  # one wrong frame, B for C
    # Two wrong frames, BB, B-, -B, B| or |B for CC.
    assert row["logprob_text_a_run_b"] == pytest.approx(-40 + math.log(5), abs=1e-3)


def test_long_utterances_are_left_out_and_a_sample_of_long_ones_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emissions, "MAX_CELLS", 10_000)  # a tenth is 20 frames times 50 letters
    lengths = [21, *[20] * 12]
    for name, text in (("a", "A"), ("b", "B")):
        made = [spoken(f"u{at:02d}", text, None, num_frames=frames) for at, frames in enumerate(lengths)]
        make_run(tmp_path / name, [made], COLUMNS, outputs=["transcripts", "emissions"])
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    ids = pq.read_table(tmp_path / "a-vs-b" / "comparison_logprobs.parquet")["id"].to_pylist()
    assert ids == [f"u{at:02d}" for at in range(1, 11)]


def test_runs_without_emissions_have_no_log_probabilities(tmp_path: Path) -> None:
    for name, text in (("a", "A"), ("b", "B")):
        make_run(tmp_path / name, [[spoken("u1", text, None)]], COLUMNS, outputs=["transcripts"])
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert sorted(path.name for path in (tmp_path / "a-vs-b").iterdir()) == [
        "comparison.parquet",
        "comparison_groups.parquet",
    ]


def table(text: str, reference: str | None, counts: Sequence[int] | None, counted: bool) -> pa.Table:
    numbers = {
        name: pa.array([None if counts is None else counts[at]], pa.int32()) for at, name in enumerate(counting.COUNTS)
    }
    return pa.table({"text": [text], "reference": pa.array([reference], pa.string()), **numbers, "counted": [counted]})


@pytest.mark.parametrize(
    ("a", "b", "expected", "others"),
    [
        # Counts of the present normaliser are those of the table, whatever they are.
        (("A B", "a b", [7, 8, 9, 10], True), ("A", "a b", [1, 8, 2, 10], True), [7, 1, 8, 9, 2, 10], 0),
        # Counts of an earlier one are made again.
        (("A B", "a b", [7, 8, 9, 10], False), ("A", "a b", [7, 8, 9, 10], False), [0, 1, 2, 0, 2, 3], 0),
        # The reference is that of the first run, also for the counts of the second.
        (("A B", "a b", [0, 2, 0, 3], True), ("A", "a", [0, 1, 0, 1], True), [0, 1, 2, 0, 2, 3], 1),
        (("A B", None, None, True), ("A", "a", [0, 1, 0, 1], True), [1, 0, 1, 2, 0, 1], 0),
        (("A B", None, None, True), ("A", None, None, True), [-1] * 6, 0),
    ],
)
def test_errors_are_counted_against_one_reference_after_the_present_normaliser(
    a: tuple[Any, ...], b: tuple[Any, ...], expected: list[int], others: int
) -> None:
    counts, _, different = count(Block(table(*a), table(*b)), WordTally())
    assert counts[0, :6].tolist() == expected
    assert counts[0, 6:].tolist() == [1, 2, 1]
    assert different == others


def test_words_are_counted_at_their_place_in_the_reference() -> None:
    tally = WordTally()
    tally.add(["one", "two", "two", "three"], ["one", "two", "three"], ["one", "two", "two", "tree"])
    assert tally.table().to_pylist() == [
        {"word": "three", "only_a": 1, "only_b": 0},
        {"word": "two", "only_a": 0, "only_b": 1},
    ]


def test_own_columns_whose_names_are_taken_get_a_prefix(tmp_path: Path) -> None:
    one = Spoken("u1", words=[("A", 0, 3, 0.9)], columns={"distance": "far", "text_a": "x"})
    for name in ("a", "b"):
        make_run(tmp_path / name, [[one]], {"distance": "string", "text_a": "string"}, outputs=["transcripts"])
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    rows = pd.read_parquet(tmp_path / "a-vs-b" / "comparison.parquet")
    assert (rows.meta_distance[0], rows.meta_text_a[0], rows.distance[0]) == ("far", "x", 0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    for name, text in (("a", "A B"), ("b", "A")):
        make_run(folder / name, [[spoken("u1", text, "a b")]], COLUMNS, outputs=["transcripts"])
    make_run(folder / "strange", [[spoken("v1", "A", "a")]], COLUMNS, outputs=["transcripts"])
    make_run(folder / "features", [[spoken("u1", "A", "a")]], COLUMNS, outputs=["emissions"])
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a"], "usage: python -m pipeline.compare RUN_A RUN_B"),
        (["a", "b", "strange"], "usage: python -m pipeline.compare RUN_A RUN_B"),
        (["a", "none"], "no run there"),
        (["a", "features"], "no transcripts are committed"),
        (["a", "strange"], "their first ids are 'u1' and 'v1'"),
        (["a", "b", "--by", "rom"], "--by=rom: the dataset has no column 'rom'"),
        (["a", "b", "--out", "a/transcripts"], "is inside the run directory"),
        (["a", "b", "--out", "b"], "is inside the run directory"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line_and_leaves_nothing(
    arguments: list[str],
    said: str,
    pair: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pair)
    before = sorted(path for path in pair.rglob("*"))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert sorted(path for path in pair.rglob("*")) == before


def test_a_damaged_table_is_one_line_that_names_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, [[spoken("u1", "A", "a")]], COLUMNS, outputs=["transcripts"])
    path = tmp_path / "b" / "transcripts" / "shard-00000.parquet"
    path.write_bytes(b"?" * path.stat().st_size)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "python -m pipeline.verify" in said


def test_texts_are_in_memory_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Arrow holds at its peak does not grow with the number of shards."""
    monkeypatch.setattr(matching, "BLOCK_BYTES", 2**18)  # two shards

    def peak(shards: int) -> int:
        made = [
            [spoken(f"{shard:03d}-{at:02d}", f"A {'BAC ' * 500}", None) for at in range(80)] for shard in range(shards)
        ]
        for name in ("a", "b"):
            make_run(tmp_path / f"{name}{shards}", made, COLUMNS, outputs=["transcripts"])
        match = Match(*(TranscribedRun.of(RunDirectory(tmp_path / f"{name}{shards}")) for name in ("a", "b")))
        pool, before = pa.proxy_memory_pool(pa.system_memory_pool()), pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            write_tables(match, None, tmp_path / f"out{shards}")
        finally:
            pa.set_memory_pool(before)
        return int(pool.max_memory())

    few, many = peak(4), peak(12)
    assert many < 1.3 * few, f"{few:,} bytes with 4 shards, {many:,} with 12"


def test_the_order_of_given_columns_is_kept(pair: Path) -> None:
    match = Match(*(TranscribedRun.of(RunDirectory(pair / name)) for name in ("a", "b")))
    comparison, _ = write_tables(match, ["speaker", "room+speaker"], pair / "out")
    assert comparison.groups["group"].to_pylist() == ["overall", "speaker", "room+speaker"]
    with pytest.raises(UserError, match="crosses a column with itself"):
        write_tables(match, ["room+room"], pair / "out")
