"""Words and characters with their times, and how well the reference fits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decoding.alignment.aligner import STAR_COST, Aligner, Alignment
from pipeline.decoding.alignment.spelling import Speller
from pipeline.decoding.alignment.viterbi import best_states
from pipeline.records import Labels
from pipeline.results.arrays import log_probabilities

LABELS = Labels(("-", "|", "A", "B", "C", "<unk>"), 0, "|", frozenset({5}))
STRIDE_S = 0.5


def heard(path: str, sure: float = 9.0) -> NDArray[np.float32]:
    """Log-probabilities of a model that is sure of a path of labels; `?` is the silent label."""
    logits = np.random.default_rng(0).normal(0, 0.1, (len(path), 6)).astype(np.float32)
    logits[np.arange(len(path)), ["-|ABC?".index(label) for label in path]] += sure
    return log_probabilities(logits)


def align(path: str, reference: str | None, start_s: float = 0.0) -> Alignment | str:
    return Aligner(LABELS, STRIDE_S, Speller(LABELS), best_states)(heard(path), reference, start_s)


def test_words_and_characters_have_times_in_the_file() -> None:
    found = align("-AA-B||C-C-?-", "ab c\u00e7 \u2013", start_s=100.0)
    assert isinstance(found, Alignment)
    assert found.spelled == "AB CC"
    assert [(word.word, word.start_s, word.end_s) for word in found.words] == [
        ("ab", 100.5, 102.5),
        ("c\u00e7", 103.5, 105.0),
        ("\u2013", None, None),
    ]
    assert [(each.character, each.start_s, each.end_s) for each in found.characters] == [
        ("A", 100.5, 101.5),
        ("B", 102.0, 102.5),
        ("C", 103.5, 104.0),
        ("C", 104.5, 105.0),
    ]
    assert found.llr_per_s == 0
    assert found.reference_logprob == found.transcript_logprob


def test_a_probability_is_the_exponential_of_the_mean_log_probability() -> None:
    found = align("-A-", "a")
    assert isinstance(found, Alignment)
    assert found.words[0].probability == pytest.approx(np.exp(heard("-A-")[1, 2]), rel=1e-5)


def test_a_wrong_word_bears_the_ratio_and_the_shares_are_the_whole() -> None:
    found = align("-A-|B--|-C-", "a a c")
    assert isinstance(found, Alignment)
    first, wrong, last = (word.llr for word in found.words)
    assert wrong is not None
    assert wrong < -8
    assert (first, last) == (pytest.approx(0), pytest.approx(0))
    difference = found.reference_logprob - found.transcript_logprob
    assert difference == pytest.approx(wrong)
    assert found.worst_llr == wrong
    assert found.llr_per_s == pytest.approx(difference / (11 * STRIDE_S))


def test_the_star_costs_next_to_nothing_and_leaves_its_neighbours_their_frames() -> None:
    found = align("-AA--BCB--CC-", "a \u6771 c")
    assert isinstance(found, Alignment)
    assert found.spelled == "A * C"
    assert [(word.start_s, word.end_s) for word in found.words] == [(0.5, 1.5), (2.5, 4.0), (5.0, 6.0)]
    assert found.reference_logprob - found.transcript_logprob == pytest.approx(-3 * STAR_COST, abs=1e-4)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [(None, "no_reference"), ("", "nothing_spelled"), ("\u2013 !", "nothing_spelled"), ("aa", "too_few_frames")],
)
def test_why_there_is_no_alignment(reference: str | None, reason: str) -> None:
    assert align("AA", reference) == reason


def test_a_model_without_a_delimiter_is_aligned_in_the_same_way() -> None:
    labels = Labels(("-", "A", "B"), 0, "")
    logits = np.full((4, 3), -5, np.float32)
    logits[[0, 1, 2, 3], [1, 0, 2, 0]] = 5
    found = Aligner(labels, STRIDE_S, Speller(labels), best_states)(log_probabilities(logits), "a b", 0.0)
    assert isinstance(found, Alignment)
    assert [(word.start_s, word.end_s) for word in found.words] == [(0.0, 0.5), (1.0, 1.5)]
