"""Subtitles: lines that fit, breaks at silences, and times that a viewer can read."""

from __future__ import annotations

import random
from itertools import pairwise

from pipeline.export.cues import BREAK_S, MAX_S, WIDTH, cues_of
from pipeline.export.material import Recording, Segment, Word


def spoken(words: list[Word], duration_s: float = 1000.0) -> Recording:
    segment = Segment("id", " ".join(word.word for word in words), 0.0, duration_s, tuple(words))
    return Recording("talk", "/talk.wav", duration_s, 16000, 1, None, True, (segment,))


def evenly(text: str, every_s: float = 0.4) -> list[Word]:
    return [Word(word, i * every_s, i * every_s + 0.3, 1.0) for i, word in enumerate(text.split())]


def test_no_line_is_wider_and_no_word_is_lost_whatever_is_said() -> None:
    chance = random.Random(7)
    for _ in range(100):
        words, now = [], 0.0
        for _ in range(chance.randrange(1, 80)):
            now += chance.choice([0.02, 0.1, 0.3, 1.5])
            length = chance.choice([0.1, 0.3, 2.0])
            words.append(Word("x" * chance.choice([1, 4, 9, 30]), now, now + length, 1.0))
            now += length
        cues = cues_of(spoken(words, now), names_speakers=True)
        assert " ".join(" ".join(cue.lines) for cue in cues) == " ".join(word.word for word in words)
        for cue in cues:
            assert len(cue.lines) in (1, 2)
            assert max(map(len, cue.lines)) <= WIDTH
            assert cue.end_s - cue.start_s <= MAX_S + 1e-9
        assert all(before.end_s < after.start_s for before, after in pairwise(cues))


def test_a_long_silence_and_the_end_of_a_sentence_end_a_subtitle() -> None:
    words = evenly("so it goes. and then")
    late = [Word(word.word, word.start_s + BREAK_S, word.end_s + BREAK_S, 1.0) for word in words[4:]]
    cues = cues_of(spoken([*words[:4], *late]), names_speakers=True)
    assert [cue.lines for cue in cues] == [("so it goes.",), ("and",), ("then",)]


def test_a_full_subtitle_ends_at_its_longest_silence_and_has_lines_of_similar_width() -> None:
    words = evenly(" ".join(["seven"] * 20), 0.32)
    moved = [Word(w.word, w.start_s + 0.3 * (i > 11), w.end_s + 0.3 * (i > 11), 1.0) for i, w in enumerate(words)]
    cues = cues_of(spoken(moved), names_speakers=True)
    assert [sum(len(line.split()) for line in cue.lines) for cue in cues] == [12, 8]
    assert cues[0].lines == (" ".join(["seven"] * 6),) * 2


def test_a_word_that_is_wider_than_a_line_is_cut() -> None:
    (cue,) = cues_of(spoken([Word("a" * 50, 0.0, 5.0, 1.0)]), names_speakers=True)
    assert cue.lines == ("a" * 42, "a" * 8)
    assert (cue.start_s, cue.end_s) == (0.0, 5.0)
