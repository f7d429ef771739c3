"""What is drawn, and what an estimate from it is worth."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.sample.design import draw, fits
from pipeline.sample.estimate import Labelled, interval, rate, weighted
from pipeline.sample.estimating import estimate
from pipeline.sample.frame import Frame, GroupValue


def corpus(size: int = 4000, seed: int = 0) -> Frame:
    """Utterances of two rooms. In the second, and where the model doubts, more words are wrong."""
    generator = np.random.default_rng(seed)
    room = np.arange(size) % 2
    words = generator.integers(1, 20, size)
    rate = generator.beta(0.5, 3, size) * (0.5 + room)
    return Frame(
        ids=pa.array([f"u{index:05d}" for index in range(size)]),
        certainty=-rate + generator.normal(0, 0.1, size),
        duration_s=words * 0.4,
        words=words.astype(float),
        doubt=words * rate * generator.uniform(0.2, 0.6, size),
        labelled=np.ones(size, dtype=bool),
        errors=generator.binomial(words, np.minimum(rate, 1)),
        reference_words=words,
        groups=[GroupValue("room", str(value), np.flatnonzero(room == value)) for value in (0, 1)],
    )


def test_a_sample_lasts_as_long_as_asked_is_the_same_for_a_seed_and_has_more_of_what_is_doubtful() -> None:
    frame, everything = corpus(), np.arange(4000)
    design = draw(frame, everything, frame.codes("room"), 1200.0, seed=3)
    assert design.parts == (3, 2)
    assert design.strata == 12
    assert 1150 < frame.duration_s[design.drawn].sum() < 1250
    assert np.array_equal(draw(frame, everything, frame.codes("room"), 1200.0, seed=3).drawn, design.drawn)
    assert not np.array_equal(draw(frame, everything, frame.codes("room"), 1200.0, seed=4).drawn, design.drawn)
    share = np.bincount(design.stratum[design.drawn]) / np.bincount(design.stratum)
    doubtful, sure = share.reshape(2, 3, 2)[:, 0], share.reshape(2, 3, 2)[:, 2]
    assert (doubtful > 1.3 * sure).all()
    assert (np.bincount(design.stratum[design.drawn]) >= 2).all()


def test_a_small_sample_has_fewer_strata_and_a_large_one_is_everything() -> None:
    frame = corpus(40)
    nobody = np.zeros(40, dtype=np.int64)
    assert draw(frame, np.arange(40), nobody, 20.0, 0).parts == (1, 1)
    assert draw(frame, np.arange(40), nobody, 1e6, 0).drawn.all()
    assert draw(frame, np.arange(1), nobody[:1], 1.0, 0).drawn.all()
    assert (fits(1, 1), fits(3, 12), fits(3, 11)) == (True, True, False)


def test_the_estimate_is_right_on_average_and_its_interval_holds_the_truth_as_often_as_it_says() -> None:
    frame, everything = corpus(), np.arange(4000)
    truth = frame.errors.sum() / frame.reference_words.sum()
    held, rates = 0, []
    for seed in range(100):
        design = draw(frame, everything, frame.codes("room"), 600.0, seed)
        labelled, covered = weighted(design.stratum, design.drawn, frame.errors, frame.reference_words, design.drawn)
        assert covered.all()
        assert labelled.weight.sum() == pytest.approx(4000)
        everybody = np.ones(len(labelled.errors), dtype=bool)
        rates.append(rate(labelled, everybody))
        low, high = interval(labelled, everybody) or (1.0, 0.0)
        held += low <= truth <= high
    assert np.mean(rates) == pytest.approx(truth, rel=0.02)
    assert 88 <= held <= 99


def test_utterances_stand_for_their_stratum_and_others_for_themselves() -> None:
    """Ten utterances: four of stratum 0, two drawn, one of them not labelled, one labelled beside; five of stratum 1,
    one drawn; one that is new."""
    stratum = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, -1])
    drawn = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    has = np.array([1, 0, 1, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    errors, words = np.array([1, 9, 2, 9, 3, 9, 9, 9, 9, 9]), np.full(10, 10)
    labelled, covered = weighted(stratum, drawn, errors, words, has)
    assert labelled.weight.tolist() == [3, 1, 5]
    assert labelled.stratum.tolist() == [0, -1, 1]
    assert covered.tolist() == [True] * 9 + [False]
    assert rate(labelled, np.ones(3, dtype=bool)) == pytest.approx((3 * 1 + 2 + 5 * 3) / 90)
    assert rate(labelled, np.array([False, True, False])) == pytest.approx(0.2)
    assert rate(labelled, np.zeros(3, dtype=bool)) is None
    _, covered = weighted(stratum, drawn, errors, words, has & (stratum != 1))
    assert covered.tolist() == [True] * 4 + [False] * 6


def test_there_is_no_interval_where_nothing_varies() -> None:
    errors, words = np.array([1, 2]), np.array([10, 10])
    everybody, alone = np.ones(2, dtype=bool), np.full(2, -1)
    assert interval(Labelled(errors, words, alone, np.ones(2), np.zeros(0)), everybody) is None
    alike = Labelled(np.zeros(2, np.int64), words, np.zeros(2, np.int64), np.ones(2), np.ones(1))
    assert interval(alike, everybody) is None
    whole = Labelled(errors, words, np.zeros(2, np.int64), np.ones(2), np.zeros(1))
    assert interval(whole, everybody) is None  # the stratum is labelled whole
    low, high = interval(Labelled(errors, words, np.zeros(2, np.int64), np.ones(2), np.ones(1)), everybody) or (0, 0)
    assert (low, high) == (0.1, 0.2)


def test_next_comes_what_has_most_expected_errors_for_its_length_as_labels_have_shown() -> None:
    frame = corpus(400)
    labelled = np.arange(400) < 200
    frame = Frame(**{**vars(frame), "labelled": labelled, "errors": frame.errors * labelled})
    sample = pa.table({"id": frame.ids, "stratum": pa.array(np.zeros(400, np.int32)), "drawn": labelled})
    found = estimate(frame, sample, 60.0)
    assert found.uncovered == 0
    assert found.table["group"].to_pylist() == ["overall", "room", "room"]
    assert sum(found.next["duration_s"].to_pylist()) <= 60.0
    ids = found.next["id"].to_pylist()
    assert min(ids) >= "u00200"
    rooms = [int(id_[1:]) % 2 for id_ in ids]
    assert sum(rooms) > len(rooms) / 2
