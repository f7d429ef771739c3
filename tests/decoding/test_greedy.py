"""Greedy decoding against the tutorial's decoder and a slow one that walks frame by frame."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.decoding import greedy
from pipeline.inference.transcription import joined
from pipeline.models.labels import ENGLISH_LABELS
from pipeline.models.transfer import best_path
from pipeline.records import BestPath, Chunk, Emission, Labels
from pipeline.records.transcripts import Transcript, Word

LABELS = ("-", "|", "A", "B", "'")
STRIDE_S = 0.02


def decode(
    logits: Tensor,
    num_frames: list[int],
    start_s: list[float],
    labels: tuple[str, ...] = LABELS,
    blank: int = 0,
    joins: tuple[int, ...] = (),
) -> list[Transcript]:
    """Decode a padded batch, every path handed over in stretches that meet at `joins`."""
    decoder = greedy.Decoder(greedy.Options(), Labels(labels, blank, "|"), STRIDE_S)
    emissions = []
    for best, logprobs, frames, offset in zip(*best_path(logits), num_frames, start_s, strict=True):
        bounds = [0, *(join for join in joins if join < frames), frames]
        pieces = [
            Emission(Chunk(0, 0), j - i, None, {}, BestPath(best[i:j].numpy(), logprobs[i:j].numpy()))
            for i, j in itertools.pairwise(bounds)
        ]
        emissions.append(joined(pieces, offset))
    return list(decoder(emissions))


def random_logits(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spell(path: str, labels: tuple[str, ...] = LABELS) -> Tensor:
    """`(1, frames, labels)` logits whose best path is `path`, each frame with another confidence."""
    logits = torch.zeros(1, len(path), len(labels))
    for frame, label in enumerate(path):
        logits[0, frame, labels.index(label)] = 2.0 + 0.1 * frame
    return logits


def read(path: str, start_s: float = 0.0) -> Transcript:
    (transcript,) = decode(spell(path), [len(path)], [start_s])
    return transcript


def tutorial(emission: Tensor, labels: tuple[str, ...], blank: int) -> str:
    """`GreedyCTCDecoder` of torchaudio's tutorial "Speech Recognition with Wav2Vec2"."""
    indices = torch.argmax(emission, dim=-1)
    indices = torch.unique_consecutive(indices, dim=-1)
    return "".join([labels[i] for i in indices if i != blank])


def slow(emission: Tensor, labels: tuple[str, ...], blank: int, start_s: float) -> Transcript:
    """Plain Python over the runs of equal labels."""
    frames = emission.tolist()
    path, logprobs = [], []
    for logits in frames:
        best = max(range(len(logits)), key=logits.__getitem__)
        path.append(best)
        logprobs.append(-math.log(sum(math.exp(value - logits[best]) for value in logits)))
    runs = []  # (label, first frame, frame after the last)
    for label, group in itertools.groupby(enumerate(path), key=lambda item: item[1]):
        places = [frame for frame, _ in group]
        if label != blank:
            runs.append((labels[label], places[0], places[-1] + 1))
    words: list[Word] = []
    letters: list[tuple[str, int, int]] = []
    for run in [*runs, ("|", 0, 0)]:
        if run[0] != "|":
            letters.append(run)
        elif letters:
            first, last = letters[0][1], letters[-1][2]
            mean = sum(logprobs[first:last]) / (last - first)
            words.append(
                Word(
                    "".join(letter for letter, *_ in letters),
                    start_s + first * STRIDE_S,
                    start_s + last * STRIDE_S,
                    math.exp(mean),
                )
            )
            letters = []
    return Transcript(
        text=" ".join(word.word for word in words),
        ctc_text="".join(label for label, *_ in runs),
        avg_logprob=sum(logprobs) / len(logprobs) if logprobs else 0.0,
        num_frames=len(frames),
        words=tuple(words),
    )


def assert_same(left: Transcript, right: Transcript, tolerance: float = 1e-5) -> None:
    assert (left.text, left.ctc_text, left.num_frames) == (right.text, right.ctc_text, right.num_frames)
    assert left.avg_logprob == pytest.approx(right.avg_logprob, abs=tolerance)
    assert [word.word for word in left.words] == [word.word for word in right.words]
    for mine, theirs in zip(left.words, right.words, strict=True):
        assert mine.start_s == pytest.approx(theirs.start_s, abs=1e-9)
        assert mine.end_s == pytest.approx(theirs.end_s, abs=1e-9)
        assert mine.probability == pytest.approx(theirs.probability, abs=tolerance)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 4), st.floats(0, 5000))
def test_a_transcript_is_that_of_the_slow_decoder(seed: int, frames: int, blank: int, start_s: float) -> None:
    logits = random_logits(seed, 1, frames, len(LABELS))
    (transcript,) = decode(logits, [frames], [start_s], blank=blank)
    if LABELS[blank] != "|":
        assert_same(transcript, slow(logits[0], LABELS, blank, start_s))
    assert transcript.ctc_text == tutorial(logits[0], LABELS, blank)


@pytest.mark.parametrize("seed", range(5))
def test_the_label_sequence_of_the_english_model_is_the_tutorials(seed: int) -> None:
    logits = random_logits(seed, 1, 400, len(ENGLISH_LABELS), scale=1.0)
    (transcript,) = decode(logits, [400], [0.0], ENGLISH_LABELS)
    assert transcript.ctc_text == tutorial(logits[0], ENGLISH_LABELS, 0)
    assert_same(transcript, slow(logits[0], ENGLISH_LABELS, 0, 0.0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_padding_does_not_change_a_transcript(seed: int, num_frames: list[int]) -> None:
    logits = random_logits(seed, len(num_frames), max(num_frames), len(LABELS))  # the padding holds noise too
    starts = [0.5 * index for index in range(len(num_frames))]
    together = decode(logits, num_frames, starts)
    for index, (frames, start_s) in enumerate(zip(num_frames, starts, strict=True)):
        (alone,) = decode(logits[index : index + 1, :frames], [frames], [start_s])
        assert_same(together[index], alone)
        assert_same(together[index], slow(logits[index, :frames], LABELS, 0, start_s))


def test_a_label_that_runs_on_into_the_padding_ends_with_the_utterance() -> None:
    (transcript,) = decode(spell("-AAAA"), [3], [0.0])
    assert transcript.num_frames == 3
    assert (transcript.words[0].start_s, transcript.words[0].end_s) == pytest.approx((0.02, 0.06))


@pytest.mark.parametrize(
    ("path", "ctc_text", "text"),
    [
        ("A-A", "AA", "AA"),
        ("AAA", "A", "A"),
        ("AA-AAB", "AAB", "AAB"),
        ("A|B", "A|B", "A B"),
        ("A|-|B", "A||B", "A B"),
        ("|A|", "|A|", "A"),
        ("||--||A", "||A", "A"),
        ("A'B|", "A'B|", "A'B"),
        ("|", "|", ""),
        ("|-|", "||", ""),
        ("----", "", ""),
        ("", "", ""),
    ],
)
def test_double_letters_and_bars_in_odd_places(path: str, ctc_text: str, text: str) -> None:
    transcript = read(path)
    assert (transcript.ctc_text, transcript.text) == (ctc_text, text)
    assert " ".join(word.word for word in transcript.words) == text
    assert transcript.num_frames == len(path)


def test_a_word_lasts_from_its_first_letter_until_its_last_one_ends() -> None:
    words = read("-AA-B|--BBB").words
    assert [(word.word, round(word.start_s, 9), round(word.end_s, 9)) for word in words] == [
        ("AB", 0.02, 0.10),
        ("B", 0.16, 0.22),
    ]


def test_times_are_in_the_original_file() -> None:
    here, there = read("-AA|B").words, read("-AA|B", start_s=12.34).words
    for left, right in zip(here, there, strict=True):
        assert right.start_s - left.start_s == pytest.approx(12.34)
        assert right.end_s - left.end_s == pytest.approx(12.34)
        assert right.probability == left.probability


def test_the_probability_of_a_word_is_over_its_own_frames_with_the_blanks_inside() -> None:
    logits = spell("-A-B|A")
    logprobs = torch.log_softmax(logits[0].double(), dim=-1).max(dim=-1).values
    (transcript,) = decode(logits, [6], [0.0])
    assert transcript.words[0].probability == pytest.approx(float(logprobs[1:4].mean().exp()), rel=1e-5)
    assert transcript.words[1].probability == pytest.approx(float(logprobs[5].exp()), rel=1e-5)
    assert transcript.avg_logprob == pytest.approx(float(logprobs.mean()), rel=1e-5)


def test_an_empty_transcript_still_has_its_frames_and_its_probability() -> None:
    transcript = read("-----")
    assert (transcript.text, transcript.ctc_text, transcript.words) == ("", "", ())
    assert transcript.num_frames == 5
    assert -1.0 < transcript.avg_logprob < 0.0


def test_no_frames_at_all_are_an_empty_transcript() -> None:
    assert read("") == Transcript(text="", ctc_text="", avg_logprob=0.0, num_frames=0, words=())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.lists(st.integers(0, 60), max_size=4))
def test_a_path_in_stretches_is_decoded_as_one(seed: int, frames: int, joins: list[int]) -> None:
    logits = random_logits(seed, 1, frames, len(LABELS))
    (whole,) = decode(logits, [frames], [1.5])
    (joined,) = decode(logits, [frames], [1.5], joins=tuple(sorted(joins)))
    assert joined == whole


def test_large_logits_give_finite_probabilities() -> None:
    (transcript,) = decode(random_logits(0, 1, 50, len(LABELS)) * 1e6, [50], [0.0])
    assert np.isfinite(transcript.avg_logprob)
    assert all(0.0 < word.probability <= 1.0 for word in transcript.words)
