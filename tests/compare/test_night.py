"""What a night added to a run: runs put together by hand, whose shards were committed on two days."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from make_run import Spoken, make_run

from pipeline.compare.__main__ import FAILED_IF, main
from pipeline.compare.conditions import Condition
from pipeline.compare.night import Night, parse_time, read_night, since_of
from pipeline.runtime.errors import UserError
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import encode_record
from pipeline.storage.manifest import Generation
from pipeline.storage.run_directory import RunDirectory

YESTERDAY, TODAY = "2026-11-25T23:00:00+00:00", "2026-11-26T23:00:00+00:00"
SINCE = "2026-11-26T12:00+00:00"


def spoken(id_: str, text: str, reference: str | None = "a b", room: str = "rm1", **given: Any) -> Spoken:
    words = [(word, 2 * at, 2 * at + 2, 0.9) for at, word in enumerate(text.split())]
    return Spoken(id_, words=words, reference=reference, columns={"room": room}, **given)


def made(root: Path, before: Sequence[Sequence[Spoken]], now: Sequence[Sequence[Spoken]], **given: Any) -> Path:
    """A run whose shards were committed on two days."""
    make_run(root, [*before, *now], {"room": "string"}, **{"outputs": ["transcripts"], **given})
    directory = RunDirectory(root)
    for shard, committed in directory.commits().items():
        dated = replace(committed.records[0], committed_at=YESTERDAY if shard < len(before) else TODAY)
        directory.write(directory.commit_name(shard), encode_record(dated))
    return root


def read(root: Path, *by: str) -> Night:
    return read_night(RunDirectory(root), parse_time(SINCE), list(by) or None)


def write_speeds(root: Path, *batches: tuple[str, float]) -> None:
    """Batches of 60 s of audio, each with the time at which it ended and the seconds that it took."""
    rows = [
        {"time": ended, "batch": at, "valid_s": 60, "forward_s": took, "load_s": 0, "write_s": 0, "idle_s": 0}
        for at, (ended, took) in enumerate(batches)
    ]
    (root / "logs").mkdir()
    (root / "logs" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One word in four is wrong before, one in two after; rm2 becomes worse, rm1 does not."""
    before = [
        [spoken("a1", "A B"), spoken("a2", "A B", room="rm2"), spoken("a3", "A", room="rm1")],
        [spoken("a4", "A", room="rm1")],
    ]
    now = [
        [spoken("b1", "A"), spoken("b2", "C", room="rm2"), spoken("b3", "A B"), spoken("b4", "", failed=True)],
        [spoken("b5", "A", room="rm1")],
    ]
    root = made(tmp_path_factory.mktemp("night") / "run", before, now)
    write_speeds(root, (YESTERDAY, 4.0), (YESTERDAY, 4.0), (TODAY, 6.0))
    return root


def test_the_figures_before_and_now_are_those_of_their_shards(worse: Path) -> None:
    night = read(worse, "room")
    assert (night.before.utterances, night.now.utterances, night.now.num_failures) == (4, 5, 1)
    assert night.new_failures == {"truncated": ["b4"]}
    assert night.speeds == (15.0, 10.0)
    overall, rm1, rm2 = night.drifts
    assert (overall.before, overall.now) == (4, 4)
    assert overall.rates["wer"][:2] == (0.25, 0.5)
    assert rm1.change("wer") == pytest.approx(0.0)
    assert rm2.change("wer") == 1.0
    changes = night.changes()
    assert changes["wer"] == pytest.approx(25.0)
    assert changes["failures"] == pytest.approx(20.0)
    assert changes["speed"] == pytest.approx(-100 / 3)
    assert changes["avg_logprob"] == pytest.approx(0.0)


def test_the_terminal_says_what_is_new(worse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--night", str(worse), "--since", SINCE, "--by", "room"]) == 0
    said = capsys.readouterr().out
    assert "added   5 utterances in 2 shards" in said
    assert "before  4 utterances in 2 shards" in said
    assert "failed  1 (20.00 %), before 0 (0.00 %)" in said
    assert "new kind of failure: truncated (1: b4)" in said
    assert "speed   10.0 x real time, before 15.0 (-33 %)" in said
    assert "+25.00" in said


def test_a_kind_of_failure_that_was_there_is_not_new(tmp_path: Path) -> None:
    shards = [[spoken(f"u{at}", "A"), spoken(f"v{at}", "A", failed=True)] for at in range(2)]
    assert read(made(tmp_path / "run", shards[:1], shards[1:])).new_failures == {}


def test_an_interval_tells_a_change_from_chance(tmp_path: Path) -> None:
    before = [[spoken(f"a{at:02d}", "A B" if at % 2 else "A") for at in range(60)]]
    now = [[spoken(f"b{at:02d}", "A B" if at % 2 else "C C") for at in range(60)]]
    low, high = read(made(tmp_path / "run", before, now)).drifts[0].rates["wer"][2] or (0, 0)
    assert 0 < low < 0.25 < high
    same = read(made(tmp_path / "same", before, [[replace(each, id=f"c{each.id}") for each in before[0]]]))
    low, high = same.drifts[0].rates["wer"][2] or (0, 0)
    assert low < 0 < high


def test_without_references_the_log_probability_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made(tmp_path / "run", [[spoken("a", "A", None)]], [[spoken("b", "B", None)]])
    assert main(["--night", str(root), "--since", SINCE, "--fail-if", "wer>+0.0"]) == 0
    said = capsys.readouterr().out
    assert "log-prob before" in said
    assert "WER before" not in said
    assert "wer>+0: cannot be told" in said


@pytest.mark.parametrize(("before", "said"), [(True, "committed since then"), (False, "was committed before")])
def test_one_side_alone_is_nothing_to_compare(
    before: bool, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = [[spoken("u1", "A")]]
    root = made(tmp_path / "run", shards if before else [], [] if before else shards)
    assert main(["--night", str(root), "--since", SINCE, "--fail-if", "failures>-1", "--fail-if", "speed<+1"]) == 0
    assert said in capsys.readouterr().out


def test_a_run_without_transcripts_has_failures_and_speed(tmp_path: Path) -> None:
    root = made(tmp_path / "run", [[spoken("u1", "A")]], [[spoken("u2", "A")]], outputs=["emissions"])
    night = read(root)
    assert night.drifts == []
    assert night.changes()["failures"] == 0.0
    assert night.changes()["wer"] is None


@pytest.mark.parametrize(
    ("conditions", "code"),
    [
        (["wer>+24.9"], FAILED_IF),
        (["wer>+25.1"], 0),
        (["wer<+1"], 0),
        (["speed<-20"], FAILED_IF),
        (["speed < -40"], 0),
        (["cer>+1000", "failures>+5.5"], FAILED_IF),
        (["avg_logprob<-0.05"], 0),
    ],
)
def test_a_condition_that_holds_gives_a_code_of_its_own(
    conditions: list[str], code: int, worse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word for condition in conditions for word in ("--fail-if", condition)]
    assert main(["--night", str(worse), "--since", SINCE, *given]) == code
    said = capsys.readouterr()
    assert bool(said.err) == bool(code)  # cron sends what is on stderr
    assert (said.out + said.err).count("--fail-if ") == len(conditions)


@pytest.mark.parametrize(
    "text", ["", "wer", "wer>1.0", "wer>=+1", "wer=+1", "wer>+", "wer>+1,5", "mer>+1", "wer>+1 %", "wer>+1e3", "WER>+1"]
)
def test_a_malformed_condition_is_refused_before_anything_is_read(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="must be wer, cer, avg_logprob, failures, speed, then > or <"):
        Condition.parse(text)
    assert main(["--night", "nowhere", "--since", SINCE, "--fail-if", text]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'wer>+1.0'" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--night", "run"], "needs --since"),
        (["--night", "run", "--since", "yesterday"], "--since=yesterday: must be a date or a time in ISO 8601"),
        (["--night", "run", "--since", "generation"], "--since=generation: must be a date"),
        (["--night", "run", "--since", "0001-01-01T00:00+23:00"], "must be a date"),
        (["--night", "run", "--since", SINCE], "no run there"),
        (["--night", "run", "other", "--since", SINCE], "--night takes one run"),
        (["--night", "run", "--since", SINCE, "--html"], "neither --html nor --out"),
        (["a", "b", "--since", SINCE], "need --night"),
        (["a", "b", "--fail-if", "wer>+1"], "need --night"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert list(elsewhere.iterdir()) == []


def test_a_time_without_an_offset_is_local_and_a_date_is_its_first_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert parse_time("2026-11-26").isoformat() == "2026-11-25T15:00:00+00:00"
        assert parse_time("2026-11-26T20:00").isoformat() == "2026-11-26T11:00:00+00:00"
        assert parse_time("2026-11-26T20:00+01:00").isoformat() == "2026-11-26T19:00:00+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_generation_of_the_corpus_stands_for_the_time_at_which_it_grew(tmp_path: Path) -> None:
    directory = RunDirectory(made(tmp_path / "run", [[spoken("a", "a b")]], [[spoken("b", "a b")]]))
    manifest, made_with = manifests.read(directory.manifest)
    generations = (Generation(1), Generation(1, TODAY))
    manifests.write(directory, replace(manifest, generations=generations, chain="c"), made_with)
    assert since_of(directory, "last") == since_of(directory, "2") == parse_time(TODAY)
    assert read_night(directory, since_of(directory, "last"), None).now.utterances == 1
    for wrong in ("1", "3", "0"):
        with pytest.raises(UserError, match=f"--since={wrong}: the corpus of .* has 2 generations"):
            since_of(directory, wrong)
