"""The tiers of an annotation tool: utterances and words, of each speaker if there are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.export.material import UNKNOWN, Recording, Turn

UTTERANCES, WORDS = "utterances", "words"
_ROUNDING_S = 1e-6
"""Seconds by which the end of a segment may lie behind the start of the next, where the two touch."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time in seconds, and its text."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Tier:
    """Intervals by start. `parent` is the name of the tier of utterances that a tier of words belongs to."""

    name: str
    intervals: tuple[Interval, ...]
    parent: str | None = None


def tiers_of(recording: Recording) -> list[Tier]:
    """Return the tiers of a recording: `utterances` and `words`, or `alice - utterances` and so on for each speaker.

    Where the channels are apart, the name begins with the channel, `c2 - alice - utterances`, by which
    `python -m pipeline.import` finds the utterance. What overlaps, as segments of a list may, is in further tiers,
    `utterances 2` and so on. References have no tier of words.
    """
    turns = recording.turns()
    voices = list(dict.fromkeys((turn.channel, turn.speaker) for turn in turns))
    speakers, channels = {speaker for _, speaker in voices}, {channel for channel, _ in voices}
    tiers = []
    for channel, speaker in voices:
        names = [f"c{channel}"] if len(channels) > 1 else []
        names += [speaker or UNKNOWN] if len(speakers) > 1 and speaker not in names else []
        prefix = "".join(f"{name} - " for name in names)
        mine = [turn for turn in turns if (turn.channel, turn.speaker) == (channel, speaker)]
        for number, some in enumerate(_without_overlap(mine), start=1):
            ending = f" {number}" if number > 1 else ""
            utterances = tuple(Interval(turn.start_s, turn.end_s, turn.text) for turn in some)
            tiers.append(Tier(f"{prefix}{UTTERANCES}{ending}", utterances))
            words = tuple(Interval(word.start_s, word.end_s, word.word) for turn in some for word in turn.words)
            if words:
                tiers.append(Tier(f"{prefix}{WORDS}{ending}", words, f"{prefix}{UTTERANCES}{ending}"))
    return tiers


def _without_overlap(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Divide turns, which are sorted by start, into as few lists as possible none of which has two that overlap."""
    found: list[list[Turn]] = []
    for turn in turns:
        free = next((some for some in found if some[-1].end_s <= turn.start_s + _ROUNDING_S), None)
        if free is None:
            found.append([turn])
        else:
            free.append(turn)
    return found
