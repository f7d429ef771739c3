"""The account of a recording, beside one that counts every hundredth of a second."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scoring.coverage.accounting import COLLAR_S, SECONDS, Account, merged

GRID = 100
END = 12 * GRID
COLLAR = round(COLLAR_S * GRID)
STRETCHES = st.lists(
    st.tuples(st.integers(0, END + 150), st.integers(0, 400)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=5
)


def seconds(stretches: list[tuple[int, int]]) -> np.ndarray:
    return np.array(stretches, dtype=np.float64).reshape(-1, 2) / GRID


def mask(stretches: list[tuple[int, int]], collar: int = 0) -> np.ndarray:
    """Whether each hundredth of a second of the recording is in a stretch, after adding the collar."""
    found = np.zeros(END, bool)
    for first, last in stretches:
        found[max(0, first - collar) : max(0, last + collar)] = True
    return found


@settings(max_examples=150, deadline=None)
@given(STRETCHES, STRETCHES, STRETCHES, STRETCHES)
def test_every_column_is_what_counting_hundredths_of_a_second_gives(decoded, failed, words, speech) -> None:
    account = Account(END / GRID, [seconds(decoded)], [seconds(failed)], [seconds(words)], seconds(speech))
    found = account.seconds()
    d, f, w, s = (mask(each) for each in (decoded, failed, words, speech))
    text, heard = mask(words, COLLAR), mask(speech, COLLAR)
    expected = {
        "duration_s": np.ones(END, bool),
        "decoded_s": d,
        "failed_s": f & ~d,
        "left_out_s": ~d & ~f,
        "speech_s": s,
        "speech_with_text_s": s & text,
        "speech_without_text_s": s & ~text & d,
        "speech_failed_s": s & ~text & ~d & f,
        "speech_left_out_s": s & ~text & ~d & ~f,
        "text_s": w,
        "text_with_speech_s": w & heard,
        "text_without_speech_s": w & ~heard,
    }
    assert (*found,) == SECONDS
    assert found == {name: counted.sum() / GRID for name, counted in expected.items()}


def test_a_recording_that_could_not_be_searched_has_no_seconds_of_speech() -> None:
    found = Account(None, [seconds([(0, 100)])], words=[seconds([(20, 40)])]).seconds()
    assert {name for name, value in found.items() if value is not None} == {"decoded_s", "failed_s", "text_s"}
    assert (found["decoded_s"], found["text_s"]) == (1.0, 0.2)


def test_stretches_that_touch_or_overlap_are_one() -> None:
    union = merged([np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[1.0, 2.0], [3.5, 3.6], [5.0, 5.0]])], end_s=3.8)
    assert union.tolist() == [[0, 2_000_000], [3_000_000, 3_800_000]]
