"""The tiers of an annotation tool: utterances and words, of each speaker if there are several."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.export.material import UNKNOWN, Recording

UTTERANCES, WORDS = "utterances", "words"


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

    References have no tier of words.
    """
    turns = recording.turns()
    speakers = list(dict.fromkeys(turn.speaker for turn in turns))
    tiers = []
    for speaker in speakers:
        prefix = f"{speaker or UNKNOWN} - " if len(speakers) > 1 else ""
        mine = [turn for turn in turns if turn.speaker == speaker]
        utterances = tuple(Interval(turn.start_s, turn.end_s, turn.text) for turn in mine)
        tiers.append(Tier(f"{prefix}{UTTERANCES}", utterances))
        words = tuple(Interval(word.start_s, word.end_s, word.word) for turn in mine for word in turn.words)
        if words:
            tiers.append(Tier(f"{prefix}{WORDS}", words, f"{prefix}{UTTERANCES}"))
    return tiers
