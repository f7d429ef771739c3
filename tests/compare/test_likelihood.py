"""The log-probability of a text: torch's CTC loss, and every path counted one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.compare.likelihood import Speller, forward

LABELS = ("-", "|", "A", "B")


def random_emission(frames: int, labels: int, seed: int = 0) -> NDArray[np.float64]:
    logits = np.random.default_rng(seed).normal(size=(frames, labels)) * 2
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def decoded(path: Sequence[int], blank: int) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != blank]


@pytest.mark.parametrize("blank", [0, 3])
def test_the_forward_score_is_the_ctc_loss_of_torch(blank: int) -> None:
    emission = random_emission(30, 4)
    others = [label for label in range(4) if label != blank]
    one, two, three = others
    sequences = [[one], [one, one], [one, two, three, two], [two] * 5, [three, one] * 4]
    losses = [
        torch.nn.functional.ctc_loss(
            torch.tensor(emission)[:, None], torch.tensor([each]), torch.tensor([30]), torch.tensor([len(each)]),
            blank=blank, reduction="sum",
        ).item()
        for each in sequences
    ]  # fmt: skip
    assert forward(emission, sequences, blank) == pytest.approx([-loss for loss in losses], rel=1e-9)
    assert forward(emission, [[]], blank) == pytest.approx([emission[:, blank].sum()])


def test_a_sequence_that_needs_more_frames_than_there_are_is_impossible() -> None:
    emission = random_emission(3, 4)
    assert forward(emission, [[2, 3, 2], [2, 2, 3], [2, 3, 2, 3]], 0)[1:].tolist() == [-math.inf, -math.inf]
    assert math.isfinite(forward(emission, [[2, 3, 2]], 0)[0])
    assert forward(emission[:0], [[], [2]], 0).tolist() == [0.0, -math.inf]
    assert forward(emission, [], 0).tolist() == []


@pytest.mark.parametrize("text", ["A", "A B", "AB", "", "B AA"])
def test_the_log_probability_of_a_text_is_the_sum_over_all_paths_that_are_read_as_it(text: str) -> None:
    emission = random_emission(6, 4, seed=3)
    total = 0.0
    for path in itertools.product(range(4), repeat=6):
        written = "".join(LABELS[label] for label in decoded(path, 0))
        # Two delimiters in a row between words are left out, as the class says.
        if " ".join(written.split("|")).split() == text.split() and "||" not in written:
            total += math.exp(sum(emission[frame, label] for frame, label in enumerate(path)))
    (found,) = Speller(LABELS, 0).logprobs(emission, [text])
    assert found == pytest.approx(math.log(total), rel=1e-9)


@pytest.mark.parametrize(
    ("labels", "text", "spelled"),
    [
        (("-", "|", "A", "B"), "AB", True),
        (("-", "|", "A", "B"), "ab a", True),
        (("-", "|", "a", "b"), "AB", True),
        (("-", "|", "A", "B"), "AC", False),
        (("-", "|", "A", "B"), "A-B", False),  # the blank is no letter
        (("<pad>", "<unk>", "|", "A", "B"), "AB", True),
        (("-", " ", "A", "B"), "A B", True),
        (("<s>", "\N{LOWER ONE EIGHTH BLOCK}", "a", "b"), "a b", True),
        (("-", "|", "A", "B", "AB"), "AB", False),  # as A B or as AB: several spellings
        (("-", "yes", "no"), "no yes", True),  # every label is a word
        (("-", "yes", "no"), "no maybe", False),
    ],
)
def test_a_text_has_a_log_probability_only_where_the_labels_spell_it(
    labels: tuple[str, ...], text: str, spelled: bool
) -> None:
    (found,) = Speller(labels, 0).logprobs(random_emission(20, len(labels)), [text])
    assert (found is not None) == spelled


def test_texts_of_several_lengths_do_not_change_each_other() -> None:
    emission, speller = random_emission(20, 4), Speller(LABELS, 0)
    texts = ["A", "AB BA AB", "", "C"]
    together = speller.logprobs(emission, texts)
    assert together[3] is None
    assert together == [speller.logprobs(emission, [text])[0] for text in texts]
