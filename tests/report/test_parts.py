"""What a report is made of: the choice of utterances, stretches, differences, timing, charts, pictures and clips."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import DATA

from pipeline.audio.waveforms import Extent
from pipeline.records.transcripts import Word
from pipeline.report.axis import ticks_of
from pipeline.report.charts import histogram, speed_chart
from pipeline.report.clips import Clip, Wanted, read_clips
from pipeline.report.differences import MAX_WORDS, Pair, Triple, side_by_side, three_way
from pipeline.report.pictures import MAX_LABELS, draw_emission, draw_features
from pipeline.report.selection import choose
from pipeline.report.stretches import CLIP_S, choose_stretch
from pipeline.report.timing import BINS, Timing, read_timing
from pipeline.storage.names import METRICS
from pipeline.storage.run_directory import RunDirectory

NAN = float("nan")

# Choosing


def test_ties_in_wer_are_ranked_by_avg_logprob() -> None:
    wer = np.array([0.0, 0.5, 0.5, 0.0, 1.0, 0.0])
    logprob = np.array([-0.1, -0.2, -0.9, -0.5, -0.1, -0.01])
    choice = choose(wer, logprob, 2)
    assert choice.by == "wer"
    assert {kind: list(found) for kind, found in choice.positions.items()} == {
        "worst": [4, 2], "typical": [1, 3], "best": [5, 0],
    }  # fmt: skip


def test_an_utterance_without_an_error_is_never_among_the_worst() -> None:
    wer, logprob = np.zeros(9), -np.arange(9.0)
    assert {kind: len(found) for kind, found in choose(wer, logprob, 2).positions.items()} == {"typical": 2, "best": 2}
    wer[4] = 0.5
    assert list(choose(wer, logprob, 2).positions["worst"]) == [4]


@pytest.mark.parametrize("total", [0, 1, 2, 3, 5, 7, 11, 12, 13, 200])
def test_no_utterance_is_chosen_twice_and_small_runs_show_all(total: int) -> None:
    logprob = -np.arange(total, dtype=float)
    choice = choose(np.full(total, NAN), logprob, 4)
    chosen = [int(each) for found in choice.positions.values() for each in found]
    assert len(chosen) == len({*chosen}) == min(total, 12)
    if total > 2:
        assert choice.positions["worst"][0] == total - 1
        assert choice.positions["best"][0] == 0


def test_a_few_references_do_not_decide_and_an_unknown_certainty_is_the_worst() -> None:
    wer, logprob = np.full(100, NAN), np.linspace(-1, 0, 100)
    wer[50], logprob[70] = 1.0, NAN
    choice = choose(wer, logprob, 4)
    assert choice.by == "avg_logprob"
    assert list(choice.positions["worst"][:2]) == [70, 0]


def test_of_a_long_utterance_the_uncertain_stretch_or_the_fullest_is_shown() -> None:
    words = [Word("a", float(at), at + 0.5, 0.2 if at == 90 else 0.99) for at in (1, 2, 3, 4, 90, 200)]
    first, last = choose_stretch(words, 0.0, 300.0, "worst")
    assert first <= 90 < 90.5 <= last == pytest.approx(first + CLIP_S)
    first, last = choose_stretch(words, 0.0, 300.0, "typical")
    assert first <= 1 < 4.5 <= last
    assert choose_stretch([], 10.0, 300.0, "worst") == (10.0, 30.0)
    assert choose_stretch(words, 0.0, 12.0, "best") == (0.0, 12.0)
    assert choose_stretch(words, 0.0, 205.0, "typical", longest_s=4.0)[1] <= 205.0


# Parts


def test_words_are_set_side_by_side_as_they_are_scored() -> None:
    assert side_by_side("The cat's — sat, twice.", "THE CATS SAT NOW TWICE") == [
        Pair("equal", "The", "THE"),
        Pair("substitution", "cat's", "CATS"),
        Pair("equal", "sat,", "SAT"),
        Pair("insertion", "", "NOW"),
        Pair("equal", "twice.", "TWICE"),
    ]
    assert side_by_side("(Twenty-one)", "TWENTY ONE") == [
        Pair("equal", "twenty", "TWENTY"),
        Pair("equal", "one", "ONE"),
    ]
    assert side_by_side("a b", "") == [Pair("deletion", "a", ""), Pair("deletion", "b", "")]
    assert side_by_side("", "") == []
    assert side_by_side("a " * (MAX_WORDS + 1), "a") is None


def lines_of(run_dir: Path, batches: Iterable[dict[str, object]]) -> Path:
    """The metrics of a run with these batches."""
    path = RunDirectory(run_dir).local_log(METRICS)
    path.write_text("".join(json.dumps(batch) + "\n" for batch in batches))
    return path


def timing_of(run_dir: Path, batches: Iterable[dict[str, object]]) -> Timing | None:
    lines_of(run_dir, batches)
    return read_timing(RunDirectory(run_dir))


def batch(index: int, at_s: float, **numbers: float) -> dict[str, object]:
    time = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=at_s)).isoformat()
    zeros = dict.fromkeys(("padded_s", "valid_s", "load_s", "forward_s", "write_s", "idle_s"), 0.0)
    return {"time": time, "batch": index, **zeros, **numbers}


def test_metrics_of_any_length_keep_their_sums_and_their_sessions(tmp_path: Path) -> None:
    def batches() -> Iterator[dict[str, object]]:
        for index in range(20_000):
            yield batch(index % 15_000, index, valid_s=10, forward_s=0.7, idle_s=0.3, load_s=0.1, write_s=0.1)

    path = lines_of(tmp_path, batches())
    with open(path, "a") as handle:
        handle.write('{"time": "2026-01-01T00:00:00+00:00", "batch": 1, "valid_s"')  # a crash
    timing = read_timing(RunDirectory(tmp_path))
    assert timing is not None
    assert BINS / 2 <= len(timing.audio_s) <= BINS
    assert timing.audio_s.sum() == pytest.approx(200_000)
    assert timing.wall_s == pytest.approx(20_000)
    assert timing.real_time == pytest.approx(10)
    assert [timing.model_s.sum(), timing.load_s.sum(), timing.write_s.sum(), timing.other_s.sum()] == pytest.approx(
        [14_000, 2_000, 2_000, 2_000]
    )
    assert timing.sessions == pytest.approx((0.0, 15_000.0))
    assert (timing.last - timing.first).total_seconds() == 19_999


def test_workers_that_compute_at_the_same_time_share_the_time(tmp_path: Path) -> None:
    two = [batch(n, n / 2, valid_s=10, forward_s=0.8, idle_s=0.2, worker=n % 2, workers=2) for n in range(20)]
    one = [batch(n, n, valid_s=10, forward_s=0.8, idle_s=0.2, worker=0, workers=1) for n in range(20, 25)]
    timing = timing_of(tmp_path, [*two, *one])
    assert timing is not None
    assert timing.wall_s == pytest.approx(10 + 5)
    assert timing.real_time == pytest.approx(250 / 15)
    assert timing.model_s.sum() == pytest.approx(0.8 * 15)
    assert timing.sessions == (0.0,)


def test_a_pause_is_not_work_and_odd_lines_are_passed_over(tmp_path: Path) -> None:
    odd = [batch(1, 5, valid_s=float("inf")), {"time": 3, "batch": 1}, batch(2, 9, idle_s=90_000, valid_s=1)]
    timing = timing_of(tmp_path, [batch(0, 0, forward_s=1, valid_s=5), *odd])
    assert timing is not None
    assert timing.wall_s == pytest.approx(301)
    assert timing.audio_s.sum() == pytest.approx(6)
    assert read_timing(RunDirectory(tmp_path / "none")) is None
    assert timing_of(tmp_path, []) is None


def test_charts_take_their_colours_from_the_page(tmp_path: Path) -> None:
    timing = timing_of(tmp_path, [batch(0, 0, forward_s=1, valid_s=5)])
    assert timing is not None
    drawn = [speed_chart(timing), histogram("x", "of x", np.array([1.0, 1.0]), "s"),
             histogram("y", "of y", np.geomspace(0.1, 1e4, 50), "s")]  # fmt: skip
    for svg in drawn:
        assert svg.startswith("<svg viewBox=")
        assert "var(--ink)" in svg or "var(--model)" in svg
        assert re.findall(r"(?<![(\"])#[0-9a-f]{3,8}\b", svg) == []
        assert "<text" in svg
        assert not re.search(r"<style|<metadata|<\?xml|DejaVu", svg)


def test_an_emission_of_many_labels_shows_those_that_come_up() -> None:
    logits = np.zeros((50, 500), np.float32)
    logits[:, 400], logits[10, 7] = 9.0, 12.0
    picture = draw_emission(logits)
    assert len(picture.labels) == MAX_LABELS
    assert {7, 400} <= {*picture.labels}
    assert picture.labels == tuple(sorted(picture.labels))
    assert draw_features(np.zeros((3, 1024), np.float32), 5).every == 8  # constant values are a picture too


def test_clips_say_what_is_wrong_and_a_bad_file_costs_itself_alone(tmp_path: Path) -> None:
    good, pipe, bad = tmp_path / "good.wav", tmp_path / "pipe.wav", tmp_path / "bad.wav"
    shutil.copy(DATA / "fsdd" / "0_theo_0.wav", good)
    os.mkfifo(pipe)
    bad.write_bytes(b"RIFF")
    wanted = [Wanted(Extent(str(path)), 0.0, 0.2, None) for path in (good, pipe, bad, tmp_path / "none.wav")]
    clips = read_clips(wanted)
    assert isinstance(clips[0], Clip)
    assert clips[0].duration_s == pytest.approx(0.2, abs=0.001)
    assert all(isinstance(clip, str) for clip in clips[1:])
    assert "a named pipe" in str(clips[1])


@pytest.mark.parametrize(
    ("rate", "media_type", "played"), [(700_000, "audio/wav", 700_000), (2_000, "audio/flac", 4_000)]
)
def test_rates_that_flac_or_a_browser_refuses_are_played_too(
    rate: int, media_type: str, played: int, tmp_path: Path
) -> None:
    path = tmp_path / "odd.wav"
    soundfile.write(path, 3.0 * np.sin(np.arange(1_000) / 50), rate, subtype="FLOAT")
    (clip,) = read_clips([Wanted(Extent(str(path)), 0.0, 1_000 / rate, rate)])
    assert isinstance(clip, Clip)
    assert (clip.media_type, clip.sample_rate, clip.num_samples) == (media_type, rate, 1_000)
    samples, found = soundfile.read(io.BytesIO(clip.data))
    assert found == played
    assert np.abs(samples).max() == pytest.approx(1.0, abs=1e-3)  # beyond full scale it is scaled, not clipped
    assert clip.envelope.max() == pytest.approx(3.0, abs=1e-3)


def test_ticks_are_round_and_name_the_file_s_own_time() -> None:
    assert [label for label, _ in ticks_of(0.0, 2.5)] == ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]
    assert [left for _, left in ticks_of(0.0, 2.5)] == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    assert [label for label, _ in ticks_of(3_590.0, 3_610.0)] == ["59:50", "59:55", "1:00:00", "1:00:05", "1:00:10"]
    assert [label for label, _ in ticks_of(59.9, 60.1)][:3] == ["0:59.90", "0:59.95", "1:00.00"]


@pytest.mark.parametrize(
    ("reference", "a", "b", "expected"),
    [
        ("a b", "A B", "A", [Triple("a", "A", "A", False, False), Triple("b", "B", "", False, True)]),
        ("a", "X A", "A Y", [
            Triple("", "X", "", True, False), Triple("a", "A", "A", False, False), Triple("", "", "Y", False, True),
        ]),
        ("", "A B", "C", [Triple("", "A", "C", True, True), Triple("", "B", "", True, False)]),
        ("", "", "", []),
        ("a", "", "B", [Triple("a", "", "B", True, True)]),
    ],
)  # fmt: skip
def test_three_texts_stand_word_over_word(reference: str, a: str, b: str, expected: list[Triple]) -> None:
    assert three_way(reference, a, b) == expected


def test_long_texts_do_not_stand_over_each_other() -> None:
    assert three_way("a", "A " * MAX_WORDS + "A", "A") is None
