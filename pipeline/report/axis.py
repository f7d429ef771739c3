"""The time axis of an utterance. Positions are per cent of the axis; labels are times in the file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.records.transcripts import Word
from pipeline.report.texts import shown


@dataclass(frozen=True)
class Span:
    """A part of the axis, in per cent of its length."""

    left: float
    width: float


@dataclass(frozen=True)
class PlacedWord:
    """A word below the time axis. Times are seconds in the file."""

    text: str
    start_s: float
    end_s: float
    probability: float
    span: Span


def span_of(start_s: float, end_s: float, first_s: float, last_s: float) -> Span:
    """Return the position of the seconds `first_s` to `last_s` on an axis from `start_s` to `end_s`."""
    scale = 100 / max(end_s - start_s, 1e-6)
    left, right = (first_s - start_s) * scale, (last_s - start_s) * scale
    return Span(round(left, 3), round(right - left, 3))


def ticks_of(start_s: float, end_s: float) -> list[tuple[str, float]]:
    """Return about six labels at round seconds of the file, each with its position in per cent."""
    rough = max(end_s - start_s, 1e-3) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(start_s / step - 1e-9)
    places = [number * step for number in range(first, math.floor(end_s / step + 1e-9) + 1)]
    clock = end_s >= 60
    return [(_clock(place, digits, clock), span_of(start_s, end_s, place, place).left) for place in places]


def place_words(words: Iterable[Word], start_s: float, end_s: float) -> list[PlacedWord]:
    """Return the words of a part of a recording, with their positions on its time axis."""
    return [
        PlacedWord(
            shown(word.word, 80), word.start_s, word.end_s, word.probability,
            span_of(start_s, end_s, word.start_s, word.end_s),
        )
        for word in words
        if word.end_s > start_s and word.start_s < end_s
    ]  # fmt: skip


def _clock(seconds: float, digits: int, clock: bool) -> str:
    """Format seconds as `3.5` or, if `clock`, as `0:43` and `1:02:03`."""
    if not clock:
        return f"{seconds:.{digits}f}"
    minutes, rest = divmod(round(seconds, digits), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:0{3 + digits if digits else 2}.{digits}f}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"
